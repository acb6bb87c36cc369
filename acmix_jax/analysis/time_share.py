"""Where the time of a program goes, by the parts of the network that its operations come from."""

import gzip
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_CONTROL = ("while", "conditional", "call")  # their time is that of what they contain


def time_by_part(
    f: Callable[..., Any], *arguments: Any, part_of: Callable[[list[str]], str], rounds: int = 5
) -> dict[str, float]:
    """Milliseconds of one run of `f(*arguments)` on all threads or streams together, by part, as JAX's profiler sees.

    Operations that XLA fused count for the part of the last one in them.

    Args:
      part_of: a part from named scopes, such as ["jit(apply)", "backbone", "stage1_block1", ...].
      rounds: runs to take the mean of, after one that is not counted.
    """
    program = jax.jit(f).lower(*arguments).compile()
    scopes = dict(re.findall(r'%?([\w.-]+) = [^\n]*?op_name="([^"]*)"', program.as_text()))
    jax.block_until_ready(program(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                jax.block_until_ready(program(*arguments))
        trace = next(Path(folder).rglob("*.trace.json.gz"))
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    found: Counter = Counter()
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if name and not name.startswith(_CONTROL):
            found[part_of(scopes.get(name, "").split("/"))] += event["dur"] / 1e3 / rounds
    return dict(found)
