import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.benchmark import timing


def test_programs_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST", 0)
    order = []
    programs = {name: timing.Program(lambda name=name: order.append(name)) for name in "ab"}
    times = timing.in_turns(programs, rounds=3)
    assert (
        order == ["a", "b"] + ["a", "a", "b", "b"] * 3
    )  # one run each to learn how long it is; an uncounted one each turn
    assert {name: values.shape for name, values in times.items()} == {"a": (3,), "b": (3,)}


def test_a_short_program_runs_often_enough_to_be_timed():
    runs = []
    times = timing.in_turns({"short": timing.Program(lambda: runs.append(0))}, rounds=2)
    assert len(runs) > 100
    assert (times["short"] < 1).all()


def test_a_step_goes_on_from_its_own_result():
    step = timing.compiled_step(lambda state, x: state + x, jnp.zeros(4), jnp.ones(4))
    step.run()
    np.testing.assert_array_equal(step.run(), [2, 2, 2, 2])
    assert step.compile_s > 0


def test_memory_counts_arguments_results_and_what_lies_between():
    x = jnp.zeros((2**18,))  # one MiB
    program = timing.compiled(lambda x: jnp.sort(jnp.sin(x)), x)
    assert 2 <= program.peak_memory_mb <= 6


def test_the_columns_are_those_of_timm():
    assert timing.Row._fields[:9] == (
        "model", "img_size", "batch", "dtype", "samples_per_sec", "step_time_ms", "gmacs", "params_m", "peak_memory_mb",
    )  # fmt: skip


def test_quartiles():
    assert timing.quartiles(np.array([4.0, 1.0, 2.0, 3.0, 5.0])) == (2, 3, 4)


def test_the_device_is_named():
    assert jax.__version__ in timing.device_name()
