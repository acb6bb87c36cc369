"""Figure 5 of the paper: bias of each layer to attention or to convolution, over runs with several seeds.

python -m experiments.figure5_path_bias --out=DIR RUN [RUN ...]

Each RUN is a workdir of main.py, with any model and data; its newest checkpoint is read. Runs that differ only in their
seed form one group, drawn as their mean and a band from the lowest to the highest. Besides alpha, beta and
log(alpha / beta), the size of the weighted outputs is measured on --images test images of the run's data: the logarithm
of ||alpha * attention|| / ||beta * convolution||, over the whole output of a layer, and by pixel over one photograph
(--photo, default: the first test image) for the first run of each group. Without the data this is missing. Writes
path_bias.csv (one row per layer and run), path_bias.png and path_maps.png.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from acmix_jax.analysis import alpha_beta
from acmix_jax.analysis.path_norms import PathNorms, path_norms
from acmix_jax.config import local_path, restore_config
from acmix_jax.data import classification, pipeline
from acmix_jax.data.photos import CorruptImage, Photo
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.run import workdir
from acmix_jax.tasks import create_task
from acmix_jax.weights.stored import read_trainable
from experiments import results
from experiments.seeds import apart_from_seed


class Run(NamedTuple):
    """The contents of a workdir."""

    folder: Path
    group: Any  # equal for runs that differ only in their seed
    title: str
    seed: int | str
    step: int
    layers: list[alpha_beta.Layer]
    norms: dict[str, PathNorms]  # by layer, on test images; empty if the data are missing
    maps: dict[str, PathNorms]  # by layer, on the photograph; empty if the data are missing
    photo: np.ndarray | None  # uint8 [H, W, C]


def read(folder: Path, images: int, photo: Photo | None) -> Run:
    """Reads alpha and beta of a run, and measures the norms of its paths.

    Raises:
      UserError: no run, no checkpoint or no ACmix layer in `folder`; or `photo` cannot be decoded.
    """
    facts = workdir.read_facts(folder)
    config = facts.get("config", {})
    step, variables = read_trainable(folder)
    layers = alpha_beta.read(variables["params"])
    if not layers:
        raise UserError(
            f"{folder} is a run of {facts['model']}, which has no ACmix layer; use runs of acmix_* with both paths"
        )
    group = (step, apart_from_seed(config)) if config else folder
    title = " on ".join([facts["model"], *([config["data"]["source"]] if config else [])])
    try:
        measured = _measure(config, variables, images, photo) if config else ({}, {}, None)
    except CorruptImage:
        raise
    except UserError as error:
        print(f"warning: the share of each path is not measured for {folder} ({error})", file=sys.stderr)
        measured = {}, {}, None
    return Run(folder, group, title, config.get("seed", ""), step, layers, *measured)


def _measure(config: dict[str, Any], variables: Any, count: int, photo: Photo | None):
    """Norms on test images, norms on a photograph, and the photograph as the network's input."""
    config = restore_config(config)
    config.remat = False  # path_norms cannot read intermediates through rematerialisation
    task, source = create_task(config), pipeline.open_source(config.data, "test")
    batch = next(iter(pipeline.eval_batches(source, config.data, task.change, count)))
    images = batch["image"][batch["mask"] > 0]
    shown = images[0]
    if photo:
        config.data.image_size = config.data.image_size or images.shape[1]
        photo = photo._replace(channels=images.shape[-1])
        shown = classification.change(config.data, {"image": photo}, None)["image"]
    images = task.normalise(jnp.asarray(np.concatenate([shown[None], images])))
    by_layer = path_norms(task.model, variables, images)
    maps = {name: PathNorms(*(x[:1] for x in norms)) for name, norms in by_layer.items()}
    return {name: PathNorms(*(x[1:] for x in norms)) for name, norms in by_layer.items()}, maps, shown


def _columns(run: Run) -> dict[str, np.ndarray]:
    """The numbers of a run by column, `[layers]` in order of depth; nan where there is none."""
    ratios = [run.norms[x.name].log_ratio if run.norms else math.nan for x in run.layers]
    return {
        "alpha": np.array([x.alpha for x in run.layers]),
        "beta": np.array([x.beta for x in run.layers]),
        "log_alpha_over_beta": np.array([math.nan if x.log_ratio is None else x.log_ratio for x in run.layers]),
        "log_attention_over_convolution": np.array(ratios),
    }


def table_rows(run: Run) -> Iterator[dict[str, Any]]:
    """One row for each layer of a run."""
    facts = {"run": run.folder.name, "model": run.title, "seed": run.seed, "step": run.step}
    columns = _columns(run)
    for i, layer in enumerate(run.layers):
        numbers = {name: None if math.isnan(values[i]) else f"{values[i]:.5f}" for name, values in columns.items()}
        yield facts | {"depth": i + 1, "layer": layer.name} | numbers


def draw(groups: list[list[Run]], path: Path) -> None:
    """Draws a column for each group: alpha and beta in the upper row, the two logarithms in the lower row."""
    figure = Figure(figsize=(max(4.0 * len(groups), 6), 6), layout="constrained")
    panels = figure.subplots(2, len(groups), squeeze=False, sharey="row")
    for (above, below), runs in zip(panels.T, groups, strict=True):
        columns = {name: np.stack([_columns(run)[name] for run in runs]) for name in _columns(runs[0])}  # [runs, depth]
        _line(above, columns["alpha"], "tab:blue", "alpha (self-attention)")
        _line(above, columns["beta"], "tab:orange", "beta (convolution)")
        above.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
        _line(below, columns["log_alpha_over_beta"], "tab:green", "log(alpha / beta)")
        ratio = "log(||alpha attention|| / ||beta convolution||)"
        _line(below, columns["log_attention_over_convolution"], "tab:purple", ratio)
        below.axhline(0, color="gray", linewidth=0.8)
        seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds: mean, lowest to highest"
        above.set_title(f"{runs[0].title}\nstep {runs[0].step}, {seeds}", fontsize="small")
        for axes in (above, below):
            alpha_beta.name_layers(axes, runs[0].layers)
    for axes in panels[:, 0]:
        axes.legend(fontsize="small")
    panels[0, 0].set_ylabel("learned weight of the path")
    panels[1, 0].set_ylabel("above 0: attention, below: convolution")
    figure.savefig(path, dpi=150)


def _line(axes, values, color, label):
    """Draws mean and range of `[runs, depth]` over the runs, without those that have no number at a depth."""
    values, depth = np.ma.masked_invalid(values), range(1, values.shape[1] + 1)
    mean, low, high = (x.filled(np.nan) for x in (values.mean(axis=0), values.min(axis=0), values.max(axis=0)))
    axes.plot(depth, mean, "o-", color=color, label=label, markersize=4)
    axes.fill_between(depth, low, high, color=color, alpha=0.2)


def draw_maps(runs: list[Run], path: Path) -> None:
    """Draws a row for each run: the photograph, and the logarithm of the ratio by pixel of each layer over it."""
    width = 1 + max(len(run.layers) for run in runs)
    figure = Figure(figsize=(1.5 * width, 1.9 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), width, squeeze=False)
    for row, run in zip(panels, runs, strict=True):
        row[0].imshow(run.photo, cmap="gray")
        row[0].set_title(run.title.replace(" on ", "\n"), fontsize="xx-small")
        for axes, layer in zip(row[1:], run.layers, strict=False):
            axes.imshow(run.photo.mean(axis=-1), cmap="gray", extent=(0, 1, 0, 1))
            ratio = run.maps[layer.name].log_ratio_by_pixel[0]
            shown = axes.imshow(ratio, cmap="PuOr_r", vmin=-3, vmax=3, alpha=0.7, extent=(0, 1, 0, 1))
            axes.set_title(alpha_beta.short_name(layer), fontsize="small")
        for axes in row:
            axes.set_axis_off()
    figure.colorbar(shown, ax=panels, label="log ratio; > 0: attention", shrink=0.8)
    figure.savefig(path, dpi=150)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=local_path, help="workdirs of main.py")
    parser.add_argument("--out", required=True, type=local_path, help="folder for the table and the pictures")
    parser.add_argument("--images", type=int, default=64, help="test images to measure the paths on")
    parser.add_argument("--photo", type=local_path, help="image file for the maps")
    arguments = parser.parse_args()
    if arguments.images < 1:
        raise UserError(f"--images={arguments.images} measures nothing; use at least 1")
    photo = Photo(arguments.photo.read_bytes(), str(arguments.photo)) if arguments.photo else None
    runs = [read(folder, arguments.images, photo) for folder in arguments.runs]
    arguments.out.mkdir(parents=True, exist_ok=True)
    keys = [run.group for i, run in enumerate(runs) if run.group not in [other.group for other in runs[:i]]]
    groups = [[run for run in runs if run.group == key] for key in keys]
    written = [arguments.out / "path_bias.csv", arguments.out / "path_bias.png"]
    results.write_table(written[0], (row for run in runs for row in table_rows(run)))
    draw(groups, written[1])
    if with_maps := [group[0] for group in groups if group[0].maps]:
        written.append(arguments.out / "path_maps.png")
        draw_maps(with_maps, written[2])
    trained = [workdir.environment_of(folder) for folder in arguments.runs]
    results.write_record(
        arguments.out, __doc__, "measured here", trained, trained_by=[x.get("command", "") for x in trained],
        seeds=sorted({str(run.seed) for run in runs}),
    )  # fmt: skip
    print(*written, sep="\n")


if __name__ == "__main__":
    main()
