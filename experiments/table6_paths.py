"""Table 6 of the paper: attention alone, convolution alone, and ways to combine them.

python -m experiments.table6_paths --out=runs/table6 --runs=runs/ablations

Small scale, the default: acmix_swin_micro_patch2 on Fashion-MNIST, one epoch, 3 seeds; about 85 minutes of one core for
the 15 runs, half of that on two with --parallel=2. Full scale, the paper's:
--config=configs/imagenet.py:acmix_swin_tiny --set data.dir=IMAGES. Smoke scale: --config=configs/digits.py --seeds=1
--set num_epochs=0.05. A stopped command continues when it is run again.
"""

from experiments.ablation import parser_of, run_table

ROWS = {
    "attention": {"acmix.paths": "attention"},
    "convolution": {"acmix.paths": "convolution"},
    "0.5 attention + 0.5 convolution": {"acmix.combination": "fixed"},
    "alpha attention + (1 - alpha) convolution": {"acmix.combination": "convex"},
    "alpha attention + beta convolution": {},
}


def main() -> None:
    """Runs the command line."""
    run_table(parser_of(__doc__).parse_args(), __doc__, ROWS)


if __name__ == "__main__":
    main()
