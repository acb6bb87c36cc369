import sys

import pytest

from acmix_jax.benchmark import tpu_schedule
from acmix_jax.errors import UserError

# In the format of libtpu 0.0.42: a loop of 5 steps over a loop of 3.
BUNDLES = """\
= control target key start
LB: loop body
= control target key end

     0   :  { %s1 = smov 0  }
   0x1 LB: > { %s2 = sadd.s32 1, %s1  ;;  %s3 = smov 0 }
   0x2 LB: >> { %v1 = vmatmul.bf16 %v0  ;;  %p2 = scmp.ge.s32.totalorder %s4, 3 /* loop exit test */ }
   0x3   : >> { %9 = vst [vmem:[#allocation2_spill]] %v1 }
   0x4 PF:  { %v2 = vld [vmem:[#allocation2_spill]]  }
   0x5   : > { %p1 = scmp.ge.s32.totalorder %s2, END /* loop exit test */ }
"""
SLOTS = """\
== CAPACTIY:
MXU, VLOAD:FILL, VSTORE:SPILL, SALU
    2     3     1     2
== UTILIZATION:
0 0 0 1
0 0 0 2
2 0 0 1
1 0 1 0
0 1 0 0
0 0 0 1
"""


@pytest.fixture
def dump(tmp_path):
    """A folder with the dump of one kernel, and of the program around it; takes what the outer loop counts to."""

    def dump(end):
        for name in ("17-fusion.1", "17-TLP"):
            (tmp_path / f"{name}-70-final_hlo-static-per-bundle-utilization.txt").write_text(SLOTS)
            (tmp_path / f"{name}-71-schedule-analysis_final_bundles.txt").write_text("")
            (tmp_path / f"{name}-72-final_bundles.txt").write_text(BUNDLES.replace("END", end))
        return tmp_path

    return dump


def test_cycles_count_the_steps_of_loops(dump):
    (kernel,) = tpu_schedule.read_schedules(dump("5"))
    assert (kernel.name, kernel.bundles, kernel.cycles) == ("fusion.1", 6, 1 + 5 * (3 + 3 * 2))
    assert (kernel.spills, kernel.reloads) == (1, 1)
    assert kernel.filled["MXU"] == 15 * 3 / (46 * 2)


def test_a_loop_without_a_constant_end_has_no_cycles(dump):
    (kernel,) = tpu_schedule.read_schedules(dump("%s9"))
    assert (kernel.cycles, kernel.filled["MXU"]) == (None, 3 / (6 * 2))


def test_each_kernel_is_a_line(dump, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tpu_schedule.py", str(dump("5"))])
    tpu_schedule.main()
    line = "fusion.1: 6 bundles, 46 cycles; 1 spills, 1 reloads; slots filled: MXU 49 %"
    assert capsys.readouterr().out.startswith(line)


def test_a_folder_without_a_dump_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="has no schedules"):
        tpu_schedule.read_schedules(tmp_path)
