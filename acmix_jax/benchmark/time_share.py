"""Time of a program by the parts of the network that its operations belong to, from JAX's profiler."""

import gzip
import json
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_CONTROL = ("while", "conditional", "call")  # their time is the sum of the operations inside
PROFILING_OPTIONS = {"gpu": {"xla_gpu_enable_command_buffer": ""}}  # command buffers would hide the operations inside


def time_by_part(
    f: Callable[..., Any], *arguments: Any, part_of: Callable[[list[str]], str], rounds: int = 5
) -> dict[str, float]:
    """Measures the milliseconds that the operations of `f(*arguments)` take, by part; medians over the rounds.

    An operation counts from its start to its end, regardless of the number of threads. A fusion counts for the part of
    its last operation; an operation that XLA added without a name counts for `part_of([""])`.

    Args:
      f: the function; compiled here.
      *arguments: its arguments.
      part_of: maps named scopes, such as ["jit(apply)", "backbone", "stage1_block1", ...], to a part.
      rounds: measured runs, after one that is not measured.
    """
    program = jax.jit(f).lower(*arguments).compile(compiler_options=PROFILING_OPTIONS.get(jax.default_backend()))
    scopes = dict(re.findall(r'%?([\w.-]+) = [^\n]*?op_name="([^"]*)"', program.as_text()))
    jax.block_until_ready(program(*arguments))
    measured = []
    for _ in range(rounds):
        parts: Counter = Counter()
        for name, milliseconds in _trace(program, arguments):
            parts[part_of(scopes.get(name, "").split("/"))] += milliseconds
        measured.append(parts)
    return {part: statistics.median(parts[part] for parts in measured) for part in set().union(*measured)}


def _trace(program, arguments):
    """Yields each operation of one run: its name in the compiled program, and its milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        trace = next(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name and not name.startswith(_CONTROL):
            yield name, event["dur"] / 1e3
