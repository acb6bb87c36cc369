"""Table 5 of the paper: inference speed of ACmix networks beside their plain networks.

python -m experiments.table5_inference --out=runs/table5

Images per second of each network at several batch sizes, as trained and with folded weights; the programs of one family
and batch size are measured in turns. The best batch is the one with the most images per second. Writes inference.csv
and inference.png; existing rows are not measured again.
Smoke scale: --networks=resnet14_stem1 --img-size=32 --batches=1,2 --rounds=1
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from acmix_jax import create_model
from acmix_jax.benchmark.timing import Program, compiled, device_name, in_turns, quartiles
from acmix_jax.config import local_path
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.models import parse_name
from acmix_jax.weights.fold import fold
from experiments import results
from experiments.network_speed import plain_networks

COLUMNS = ["model", "form", "img_size", "batch", "dtype", "samples_per_sec", "ms", "ms_q1", "ms_q3", "device"]
FORMS = {"plain": "tab:gray", "plain, folded": "lightgray", "ACmix": "tab:blue", "ACmix, folded": "lightblue"}


def programs(plain: str, images: jax.Array, dtype: str) -> dict[tuple[str, str], Program]:
    """Evaluation of a plain network and of its ACmix network, by model and form."""
    compiled_programs = {}
    for name in (plain, f"acmix_{plain}"):
        model = create_model(name, dtype=dtype)
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
        folded = fold(variables)
        compiled_programs[name, "as trained"] = compiled(model.apply, variables, images)
        if "folded" in folded:
            compiled_programs[name, "folded"] = compiled(model.apply, jax.device_put(folded), images)
    return compiled_programs


def _measure(plain, batch, arguments, table):
    """Adds the rows of one family and batch size."""
    size, dtype = arguments.img_size, arguments.dtype
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3))
    times = in_turns(programs(plain, jnp.asarray(images, jnp.float32), dtype), arguments.rounds)
    for (name, form), values in times.items():
        setting = {"model": name, "form": form, "img_size": size, "batch": batch, "dtype": dtype}
        setting["device"] = device_name()
        if not table.having(**setting):  # a program that was killed may have written some of them
            low, middle, high = quartiles(values)
            rate = 1e3 * batch / middle
            table.add({**setting, "samples_per_sec": rate, "ms": middle, "ms_q1": low, "ms_q3": high})
            print(f"{name:20} {form:10} batch {batch:3} {rate:8.1f} images/s", flush=True)


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draws images per second at the smallest and at the best batch, one group of bars per family."""
    families = list(dict.fromkeys(parse_name(row["model"]).plain for row in rows))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, best in zip(figure.subplots(1, 2), (False, True), strict=True):
        for i, (label, color) in enumerate(FORMS.items()):
            prefix, form = ("acmix_" if "ACmix" in label else ""), ("folded" if "folded" in label else "as trained")
            for position, family in enumerate(families):
                rates = {
                    int(row["batch"]): float(row["samples_per_sec"])
                    for row in rows
                    if (row["model"], row["form"]) == (prefix + family, form)
                }
                if rates:
                    batch = max(rates, key=rates.get) if best else min(rates)
                    bar = axes.bar(
                        position + 0.2 * i - 0.3, rates[batch], 0.19, color=color, label=label * (position == 0)
                    )
                    axes.bar_label(bar, [f"{rates[batch]:.3g}" + f"\n({batch})" * best], fontsize="x-small")
        axes.set_xticks(range(len(families)), families)
        axes.set_ylabel("images/s")
        axes.set_title("best batch size (in brackets)" if best else f"batch {min(int(row['batch']) for row in rows)}")
        axes.margins(y=0.15)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    accelerator = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=local_path, help="gets the table and the picture")
    parser.add_argument("--batches", default="1,16,64,256" if accelerator else "1,4,16", help="joined by commas")
    parser.add_argument("--dtype", default="bfloat16" if accelerator else "float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", default="resnet50,san10,pvt_tiny,swin_tiny", help="plain names, joined by commas")
    parser.add_argument("--img-size", type=int, default=224)
    arguments = parser.parse_args()
    networks = plain_networks(arguments.networks)
    if not all(batch.isdigit() and int(batch) for batch in arguments.batches.split(",")):
        raise UserError(f"--batches={arguments.batches} is not valid; use numbers of images such as 1,4,16")
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = results.Table(arguments.out / "inference.csv", COLUMNS)
    here = {"img_size": arguments.img_size, "dtype": arguments.dtype, "device": device_name()}
    for plain in networks:
        for batch in map(int, arguments.batches.split(",")):
            if not table.having(model=f"acmix_{plain}", form="folded", batch=batch, **here):
                _measure(plain, batch, arguments, table)
    draw(table.having(**here), arguments.out / "inference.png")
    results.write_record(arguments.out, __doc__, "measured here")
    print(arguments.out / "inference.csv", arguments.out / "inference.png", sep="\n")


if __name__ == "__main__":
    main()
