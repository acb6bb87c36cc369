"""Times programs against each other: all are compiled first and then run in turns (A B C A B C ...).

Other load on the machine then affects all of them alike, so that the ratio of their medians is reliable.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from acmix_jax.run import environment

SHORTEST = 0.02  # seconds; a program that takes less is repeated within one measurement


class Program(NamedTuple):
    """A program to time: `run` starts it, `wait` blocks until the result of `run` is ready."""

    run: Callable[[], Any]
    wait: Callable[[Any], Any] = jax.block_until_ready
    compile_s: float | None = None  # None where nothing is compiled
    peak_memory_mb: float | None = None


class Row(NamedTuple):
    """A row of a speed table: the columns of timm's benchmark files, then ours."""

    model: str
    img_size: int
    batch: int
    dtype: str
    samples_per_sec: float
    step_time_ms: float  # median
    gmacs: float | None  # of one image
    params_m: float
    peak_memory_mb: float | None  # arguments, results and temporary arrays, as the compiler reports them
    pass_: str
    implementation: str
    step_time_q1_ms: float
    step_time_q3_ms: float
    compile_s: float | None  # on accelerators while other programs compile
    device: str


def compiled(f: Callable[..., Any], *arguments: Any) -> Program:
    """Compiles `f(*arguments)`; each run uses the same arguments."""
    start = time.perf_counter()
    program = jax.jit(f).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return Program(lambda: program(*arguments), compile_s=seconds, peak_memory_mb=peak_memory_mb(program))


def compiled_step(f: Callable[..., Any], state: Any, *arguments: Any) -> Program:
    """Compiles `state = f(state, *arguments)`, which donates the memory of the old state to the new one."""
    start = time.perf_counter()
    program = jax.jit(f, donate_argnums=0).lower(state, *arguments).compile()
    seconds = time.perf_counter() - start

    def run():
        nonlocal state
        state = program(state, *arguments)
        return state

    return Program(run, compile_s=seconds, peak_memory_mb=peak_memory_mb(program))


def compile_all(waiting: Mapping[Hashable, Callable[[], Program]]) -> dict[Hashable, Program]:
    """Calls each value, which compiles a program; on accelerators, which are rented, all cores do so at once."""
    with ThreadPoolExecutor(1 if jax.default_backend() == "cpu" else os.cpu_count()) as pool:
        return dict(zip(waiting, pool.map(lambda compile_one: compile_one(), waiting.values()), strict=True))


def peak_memory_mb(program: jax.stages.Compiled) -> float:
    """Arguments, results and temporary arrays on one device, in MB of 2^20 bytes, as the compiler reports them."""
    memory = program.memory_analysis()
    total = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return (total - memory.alias_size_in_bytes) / 2**20


def in_turns(programs: Mapping[Hashable, Program], rounds: int) -> dict[Hashable, np.ndarray]:
    """Measures milliseconds per run of each program, `[rounds]`.

    Each turn starts with an uncounted run, which refills the caches and the memory that the previous program used.
    """
    times = {key: [] for key in programs}
    repeats = {key: max(1, math.ceil(SHORTEST / _seconds(program, 1))) for key, program in programs.items()}
    for _ in range(rounds):
        for key, program in programs.items():
            _seconds(program, 1)
            times[key].append(1e3 * _seconds(program, repeats[key]))
    return {key: np.array(values) for key, values in times.items()}


def _seconds(program, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        result = program.run()
    program.wait(result)
    return (time.perf_counter() - start) / repeats


def quartiles(times: np.ndarray) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile of `times`."""
    low, median, high = np.percentile(times, [25, 50, 75]).tolist()
    return low, median, high


def device_name() -> str:
    """The hardware and the version of jax."""
    kind = jax.devices()[0].device_kind
    return f"{environment.machine() if kind == 'cpu' else kind}, jax {jax.__version__}"


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options shared by the speed experiments; on accelerators the default is a larger batch and bfloat16."""
    accelerator = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the table")
    parser.add_argument("--batch", type=int, default=128 if accelerator else 4)
    parser.add_argument("--dtype", default="bfloat16" if accelerator else "float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--released-code", type=Path, help="a clone of github.com/LeapLabTHU/ACmix")
    return parser
