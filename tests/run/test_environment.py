import jax

from acmix_jax.run import environment


def test_provenance_has_versions_commit_and_devices():
    facts = environment.describe()
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["devices"].startswith(f"{jax.device_count()} x ")
    assert facts["processes"] == 1
    assert len(facts["commit"].removesuffix("-dirty")) in (0, 40)
