"""Where the time of a program goes, by the parts of the network that its operations come from."""

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

_CONTROL = ("while", "conditional", "call")  # their time is that of what they contain
_OPTIONS = {"gpu": {"xla_gpu_enable_command_buffer": ""}}  # which would hide the operations in them


def time_by_part(
    f: Callable[..., Any], *arguments: Any, part_of: Callable[[list[str]], str], rounds: int = 5
) -> dict[str, float]:
    """Milliseconds that the operations of `f(*arguments)` take, by part: medians, as JAX's profiler sees them.

    An operation is counted from its begin to its end, on however many threads it runs. What XLA fused counts for the
    part of the last operation in it; what XLA added without a name counts for `part_of([""])`.

    Args:
      part_of: a part from named scopes, such as ["jit(apply)", "backbone", "stage1_block1", ...].
      rounds: runs that are measured, after one that is not.
    """
    program = jax.jit(f).lower(*arguments).compile(compiler_options=_OPTIONS.get(jax.default_backend()))
    scopes = dict(re.findall(r'%?([\w.-]+) = [^\n]*?op_name="([^"]*)"', program.as_text()))
    jax.block_until_ready(program(*arguments))
    found = []
    for _ in range(rounds):
        parts: Counter = Counter()
        for name, milliseconds in _trace(program, arguments):
            parts[part_of(scopes.get(name, "").split("/"))] += milliseconds
        found.append(parts)
    return {part: statistics.median(parts[part] for parts in found) for part in set().union(*found)}


def _trace(program, arguments):
    """Each operation of one run: its name in the compiled program, and its milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        trace = next(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name and not name.startswith(_CONTROL):
            yield name, event["dur"] / 1e3
