"""Trains, evaluates, inspects, predicts, folds: `main.py --config=configs/digits.py --workdir=DIR [--mode=MODE]`."""

import re
import sys
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from acmix_jax.config import FIELDS, check_config, expand_path, expand_paths
from acmix_jax.errors import UserError, check_choice, one_line_errors


class _Path(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        return expand_path(argument)


CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/digits.py.", lock_config=True)
WORKDIR = flags.DEFINE(_Path(), "workdir", None, "Folder of the run; a run in it resumes.")
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "inspect", "predict", "fold", "benchmark_input"], "What to do."
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "For all modes but train: latest, best or a step.")
IMAGES = flags.DEFINE(_Path(), "images", None, "File or folder of images for --mode=predict.")
OUT = flags.DEFINE(
    _Path(), "out", None, "Folder for what --mode writes, except train; fold needs it, for others it is the workdir."
)


def main(_) -> None:
    config, folder, which = CONFIG.value, Path(WORKDIR.value or "").absolute(), CHECKPOINT.value
    with one_line_errors():
        # Imported late: these take seconds, and a mistake in the flags should show before.
        from acmix_jax.analysis.inspection import inspect_checkpoint
        from acmix_jax.benchmark.input import benchmark_input
        from acmix_jax.devices import processes
        from acmix_jax.run.workdir import config_to_look_with
        from acmix_jax.training import loop
        from acmix_jax.training.evaluate import evaluate_checkpoint
        from acmix_jax.training.predict import predict_images
        from acmix_jax.weights.stored import fold_checkpoint

        processes.connect(config.distributed if config else None)
        out = Path(OUT.value or folder).absolute()
        if MODE.value == "train":
            if jax.config.jax_compilation_cache_dir is None:  # JAX_COMPILATION_CACHE_DIR is not set
                jax.config.update("jax_compilation_cache_dir", str(folder.parent / "compilation_cache"))
            loop.train(config, folder)
        elif MODE.value == "benchmark_input":
            print(benchmark_input(config))
        elif MODE.value == "fold":
            if not OUT.value:
                raise UserError("--mode=fold writes a folder of weights; set --out=DIR")
            print(fold_checkpoint(folder, which, out))
        elif MODE.value == "eval":
            print(evaluate_checkpoint(config_to_look_with(folder, config), folder, which, out))
        else:
            config = config_to_look_with(folder, config)
            if MODE.value == "inspect":
                print(inspect_checkpoint(config, folder, which, out))
            elif not IMAGES.value:
                raise UserError("--mode=predict needs images; set --images=FILE_OR_FOLDER")
            else:
                print(predict_images(config, folder, which, Path(IMAGES.value), out))


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
                if "=" not in argument and FIELDS[field[1]].default is None:
                    raise UserError(f"{argument} needs its value behind =, such as {argument}=None")
        rest = flags.FLAGS(arguments)
        if not WORKDIR.value and MODE.value != "benchmark_input":
            raise UserError("--workdir=DIR is missing, such as --workdir=runs/digits")
        if WORKDIR.value and "://" in WORKDIR.value:
            raise UserError(f"--workdir={WORKDIR.value} is no folder of this machine; set --workdir=DIR")
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
