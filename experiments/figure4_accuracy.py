"""Figure 4 of the paper: accuracy over multiply-adds of ACmix networks, plain networks and contemporary ones.

python -m experiments.figure4_accuracy --out=runs/figure4 [RUN ...]

For ImageNet, accuracies are the ones printed in the networks' papers, and multiply-adds and parameters are counted
("derived"); networks that are not in this repository are read off the paper's figure. figure4.csv gives the origin of
each number. Each RUN is a finished workdir of main.py on any data set; its last accuracy ("measured here") is drawn in
a panel of that data set, in other colours than the papers' points. Runs that differ only in their seed are one point,
with a bar from the lowest to the highest.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from acmix_jax.analysis.complexity import PAPER, complexity
from acmix_jax.config import local_path
from acmix_jax.errors import UserError, one_line_errors
from acmix_jax.models import parse_name
from acmix_jax.run import workdir
from acmix_jax.run.metrics import read_metrics
from experiments import results
from experiments.seeds import apart_from_seed

ACCURACY = {  # top-1 on ImageNet; ACmix: README of the released code. Plain: papers and READMEs of SAN, PVT and Swin
    "ResNet": {
        "resnet26": 73.6, "resnet38": 76.0, "resnet50": 76.9,
        "acmix_resnet26": 76.1, "acmix_resnet38": 77.4, "acmix_resnet50": 77.8,
    },
    "SAN": {
        "san10": 77.1, "san15": 78.0, "san19": 78.2, "acmix_san10": 77.6, "acmix_san15": 78.4, "acmix_san19": 78.7,
    },
    "PVT": {
        "pvt_tiny": 75.1, "pvt_small": 79.8, "pvt_medium": 81.2, "pvt_large": 81.7,
        "acmix_pvt_tiny": 78.0, "acmix_pvt_small": 81.7,
    },
    "Swin": {
        "swin_tiny": 81.3,  # figure 4 has 81.2
        "swin_small": 83.0, "swin_base": 83.3, "acmix_swin_tiny": 81.9, "acmix_swin_small": 83.5,
    },
}  # fmt: skip

OTHERS = {  # billions of multiply-adds and top-1, read off the paper's figure 4 to 0.06 and 0.1
    "ResNet": {
        "SASA-ResNet": [(2.35, 75.2), (2.85, 77.0), (3.6, 77.4)], "LR-Net": [(2.6, 76.0), (4.3, 77.5)],
        "AA-ResNet": [(3.55, 75.0), (4.15, 77.9)], "BoTNet": [(3.79, 77.0)], "BoTNet-S1": [(4.27, 77.7)],
    },
    "SAN": {},
    "PVT": {"ConViT": [(1.0, 73.1), (2.0, 76.7), (4.3, 81.3)], "T2T-ViT": [(2.2, 76.5), (5.2, 81.5)]},
    "Swin": {"CvT": [(4.5, 81.6), (7.1, 82.5)], "ConT": [(3.1, 80.2), (6.4, 81.8)]},
}  # fmt: skip


def papers_rows() -> list[dict[str, Any]]:
    """One row for each point of the paper."""
    rows = []
    for family, models in ACCURACY.items():
        for name, top1 in models.items():
            cost = complexity(name)
            rows.append({
                "panel": family, "model": name, "top1": top1, "top1_origin": "its paper",
                "gmacs": round(sum(cost.macs.values()) / 1e9, 3), "gmacs_origin": "derived",
                "gmacs_paper": PAPER[name][1], "params_m": round(sum(cost.params.values()) / 1e6, 2),
                "params_paper_m": PAPER[name][0],
            })  # fmt: skip
        for name, points in OTHERS[family].items():
            for gmacs, top1 in points:
                rows.append({
                    "panel": family, "model": name, "top1": top1, "top1_origin": "paper's figure", "gmacs": gmacs,
                    "gmacs_origin": "paper's figure",
                })  # fmt: skip
    return rows


def measured_rows(folders: list[Path]) -> list[dict[str, Any]]:
    """One row for each run.

    Raises:
      UserError: a folder holds no run or an unfinished one.
    """
    rows, groups = [], []
    for folder in folders:
        facts = workdir.read_facts(folder)
        config, images = facts.get("config", {}), workdir.environment_of(folder).get("training_images", 0)
        total = max(1, round(config["num_epochs"] * images / config["batch_size"])) if config else 0
        top1 = [row["eval_top1"] for row in read_metrics(folder) if "eval_top1" in row and row["step"] >= total]
        if not top1 or not config:
            raise UserError(f"{folder} is no finished run; finish it with the command that started it, or leave it out")
        data = config["data"]
        size, channels = _GREY.get(data["source"], (data["image_size"], 3))
        fields = config["acmix"] if parse_name(facts["model"]).is_acmix else {}
        fields = {name: value for name, value in fields.items() if value is not None and not name.endswith("_form")}
        cost = complexity(facts["model"], data["image_size"] or size, facts["num_classes"], channels, **fields)
        if (group := apart_from_seed(config)) not in groups:
            groups.append(group)
        panel = " ".join(filter(None, [data["source"], Path(data["dir"]).name * (data["source"] not in _GREY)]))
        rows.append({
            "panel": panel, "point": groups.index(group) + 1, "model": facts["model"], "top1": round(top1[-1], 2),
            "top1_origin": "measured here", "gmacs": round(sum(cost.macs.values()) / 1e9, 5), "gmacs_origin": "derived",
            "params_m": round(sum(cost.params.values()) / 1e6, 3), "seed": config["seed"],
        })  # fmt: skip
    return rows


_GREY = {"digits": (8, 1), "fashion_mnist": (28, 1)}  # image size and channels of sources with a fixed size


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws a panel for each family, and one for each data set of the runs."""
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    figure = Figure(figsize=(3.6 * -(-len(panels) // 2), 7.6), layout="constrained")
    for axes, panel in zip(figure.subplots(2, -(-len(panels) // 2)).ravel(), panels, strict=False):
        points = [row for row in rows if row["panel"] == panel]
        measured = points[0]["top1_origin"] == "measured here"
        if measured:
            _draw_measured(axes, points)
        else:
            _draw_papers(axes, points)
        title = f"{panel}: measured here" if measured else f"{panel}, ImageNet: the paper's accuracy"
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("multiply-adds of an image (G)")
        axes.set_ylabel("top-1, %")
        axes.legend(fontsize="xx-small", loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)  # hides no point
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=150)


_COLORS = ("tab:green", "tab:olive", "tab:purple", "tab:brown", "tab:cyan")  # of the networks of OTHERS


def _draw_papers(axes, points):
    others = dict.fromkeys(row["model"] for row in points if row["gmacs_origin"] != "derived")
    for name, color in zip(others, _COLORS, strict=False):
        own = [(row["gmacs"], row["top1"]) for row in points if row["model"] == name]
        axes.plot(
            *zip(*own, strict=True), "x:", color=color, markersize=5, linewidth=0.8, label=f"{name} (paper's figure)"
        )
    for is_acmix, color, marker, offset in ((True, "tab:blue", "o-", (-5, 4)), (False, "tab:gray", "s-", (5, -9))):
        own = [row for row in points if row["gmacs_origin"] == "derived"]
        own = [row for row in own if parse_name(row["model"]).is_acmix == is_acmix]
        label = "ACmix" if is_acmix else "plain"
        axes.plot([row["gmacs"] for row in own], [row["top1"] for row in own], marker, color=color, label=label)
        for row in own:
            name = parse_name(row["model"]).plain
            style = {"textcoords": "offset points", "fontsize": "xx-small", "ha": "right" if is_acmix else "left"}
            axes.annotate(name, (row["gmacs"], row["top1"]), offset, **style)
    axes.margins(x=0.22, y=0.1)


def _draw_measured(axes, points):
    for point in dict.fromkeys(row["point"] for row in points):
        seeds = [row for row in points if row["point"] == point]
        values, name, gmacs = np.array([row["top1"] for row in seeds]), seeds[0]["model"], seeds[0]["gmacs"]
        color, marker = ("tab:red", "o") if parse_name(name).is_acmix else ("tab:pink", "s")
        spread = [[values.mean() - values.min()], [values.max() - values.mean()]]
        axes.errorbar(gmacs, values.mean(), yerr=spread, fmt=marker, color=color, capsize=3)
        label = f"{name} ({len(values)})"
        axes.annotate(label, (gmacs, values.mean()), (4, 3), textcoords="offset points", fontsize="xx-small")
    for label, color, marker in (("ACmix (number of seeds)", "tab:red", "o"), ("plain", "tab:pink", "s")):
        axes.plot([], [], marker, color=color, label=label)
    axes.margins(x=0.3, y=0.2)


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=local_path, help="workdirs of main.py")
    parser.add_argument("--out", required=True, type=local_path, help="gets the table and the picture")
    arguments = parser.parse_args()
    measured = measured_rows(arguments.runs)  # first: its errors should come before the counting
    rows = papers_rows() + measured
    arguments.out.mkdir(parents=True, exist_ok=True)
    results.write_table(arguments.out / "figure4.csv", rows, columns=[*rows[0], "point", "seed"], digits=None)
    draw(rows, arguments.out / "figure4.png")
    origin = "see the columns that end in _origin; parameters: derived, params_paper_m: paper"
    trained = [workdir.environment_of(folder) for folder in arguments.runs]
    results.write_record(arguments.out, __doc__, origin, trained, trained_by=[x.get("command", "") for x in trained])
    print(arguments.out / "figure4.csv", arguments.out / "figure4.png", sep="\n")


if __name__ == "__main__":
    main()
