"""Eight virtual CPU devices, and one compilation cache for all tests and the programs that they start."""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="acmix_jax_test_cache_"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import pytest
from absl import flags

from configs import digits

flags.FLAGS.mark_as_parsed()  # Grain reads flags, which only main.py parses


@pytest.fixture
def config():
    """The quickstart's config, cut down to 12 steps."""
    config = digits.get_config()
    config.batch_size = 16
    config.num_epochs = 12 * 16 / 1437
    config.optimizer.warmup_epochs = 0.02
    config.log_every = 4
    config.eval_every = 0
    config.checkpoint_every = 0
    config.lock()
    return config
