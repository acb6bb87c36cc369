"""Compiles networks for TPUs or GPUs that are not here: does it compile, does it fit, and what the compiler estimates.

python -m experiments.compile_for --target=v5e:2x2 --models=resnet26,acmix_resnet26

Targets: slices of TPUs such as v5e:2x2, v5e:4x4 (16 chips of four hosts), v4:2x2x2, v5p:2x2x1, v6e:2x2 (pip install
"jax[tpu]"); h100, h100x8 (pip install "jax[cuda12]"); cpu, for a first try. No accelerator and no driver is needed.
Programs: the train step of the model's ImageNet recipe (configs/imagenet.py), "eval" its evaluation, "folded" the
evaluation with folded weights. --set changes fields of the recipe: --set=remat=True,acmix.attention_form=tiled;
--set=task=segmentation takes that of ADE20K (configs/ade20k.py; --img-size=512 is its own).

Each program is compiled in a process of its own, so that a compiler that aborts makes a row: status "ok", "abort: ...",
"failed: ...", or "ok without Triton products" for a GPU program that only needs a card to time Triton's products on.
Writes compile_for.csv after each program, compile_for.png and record.json; rows that are there are not compiled again.
Numbers are for one device, counted or estimated by the compiler, not measured. Its column estimate_ms lacks the time of
unknown_ops operations (loops, kernels, collectives); it is empty for GPUs, whose compiler estimates nothing.
"""

import argparse
import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from acmix_jax.benchmark import devices
from acmix_jax.benchmark.devices import Facts
from acmix_jax.config import FIELDS, check_config, local_path
from acmix_jax.data import pipeline
from acmix_jax.devices import sharding
from acmix_jax.errors import UserError, check_choice, one_line_errors
from acmix_jax.evaluators import EVALUATORS
from acmix_jax.models import parse_name
from acmix_jax.ops import choice
from acmix_jax.training.evaluate import make_predict
from acmix_jax.training.setup import set_up
from acmix_jax.weights.fold import fold
from configs import ade20k, imagenet
from experiments import results
from experiments.blank_images import blank_images

PROGRAMS = ("train", "eval", "folded")
COMMAND = [sys.executable, "-m", "experiments.compile_for"]  # of the process that compiles one program
RETRY = "--xla_gpu_enable_triton_gemm=false"
NEEDS_A_CARD = "Couldn't find output tile sizes|No supported config"  # a card would time another product there
NOTHING_TO_FOLD = "same as eval, nothing to fold"


class Job(NamedTuple):
    """A program to compile; the first columns of the table."""

    model: str
    program: str
    target: str
    batch: int  # images a device
    img_size: int
    dtype: str
    fsdp: int
    settings: str  # FIELD=VALUE,... of the config


COLUMNS = [*Job._fields, "status", "devices", "compile_s", *Facts._fields, "memory_gib", "compiler"]


def config_of(job: Job, device_count: int) -> Any:
    """The model's ImageNet recipe with the job's batch, size, type and settings; raises a UserError for a wrong one."""
    is_dense, settings = "task=segmentation" in job.settings.split(","), filter(None, job.settings.split(","))
    config = ade20k.get_config(job.model) if is_dense else imagenet.get_config(job.model)
    config.update({"dtype": job.dtype, "fsdp": job.fsdp, "batch_size": job.batch * device_count})
    config.data.update({"image_size": job.img_size, "workers": 0})
    config.data.eval_resize = 0 if is_dense else round(job.img_size * 256 / 224)
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name if name in FIELDS else f"acmix.{name}"
        check_choice("config field", name, FIELDS)
        if not equals:
            raise UserError(f"--set={setting} is not FIELD=VALUE, such as remat=True")
        try:
            with contextlib.suppress(ValueError, SyntaxError):  # else it is text
                value = ast.literal_eval(value)
            config.update_from_flattened_dict({name: value})
        except TypeError as error:
            raise UserError(f"--set={setting} is not valid; use {FIELDS[name].valid.hint}") from error
    check_config(config)
    return config


def lower(job: Job) -> jax.stages.Lowered | None:
    """The job's program before its compilation; None for the folded form of a network with nothing to fold."""
    target = devices.devices_of(job.target)
    config = config_of(job, len(target))
    images = blank_images(config.task, job.img_size, config.data.num_classes)
    run = set_up(config, target, images)
    program, variables, example = run.step, run.shapes, run.example
    if job.program != "train":
        program, variables = make_predict(run.task, EVALUATORS[config.task].keys, run.mesh), run.shapes.variables
        images = run.task.view(images, train=False)
        example = next(iter(pipeline.eval_batches(images, config.data, run.task.change, batch_size=1)))
    if job.program == "folded":
        largest = choice.LIMITS[devices.backend_of(job.target)].dense_features  # as on the target itself
        variables = fold(jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variables), largest)
        if "folded" not in variables:
            return None
        variables = sharding.with_sharding(variables, sharding.replicated(run.mesh))
    with jax.set_mesh(run.mesh):
        return program.lower(variables, sharding.batch_shapes(example, config.batch_size, run.mesh))


def compile_here(job: Job) -> dict[str, Any]:
    """Compiles in this process, which the compiler may end; returns the row."""
    try:
        lowered = lower(job)
        if lowered is None:
            return {"status": NOTHING_TO_FOLD}
        start = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
    except Exception as error:  # whatever the compiler raises
        message = " ".join(str(error).split())
        return {"status": f"failed: {message}"[:300], "fits": False if "RESOURCE_EXHAUSTED" in message else None}
    return {"status": "ok", "compile_s": seconds, **devices.facts_of(compiled, job.target)._asdict()}


def compile_apart(job: Job) -> dict[str, Any]:
    """Compiles in a process of its own; returns the row, with a status that begins with "ok" if the program is fine."""
    row = _child(job, os.environ.get("XLA_FLAGS", ""))
    if devices.backend_of(job.target) == "gpu" and re.search(NEEDS_A_CARD, row["status"]):
        again = _child(job, f"{os.environ.get('XLA_FLAGS', '')} {RETRY}".strip())
        row = again | {"status": "ok without Triton products"} if again["status"] == "ok" else row
    return row


def _child(job, flags):
    """The row of `compile_here` from a new process, or one that says how the process ended."""
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
    root = Path(__file__).parent.parent
    child = subprocess.run(
        [*COMMAND, f"--job={json.dumps(job)}"], cwd=root, env=environment, capture_output=True, text=True
    )
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    if child.returncode < 0:
        fatal = re.search(r"^F\d.*?\] (.*)", child.stderr, re.MULTILINE)  # the last words of a failed check
        return {"status": f"abort: {fatal[1] if fatal else signal.Signals(-child.returncode).name}"[:300]}
    return {"status": f"failed: {(child.stderr.splitlines() or ['no message'])[-1]}"[:300]}


def compiler_of(target: str) -> str:
    """The compiler and its version, such as "libtpu 0.0.42.1"; part of a row, as another version is another row."""
    names = {"tpu": ["libtpu"], "gpu": ["jax-cuda12-plugin", "jax-cuda13-plugin"]}.get(devices.backend_of(target), [])
    found = {name: version for name in [*names, "jaxlib"] if (version := _version(name))}
    return " ".join(next(iter(found.items())))


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def rows_of(jobs: list[Job], table: results.Table) -> dict[Job, list[dict[str, str]]]:
    """The table's row of each job by this version of the compiler, in a list that is empty if there is none yet."""
    return {job: table.having(**job._asdict(), compiler=compiler_of(job.target)) for job in jobs}


def compile_all(jobs: list[Job], table: results.Table) -> None:
    """Adds the rows that the table does not have yet, and prints each with an estimate of the time left."""
    missing = [job for job, rows in rows_of(jobs, table).items() if not rows]
    if len(missing) < len(jobs):
        print(f"{len(jobs) - len(missing)} of {len(jobs)} programs compiled before")
    start = time.monotonic()
    for done, job in enumerate(missing, 1):
        begin, row = time.monotonic(), compile_apart(job)
        target = {"devices": len(devices.devices_of(job.target)), "memory_gib": devices.memory_gib(job.target)}
        table.add({**job._asdict(), "compiler": compiler_of(job.target), **target, **row})
        left = (time.monotonic() - start) / done * (len(missing) - done)
        print(
            f"{done} of {len(missing)}: {job.model} {job.program}: {_summary(row)} in {time.monotonic() - begin:.0f} s"
            + (f"; about {left / 60:.0f} min left" if done < len(missing) else ""),
            flush=True,
        )


def _summary(row):
    if "total_gib" not in row:
        return row["status"]
    fits = {True: "", False: ", does not fit", None: ""}[row["fits"]]
    time_text = "" if row["estimate_ms"] is None else f", {row['estimate_ms']:.1f} ms + {row['unknown_ops']} unknown"
    return f"{row['status']}, {row['total_gib']:.2f} GiB{fits}{time_text}"


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draws memory and estimated time of each program, ACmix beside plain; a program that failed has no bar."""
    rows = [row for row in rows if row["total_gib"]]

    def group(row):
        return parse_name(row["model"]).plain, row["program"], row["settings"]

    groups = sorted({group(row): None for row in rows}, key=lambda key: PROGRAMS.index(key[1]))
    quantities = {"total_gib": "GiB a device", "estimate_ms": "compiler's estimate, ms"}
    quantities = {name: unit for name, unit in quantities.items() if any(row[name] for row in rows)}
    figure = Figure(figsize=(1.5 + 0.7 * max(6, len(groups)), 3.2 * len(quantities) + 1), layout="constrained")
    panels = figure.subplots(len(quantities), squeeze=False)[:, 0]
    for axes, (name, unit) in zip(panels, quantities.items(), strict=True):
        for is_acmix, color in ((False, "tab:gray"), (True, "tab:blue")):
            chosen = [row for row in rows if row[name] and parse_name(row["model"]).is_acmix == is_acmix]
            if not chosen:
                continue
            places = [groups.index(group(row)) for row in chosen]
            values = [float(row[name]) for row in chosen]
            label = "ACmix" if is_acmix else "plain"
            bars = axes.bar(np.array(places) + 0.4 * is_acmix - 0.2, values, 0.38, color=color, label=label)
            axes.bar_label(bars, [f"{value:.3g}" for value in values], fontsize="xx-small")
        if name == "total_gib" and rows[0]["memory_gib"] and any(row["fits"] == "False" for row in rows):
            axes.axhline(float(rows[0]["memory_gib"]), color="tab:red", linewidth=1, label="memory of the device")
        labels = ["\n".join(filter(None, key)) for key in groups]
        axes.set_xticks(range(len(groups)), labels, fontsize="x-small", rotation=45, ha="right")
        axes.set_ylabel(unit)
        axes.legend(fontsize="small")
        axes.margins(y=0.12)
    figure.suptitle(f"{rows[0]['target']}, {rows[0]['batch']} images a device, {rows[0]['dtype']}", fontsize="medium")
    figure.savefig(path, dpi=150)


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """The programs to compile, in order; raises a UserError for a name or a setting that does not exist."""
    devices.check_target(arguments.target)
    models, programs = arguments.models.split(","), arguments.programs.split(",")
    for program in programs:
        check_choice("program", program, PROGRAMS)
    if arguments.batch < 1:
        raise UserError(f"--batch={arguments.batch} compiles nothing; use at least 1")
    same = (arguments.target, arguments.batch, arguments.img_size, arguments.dtype, arguments.fsdp, arguments.set)
    jobs = [Job(model, program, *same) for model in models for program in programs]
    for model in models:
        parse_name(model)
    target = devices.devices_of(arguments.target)
    for job in jobs:
        config = config_of(job, len(target))
        sharding.make_mesh(config.batch_size, config.fsdp, target)
    return jobs


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="v5e:2x2, h100, ...")
    parser.add_argument("--models", default="resnet26,acmix_resnet26", help="joined by commas")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="joined by commas; default: all")
    parser.add_argument("--batch", type=int, default=64, help="images a device")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--fsdp", type=int, default=1, help="devices that share one copy of the parameters")
    parser.add_argument("--set", default="", metavar="FIELD=VALUE,...", help="fields of the config, or of its acmix")
    parser.add_argument("--out", type=local_path, default=Path("runs/compile_for"), help="gets table and picture")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # look for no device; the target's compiler is opened by its own name
    if arguments.job:
        jax.config.update("jax_enable_compilation_cache", False)  # time real compilations
        print(json.dumps(compile_here(Job(*json.loads(arguments.job)))))
        return
    if not arguments.target:
        raise UserError(f"--target is missing; use one such as {', '.join(devices.TARGETS)}")
    jobs = jobs_of(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the compiling process, too
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = results.Table(arguments.out / "compile_for.csv", COLUMNS)
    try:
        compile_all(jobs, table)
    finally:
        same = {name: getattr(jobs[0], name) for name in ("target", "batch", "img_size", "dtype", "fsdp")}
        rows = table.having(**same, compiler=compiler_of(arguments.target))
        if any(row["total_gib"] for row in rows):
            draw(rows, arguments.out / "compile_for.png")
        results.write_record(arguments.out, __doc__, "counted and estimated by the target's compiler, not measured")
    print(arguments.out / "compile_for.csv", arguments.out / "compile_for.png", sep="\n")


if __name__ == "__main__":
    main()
