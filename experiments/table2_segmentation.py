"""Table 2 of the paper: semantic segmentation, plain and ACmix backbones.

python -m experiments.table2_segmentation --out=runs/table2

Writes costs.csv, parameters and multiply-adds of the paper's networks (counted), and trains: table.csv and table.png
have the mean IoU of small networks on scenes of digits, 8 rows of 3 seeds.
Full scale, the paper's networks on ADE20K: --scale=ade20k --set data.dir=ADEChallengeData2016.
Smoke scale: --seeds=1 --set num_epochs=0.05. A stopped command continues when it is run again.
"""

from pathlib import Path

from acmix_jax.analysis.complexity import complexity
from acmix_jax.errors import one_line_errors
from experiments import results
from experiments.ablation import parser_of, run_table

CONFIG = "configs/scenes.py"
HEADS = {"pvt": "semantic_fpn", "swin": "upernet"}  # the paper's pairs
PAPER = ("pvt_tiny", "pvt_small", "swin_tiny", "swin_small")
SMALL = ("resnet20_stem2", "san5_stem1", "pvt_micro_patch2", "swin_micro_patch2")
SIZES = {"semantic_fpn": (512, 512), "upernet": (512, 2048)}  # at which upstream counts


def rows_of(networks: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Name and config fields of each row: a plain and an ACmix backbone with the head that the paper gives it."""
    rows = {}
    for plain in networks:
        head = HEADS.get(plain.partition("_")[0], "semantic_fpn")
        rows |= {f"{name}, {head}": {"model": name, "head": head} for name in (plain, f"acmix_{plain}")}
    return rows


def write_costs(folder: Path) -> None:
    """Writes costs.csv: parameters, also those of the auxiliary head, and multiply-adds of the paper's networks."""
    rows = []
    for name, fields in rows_of(PAPER).items():
        size = SIZES[fields["head"]]
        cost = complexity(fields["model"], size, head=fields["head"])
        params, macs = (sum(part.values()) for part in cost)
        rows.append({"row": name, "params": params, "gmacs": macs / 1e9, "image": f"{size[0]}x{size[1]}"})
        print(f"{name:32} {params:12,} parameters {macs / 1e9:9.2f} G multiply-adds at {size[0]}x{size[1]}")
    folder.mkdir(parents=True, exist_ok=True)
    results.write_table(folder / "costs.csv", rows, digits=6)


def main() -> None:
    """Runs the command line: the costs, then the accuracy."""
    parser = parser_of(__doc__, CONFIG, (), "eval_miou")
    parser.add_argument("--scale", choices=("small", "ade20k"), default="small", help="networks to train")
    arguments = parser.parse_args()
    if arguments.scale == "ade20k" and arguments.config == CONFIG:
        arguments.config = "configs/ade20k.py:{model}"
    with one_line_errors():
        write_costs(arguments.out)
    run_table(arguments, __doc__, rows_of(PAPER if arguments.scale == "ade20k" else SMALL))


if __name__ == "__main__":
    main()
