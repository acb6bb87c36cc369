"""configs/imagenet.py and ade20k.py against the papers' and the released codes' recipes, number by number."""

import flax
import jax
import numpy as np
import pytest

from acmix_jax import create_model, list_models
from acmix_jax.config import check_config
from acmix_jax.training import optim
from configs import ade20k, imagenet
from tests.networks import segmenter_shapes

IMAGES = 1_281_167


def rate_of(config, epoch):
    steps_per_epoch = IMAGES / config.batch_size
    rate = optim.learning_rate_schedule(config.optimizer, config.num_epochs, steps_per_epoch, config.batch_size)
    return float(rate(round(epoch * steps_per_epoch + 0.5)))


def cosine(epoch, epochs, peak, last):
    return last + (peak - last) * (1 + np.cos(np.pi * epoch / epochs)) / 2


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("acmix_resnet50", {0: 0.025, 2.5: 0.0625, 5: 0.1, 52.5: cosine(47.5, 95, 0.1, 0), 100: 0}),
        ("san10", {0: 0.1, 0.9: 0.1, 50: 0.05, 50.9: 0.05, 99: cosine(99, 100, 0.1, 0)}),
        (
            "acmix_pvt_tiny",
            {0: 1e-6, 4.5: 8e-4 + 2e-7, 5: cosine(5, 300, 1e-3, 1e-5), 299.5: cosine(299, 300, 1e-3, 1e-5)},
        ),
        (
            "acmix_swin_tiny",
            {0: 1e-6, 10: (1e-3 + 1e-6) / 2, 20.1: cosine(20.1, 300, 1e-3, 1e-5), 150: cosine(150, 300, 1e-3, 1e-5)},
        ),
    ],
)  # fmt: skip
def test_learning_rate_at_named_epochs(model, rates):
    config = imagenet.get_config(model)
    found = {epoch: rate_of(config, epoch) for epoch in rates}
    assert found == pytest.approx(rates, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("model", list_models())
def test_every_model_has_a_recipe(model):
    config = imagenet.get_config(model)
    check_config(config)
    transformer = "pvt" in model or "swin" in model
    assert (config.batch_size, config.num_epochs) == ((1024, 300) if transformer else (256, 100))
    assert config.optimizer.name == ("adamw" if transformer else "sgd")
    assert config.optimizer.weight_decay == (0.05 if transformer else 1e-4)
    assert config.data.repeats == (3 if "pvt" in model else 1)
    assert config.data.interpolation == ("bicubic" if transformer else "bilinear")
    assert config.data.rand_augment == transformer
    mixing = (config.random_erasing, config.mixup, config.cutmix)
    assert mixing == ((0.25, 0.8, 1.0) if transformer else (0, 0, 0))
    wanted = 5.0 if "swin" in model else 1.0 if model.endswith(("pvt_medium", "pvt_large")) else 0.0
    assert config.optimizer.clip_norm == wanted


def decaying(model, pattern):
    shapes = jax.eval_shape(create_model(model, 10).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    mask = optim.decay_mask(shapes["params"], pattern)
    found = {"/".join(key.key for key in path[-2:]): (leaf, shape.ndim) for (path, leaf), shape in zip(
        jax.tree.leaves_with_path(mask), jax.tree.leaves(shapes["params"]), strict=True)}  # fmt: skip
    return {name: decays for name, (decays, _) in found.items()}, list(found.values())


@pytest.mark.parametrize("model", ["acmix_swin_micro_patch2", "acmix_pvt_micro_patch2"])
def test_transformers_decay_matrices_alone(model):
    named, all_of_them = decaying(model, imagenet.get_config(model).optimizer.no_decay)
    assert named["qkv/kernel"] and named["fc/kernel"] and named["shift/kernel"] and named["head/kernel"]
    for name in ("mixer/alpha", "mixer/beta", "qkv/bias", "norm1/scale", "norm1/bias"):
        assert not named[name], name
    assert not any(decays for decays, ndim in all_of_them if ndim < 2)
    if "swin" in model:
        assert not named["attention/relative_position_bias"]
    else:
        assert not named["backbone/class_token"]
        assert any(decays for name, decays in named.items() if "position" in name)  # as in the released PVT


def test_convolutional_networks_decay_everything_but_alpha_and_beta():
    named, _ = decaying("acmix_resnet14_stem1", imagenet.get_config("acmix_resnet50").optimizer.no_decay)
    assert {name for name, decays in named.items() if not decays} == {"mixer/alpha", "mixer/beta"}


def segmentation_rate(config, step):
    steps_per_epoch = ade20k.IMAGES / config.batch_size
    rate = optim.learning_rate_schedule(config.optimizer, config.num_epochs, steps_per_epoch, config.batch_size)
    return float(rate(step))


@pytest.mark.parametrize(
    ("model", "steps", "rates"),
    [
        ("acmix_swin_tiny", 160_000,
         {0: 6e-11, 750: 3e-5 * (1 - 750 / 160_000), 1500: 6e-5 * (1 - 1500 / 160_000), 80_000: 3e-5, 160_000: 0}),
        ("acmix_pvt_tiny", 80_000, {0: 1e-4, 40_000: 1e-4 * 0.5**0.9, 79_000: 1e-4 * (1 / 80) ** 0.9, 80_000: 0}),
        ("acmix_resnet50", 80_000, {0: 1e-4, 40_000: 1e-4 * 0.5**0.9, 80_000: 0}),
    ],
)  # fmt: skip
def test_segmentation_at_named_steps(model, steps, rates):
    config = ade20k.get_config(model)
    assert round(config.num_epochs * ade20k.IMAGES / config.batch_size) == steps
    found = {step: segmentation_rate(config, step) for step in rates}
    assert found == pytest.approx(rates, rel=1e-3, abs=1e-10)


def test_segmentation_follows_mmseg():
    swin, pvt = ade20k.get_config("acmix_swin_small"), ade20k.get_config("pvt_medium")
    for config in (swin, pvt):
        data = config.data
        assert (config.batch_size, config.photometric, data.flip, data.zero_is_ignored) == (16, True, True, True)
        assert (data.image_size, data.short_side, data.long_side, data.size_divisor) == (512, 512, 2048, 32)
        assert (tuple(data.scale_range), data.max_class_share) == ((0.5, 2.0), 0.75)
        assert config.optimizer.name == "adamw"
    assert (swin.head, swin.auxiliary_weight, swin.drop_path) == ("upernet", 0.4, 0.3)
    assert (pvt.head, pvt.auxiliary_weight, pvt.drop_path) == ("semantic_fpn", 0.0, 0.1)
    assert (swin.optimizer.weight_decay, pvt.optimizer.weight_decay) == (0.01, 1e-4)


def test_swin_of_segmentation_decays_no_norm_of_the_backbone_but_all_biases():
    pattern = ade20k.get_config("acmix_swin_tiny").optimizer.no_decay
    shapes = segmenter_shapes("acmix_swin_micro_patch2", "upernet")
    decays = flax.traverse_util.flatten_dict(optim.decay_mask(shapes["params"], pattern), sep="/")
    expected = {
        "backbone/stage1_block1/norm1/bias": False,
        "backbone/patch_norm/scale": False,
        "backbone/c2_norm/scale": False,
        "backbone/stage1_block1/mixer/alpha": False,
        "backbone/stage1_block1/mixer/attention/relative_position_bias": False,
        "backbone/stage1_block1/mlp/fc1/bias": True,
        "head/pool1/norm/bias": True,
        "head/classifier/kernel": True,
    }
    assert {path: decays.get(path) for path in expected} == expected
    assert {path for path in decays if path.startswith("backbone/") and "norm" in path and decays[path]} == set()
    assert all(decays[path] for path in decays if not path.startswith("backbone/"))
