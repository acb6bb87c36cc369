from types import SimpleNamespace

import jax

from acmix_jax.run import environment


def test_memory_is_told_where_the_device_knows_it(monkeypatch):
    assert environment.device_memory() == {}  # a CPU does not
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**29})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert environment.device_memory() == {"device_memory_gib": 1.5}


def test_programs_are_kept_unless_somebody_chose_a_place(tmp_path):
    chosen = jax.config.jax_compilation_cache_dir
    try:
        environment.cache_compilation(tmp_path)
        assert jax.config.jax_compilation_cache_dir == chosen
        jax.config.update("jax_compilation_cache_dir", None)
        environment.cache_compilation(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)


def test_a_record_of_a_run_names_versions_commit_and_devices():
    facts = environment.describe()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["devices"].startswith(f"{jax.device_count()} x ")
    assert facts["processes"] == 1
    assert len(facts["commit"].removesuffix("-dirty")) in (0, 40)
