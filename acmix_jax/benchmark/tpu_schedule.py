"""The schedule of each kernel of a TPU program: cycles, filled slots and spills, from what libtpu's compiler dumps.

python -m acmix_jax.benchmark.tpu_schedule DIR

DIR is what a program that compiles for a TPU (see benchmark/devices.py) has written when it ran with
LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true", about 15 MB a kernel.
A kernel is a fusion of XLA's or a Pallas kernel. Its schedule is a list of bundles, each with the instructions that the
core's units start in one cycle, where nothing waits for memory. These are counts, not measurements.
"""

import argparse
import math
import re
from pathlib import Path
from typing import NamedTuple

from acmix_jax.config import local_path
from acmix_jax.errors import UserError, one_line_errors

_SLOTS = "-final_hlo-static-per-bundle-utilization.txt"
_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) *([A-Z, ]*): (>*) ?\{(.*)", re.MULTILINE)
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder[^/;]*, (\d+) /\* loop exit test")


class Kernel(NamedTuple):
    """The schedule of one kernel.

    Attributes:
      name: as in the compiled program.
      bundles: length of the schedule.
      cycles: bundles of one run, with those of loops as often as the loops run; None if a loop has no constant end. A
        Pallas grid counts two steps more, which fill and drain its pipeline; an unrolled loop counts too often.
      filled: fraction of the slots of each unit that hold an instruction, over all cycles, such as {"MXU": 0.7}.
      spills, reloads: bundles that store a vector register for want of registers, and that load one again.
    """

    name: str
    bundles: int
    cycles: int | None
    filled: dict[str, float]
    spills: int
    reloads: int


def read_schedules(folder: Path) -> list[Kernel]:
    """All kernels dumped into a folder; raises a UserError if there are none."""
    kernels = []
    for path in sorted(folder.glob(f"*{_SLOTS}")):
        number, name = re.fullmatch(rf"(\d+)-(.*)-\d+{_SLOTS}", path.name).groups()
        if name == "TLP" or name.startswith("<late"):  # the program around the kernels
            continue
        pattern = rf"{number}-{re.escape(name)}-\d+-final_bundles.txt"
        (listing,) = [other for other in folder.iterdir() if re.fullmatch(pattern, other.name)]
        kernels.append(_kernel(name, path.read_text(), listing.read_text()))
    if not kernels:
        raise UserError(f"{folder} has no schedules; see python -m acmix_jax.benchmark.tpu_schedule --help")
    return kernels


def _kernel(name, slots, listing):
    _, units, capacity, _, *rows = slots.splitlines()
    units, used = units.split(", "), [[int(count) for count in row.split()] for row in rows if row.strip()]
    columns = dict(zip(units, zip(*used, strict=True), strict=True))
    runs = _runs(listing)
    known = None not in runs
    weights = runs if known else [1] * len(used)
    filled = {
        unit: sum(n * w for n, w in zip(columns[unit], weights, strict=True)) / (sum(weights) * int(most))
        for unit, most in zip(units, capacity.split(), strict=True)
    }
    counts = (sum(columns[unit]) for unit in ("VSTORE:SPILL", "VLOAD:FILL"))
    return Kernel(name, len(used), sum(runs) if known else None, filled, *counts)


def _runs(listing):
    """Number of runs of each bundle; None in a loop without a constant end."""
    loops, depths, ends = [], {}, {}  # the loops around each bundle; of each loop its depth, and what it counts to
    stack = []
    for number, (marks, depth, text) in enumerate(_BUNDLE.findall(listing)):
        # Bundles of a loop's predicated regions may stand at depth 0, so that only a new loop ends an outermost one.
        while stack and (depths[stack[-1]] > max(len(depth), 1) or ("LB" in marks and depths[stack[-1]] == len(depth))):
            stack.pop()
        if "LB" in marks:
            stack.append(number)
            depths[number] = len(depth)
        if stack and (test := _EXIT.search(text)):
            ends[stack[-1]] = int(test[1])
        loops.append(tuple(stack))
    return [math.prod(map(ends.get, around)) if ends.keys() >= set(around) else None for around in loops]


@one_line_errors()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=local_path, metavar="DIR")
    for kernel in read_schedules(parser.parse_args().folder):
        filled = ", ".join(f"{unit} {100 * share:.0f} %" for unit, share in kernel.filled.items() if share >= 0.005)
        cycles = "an unknown number of" if kernel.cycles is None else f"{kernel.cycles:,}"
        print(
            f"{kernel.name}: {kernel.bundles:,} bundles, {cycles} cycles; {kernel.spills} spills, {kernel.reloads} "
            f"reloads; slots filled: {filled}"
        )


if __name__ == "__main__":
    main()
