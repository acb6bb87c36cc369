"""Trains, evaluates or inspects: `python main.py --config=configs/digits.py --workdir=DIR [--mode=MODE]`."""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from acmix_jax.errors import UserError, check_choice

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/digits.py.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; a run that is in it continues.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "inspect"], "What to do.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "To evaluate or inspect: latest, best or a step.")


def main(_) -> None:
    """Runs the mode."""
    from acmix_jax import evaluate, preemption, train, workdir  # late: a mistake in the flags is told at once
    from acmix_jax.analysis.inspection import inspect_checkpoint

    logging.set_verbosity(logging.ERROR)  # Orbax warns of much that is as intended
    folder = Path(WORKDIR.value).absolute()
    try:
        if MODE.value == "train":
            train.train(CONFIG.value, folder)
        else:
            run = {"eval": evaluate.evaluate_checkpoint, "inspect": inspect_checkpoint}[MODE.value]
            print(run(CONFIG.value or workdir.read_config(folder), folder, CHECKPOINT.value))
    except preemption.StopRequested as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except UserError as error:
        sys.exit(f"error: {error}")


def parse_flags(arguments: list[str]) -> list[str]:
    """Reads the flags; a mistake in them ends the program with one line."""
    try:
        for path in (argument.partition("=")[2] for argument in arguments if argument.startswith("--config=")):
            if not Path(path.partition(":")[0]).is_file():
                check_choice("config file", path, [str(p) for p in sorted(Path("configs").glob("[!_]*.py"))])
        rest = flags.FLAGS(arguments)
        if not WORKDIR.value:
            raise UserError("--workdir=DIR is missing: the folder of the run")
        if MODE.value == "train" and not CONFIG.value:
            raise UserError("--config=FILE is missing, such as --config=configs/digits.py")
        return rest
    except (KeyError, AttributeError) as error:
        # ml_collections quotes its own quotes
        text = str(error.args[0]).strip("'\"").replace("\\'", "").replace("\\nDid", "; did")
        sys.exit(f"error: unknown config field {text}")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
