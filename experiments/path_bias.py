"""The paper's figure 5 for runs of any models: how far each layer leans to attention or to convolution.

python -m experiments.path_bias --out=DIR RUN [RUN ...]

Each RUN is a workdir of main.py; its newest checkpoint is read. Writes path_bias.csv, a row for each layer, and
path_bias.png, a panel for each run.
"""

import argparse
import csv
import sys
from pathlib import Path

from absl import logging
from matplotlib.figure import Figure

from acmix_jax import workdir
from acmix_jax.analysis import alpha_beta
from acmix_jax.checkpoint import Checkpoints
from acmix_jax.errors import UserError


def read(run: Path) -> tuple[str, int, list[alpha_beta.Layer]]:
    """The model of a run, the step of its newest checkpoint, and alpha and beta of its layers.

    Raises:
      UserError: no run, no checkpoint, or no ACmix layer.
    """
    model = workdir.model_of(run)
    with Checkpoints(run / "checkpoints", best="", read_only=True) as checkpoints:
        step, variables = checkpoints.read_variables("latest")
    layers = alpha_beta.read(variables["params"])
    if not layers:
        raise UserError(f"{run} is a run of {model}, which has no ACmix layer; use runs of acmix_* with both paths")
    return model, step, layers


def write_table(found: list, path: Path) -> None:
    """A row for each layer of each run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "step", "depth", "layer", "alpha", "beta", "log_alpha_over_beta"])
        for model, step, layers in found:
            writer.writerows([model, step, i, x.name, x.alpha, x.beta, x.log_ratio] for i, x in enumerate(layers, 1))


def draw(found: list, path: Path) -> None:
    """A panel for each run, all with the same scale."""
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes, (model, step, layers) in zip(panels, found, strict=False):
        alpha_beta.draw(axes, layers)
        axes.set_title(f"{model}, step {step}", fontsize="medium")
    for axes in panels[len(found) :]:
        axes.remove()
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Reads the flags; a mistake in them ends the program with one line."""
    parser = argparse.ArgumentParser(prog="experiments.path_bias", description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="workdirs of main.py")
    parser.add_argument("--out", required=True, type=Path, help="folder for the table and the picture")
    flags = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax warns of much that is as intended
    try:
        found = [read(run) for run in flags.runs]
        flags.out.mkdir(parents=True, exist_ok=True)
        write_table(found, flags.out / "path_bias.csv")
        draw(found, flags.out / "path_bias.png")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{flags.out / 'path_bias.csv'}\n{flags.out / 'path_bias.png'}")


if __name__ == "__main__":
    main()
