"""Eight virtual CPU devices, quick compilation, and one kept cache of it for all tests and the programs they start."""

import os
from importlib import metadata
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):  # later ones have no other code generator, and do not know the flag
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # compiles in a third of the time
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import grain  # noqa: F401  # defines flags; the first time must not be within a test that restores them
import pytest
from absl import flags

from configs import digits

flags.FLAGS.mark_as_parsed()  # Grain reads flags, which only main.py parses


@pytest.fixture(scope="session")
def short_config():
    """The quickstart's config, cut down to 12 steps."""
    config = digits.get_config()
    config.num_epochs = 12 * config.batch_size / 1437
    config.optimizer.learning_rate = 5e-4  # so small that a ReLU which rounding tips over does not steer the run
    config.optimizer.warmup_epochs = 0.2
    config.log_every = 4
    config.eval_every = 0
    config.checkpoint_every = 0
    return config


@pytest.fixture
def config(short_config):
    """A copy of it, to change."""
    return short_config.copy_and_resolve_references()
