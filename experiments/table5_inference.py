"""Table 5 of the paper: inference speed of ACmix networks beside their plain networks.

python -m experiments.table5_inference --out=runs/table5

Images per second of each network at several batch sizes, as trained and folded (acmix_jax.fold); those of one family
and batch size are measured in turns. The best batch is the one with the most images per second among them. Writes
inference.csv and inference.png; rows that are there are not measured again.
Smoke scale: --networks=resnet14_stem1 --img-size=32 --batches=1,2 --rounds=1
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from acmix_jax import create_model, list_models
from acmix_jax.benchmark.timing import Program, compiled, device_name, in_turns
from acmix_jax.errors import UserError, check_choice
from acmix_jax.weights.fold import fold
from experiments import results

COLUMNS = ["model", "form", "img_size", "batch", "dtype", "samples_per_sec", "ms", "ms_q1", "ms_q3", "device"]
FORMS = {"plain": "tab:gray", "plain, folded": "lightgray", "ACmix": "tab:blue", "ACmix, folded": "lightblue"}


def programs(plain: str, images: jax.Array, dtype: str) -> dict[tuple[str, str], Program]:
    """Evaluation of a plain network and of its ACmix network, by model and form."""
    found = {}
    for name in (plain, f"acmix_{plain}"):
        model = create_model(name, dtype=dtype)
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
        folded = fold(variables)
        found[name, "as trained"] = compiled(model.apply, variables, images)
        if "folded" in folded:
            found[name, "folded"] = compiled(model.apply, jax.device_put(folded), images)
    return found


def _measure(plain, batch, flags, table):
    """Adds the rows of one family and batch size."""
    images = np.random.default_rng(0).normal(size=(batch, flags.img_size, flags.img_size, 3))
    times = in_turns(programs(plain, jnp.asarray(images, jnp.float32), flags.dtype), flags.rounds)
    for (name, form), values in times.items():
        if not table.having(
            model=name, form=form, batch=batch, img_size=flags.img_size, dtype=flags.dtype, device=device_name()
        ):  # else it was killed between two rows
            low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
            row = (name, form, flags.img_size, batch, flags.dtype, 1e3 * batch / middle, middle, low, high)
            table.add(*row, device_name())
            print(f"{name:20} {form:10} batch {batch:3} {1e3 * batch / middle:8.1f} images/s", flush=True)


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Images per second at batch 1 and at the best batch, a group of bars for each family."""
    families = list(dict.fromkeys(row["model"].removeprefix("acmix_") for row in rows))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, best in zip(figure.subplots(1, 2), (False, True), strict=True):
        for i, (label, color) in enumerate(FORMS.items()):
            prefix, form = ("acmix_" if "ACmix" in label else ""), ("folded" if "folded" in label else "as trained")
            for place, family in enumerate(families):
                rates = {
                    int(row["batch"]): float(row["samples_per_sec"])
                    for row in rows
                    if (row["model"], row["form"]) == (prefix + family, form)
                }
                if rates:
                    batch = max(rates, key=rates.get) if best else min(rates)
                    bar = axes.bar(place + 0.2 * i - 0.3, rates[batch], 0.19, color=color, label=label * (place == 0))
                    axes.bar_label(bar, [f"{rates[batch]:.3g}" + f"\n({batch})" * best], fontsize="x-small")
        axes.set_xticks(range(len(families)), families)
        axes.set_ylabel("images/s")
        axes.set_title("best batch size (in brackets)" if best else f"batch {min(int(row['batch']) for row in rows)}")
        axes.margins(y=0.15)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measures what is not there yet."""
    accelerator = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="gets the table and the picture")
    parser.add_argument("--batches", default="1,16,64,256" if accelerator else "1,4,16", help="joined by commas")
    parser.add_argument("--dtype", default="bfloat16" if accelerator else "float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", default="resnet50,san10,pvt_tiny,swin_tiny", help="plain names, joined by commas")
    parser.add_argument("--img-size", type=int, default=224)
    flags = parser.parse_args()
    try:
        networks = flags.networks.split(",")
        for plain in networks:
            check_choice("plain network", plain, [name for name in list_models() if not name.startswith("acmix_")])
        if not all(batch.isdigit() and int(batch) for batch in flags.batches.split(",")):
            raise UserError(f"--batches={flags.batches} are no numbers of images, such as 1,4,16")
        flags.out.mkdir(parents=True, exist_ok=True)
        table = results.Table(flags.out / "inference.csv", COLUMNS)
        here = {"img_size": flags.img_size, "dtype": flags.dtype, "device": device_name()}
        for plain in networks:
            for batch in map(int, flags.batches.split(",")):
                if not table.having(model=f"acmix_{plain}", form="folded", batch=batch, **here):
                    _measure(plain, batch, flags, table)
        draw(table.having(**here), flags.out / "inference.png")
        results.write(flags.out, __doc__, "measured here")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(flags.out / "inference.csv", flags.out / "inference.png", sep="\n")


if __name__ == "__main__":
    main()
