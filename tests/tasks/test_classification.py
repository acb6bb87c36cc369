from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from acmix_jax.tasks import create_task
from acmix_jax.tasks.classification import Classification, smooth_labels


def test_smoothing_is_shared_by_the_wrong_classes():
    found = smooth_labels(jnp.array([2, 0]), num_classes=5, smoothing=0.1)
    np.testing.assert_allclose(found, [[0.025, 0.025, 0.9, 0.025, 0.025], [0.9, 0.025, 0.025, 0.025, 0.025]], rtol=1e-6)


def test_the_config_forces_the_forms(config):
    config.acmix.shift_form, config.acmix.attention_form = "slices", "reference"
    for mixer in Classification.from_config(config).model.backbone.mixers:
        forms = mixer.keywords["shift_form"], mixer.keywords["attention_kind"].keywords["form"]
        assert forms == ("slices", "reference")


def test_the_devices_of_a_run_choose_the_attention(config):
    config.dtype = "bfloat16"
    for platform, form in (("gpu", "kernel"), ("tpu", None)):
        mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform)]]))
        for mixer in create_task(config, mesh).model.backbone.mixers:
            assert mixer.keywords["attention_kind"].keywords["form"] == form
