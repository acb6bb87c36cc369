"""Trains, evaluates or inspects: `python main.py --config=configs/digits.py --workdir=DIR [--mode=MODE]`."""

import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from acmix_jax.config import FIELDS, check_config, expand_path, expand_paths
from acmix_jax.errors import UserError, check_choice


class _Path(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return expand_path(argument)


CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/digits.py.", lock_config=True)
WORKDIR = flags.DEFINE(_Path(), "workdir", None, "Folder of the run; a run that is in it continues.")
MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "inspect", "benchmark_input"], "What to do.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "To evaluate or inspect: latest, best or a step.")


def main(_) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax warns of much that is as intended
    config, folder = CONFIG.value, Path(WORKDIR.value or "").absolute()
    try:  # imported late, so that a mistake in the flags is told at once
        from acmix_jax.analysis.inspection import inspect_checkpoint as inspect
        from acmix_jax.benchmark import input as benchmark_input
        from acmix_jax.devices import processes
        from acmix_jax.run import workdir
        from acmix_jax.training import evaluate
        from acmix_jax.training import loop as train

        processes.connect(config.distributed if config else None)
        if MODE.value == "train":
            train.train(config, folder)
        elif MODE.value == "benchmark_input":
            print(benchmark_input.benchmark_input(config))
        else:
            look = evaluate.evaluate_checkpoint if MODE.value == "eval" else inspect
            print(look(workdir.config_to_look_with(folder, config), folder, CHECKPOINT.value))
    except KeyboardInterrupt:  # before there was anything to save
        sys.exit(130)
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


def parse_flags(arguments: list[str]) -> list[str]:
    """Reads the flags and checks the config; a mistake in them ends the program with one line."""
    given = [argument for argument in arguments if argument.startswith("--config=")]
    try:
        files = [f"configs/{path.name}" for path in sorted((Path(__file__).parent / "configs").glob("[!_]*.py"))]
        for argument in given:
            path = expand_path(argument.partition("=")[2])
            if not Path(path.partition(":")[0]).is_file():
                check_choice("config file", path, files)
            arguments = [f"--config={path}" if other == argument else other for other in arguments]
        for argument in arguments:
            if field := re.match(r"--?(?:no)?config\.([^=]+)", argument):
                check_choice("config field", field[1], FIELDS)
        rest = flags.FLAGS(arguments)
        if (not WORKDIR.value or "://" in WORKDIR.value) and MODE.value != "benchmark_input":
            raise UserError(f"--workdir={WORKDIR.value or ''} is no folder of this machine; set --workdir=DIR")
        if CONFIG.value:
            check_config(CONFIG.value)
            expand_paths(CONFIG.value)
        elif MODE.value in ("train", "benchmark_input"):
            raise UserError("--config=FILE is missing, such as --config=configs/digits.py")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        hint = "" if given or "'config." not in str(error) else "; it needs --config=FILE before it"
        sys.exit(f"error: {' '.join(str(error).split())}{hint}")
    return rest


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
