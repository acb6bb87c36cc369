"""The layers against numbers computed in float64 with the released PyTorch modules.

tests/goldens.py has the values of parameters and inputs.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.backbones import swin
from acmix_jax.layers.acmix import ACmix
from acmix_jax.layers.attention import LocalAttention, PairwiseAttention, PatchwiseAttention, WindowAttention
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.ops import neighborhood, shift
from tests.goldens import check, fill, linear, norm, waves


def run(layer, params, x, **collections):
    return np.asarray(jax.jit(layer.apply)({"params": params, **collections}, x))


RESNET_SHAPES = {  # ACmix(16, 16, 7, 4, 3, stride)
    "conv1.bias": (16,), "conv1.weight": (16, 16), "conv2.bias": (16,), "conv2.weight": (16, 16),
    "conv3.bias": (16,), "conv3.weight": (16, 16), "conv_p.bias": (4,), "conv_p.weight": (4, 2),
    "dep_conv.weight": (16, 9, 3, 3), "fc.weight": (9, 12), "rate1": (), "rate2": (),
}  # fmt: skip
RESNET_GOLDEN = {
    1: (1.7906813519738747, 30.214464793535498, -0.01185653464530373, -0.029434573813088484),
    2: (0.475321183101874, 7.600599065118053, -0.018203478448932484, -0.028212255721930205),
}
RESNET_START = {1: (0.02175458, 0.02178051, 0.02192842), 2: (0.02175458, 0.02192842, 0.02253437)}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("attention_form", neighborhood.FORMS)
@pytest.mark.parametrize("shift_form", shift.FORMS)
def test_acmix_of_resnet(stride, attention_form, shift_form):
    t = fill(RESNET_SHAPES)
    projections = [linear(t, f"conv{i}") for i in (1, 2, 3)]
    params = {
        "qkv": {leaf: np.concatenate([p[leaf] for p in projections], axis=-1) for leaf in ("kernel", "bias")},
        "attention": {"position": linear(t, "conv_p")},
        "fc": {"kernel": t["fc.weight"].T},
        "shift": {"kernel": t["dep_conv.weight"].transpose(2, 3, 1, 0)},
        "alpha": t["rate1"],
        "beta": t["rate2"],
    }
    with jax.enable_x64(True):
        attention = partial(LocalAttention, form=attention_form)
        layer = ACmix(16, stride=stride, attention_kind=attention, shift_form=shift_form, dtype=jnp.float64)
        out = run(layer, params, waves(2, 16, 8, 8).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        check(out, RESNET_GOLDEN[stride], RESNET_START[stride], [(1, 5, 2, 1), (1, 15, -1, -1)])


WINDOW_SHAPES = {  # WindowAttention_acmix(12, (4, 4), 3)
    "dep_conv.weight": (12, 9, 3, 3), "fc.bias": (9,), "fc.weight": (9, 9), "proj.bias": (12,), "proj.weight": (12, 12),
    "qkv.bias": (36,), "qkv.weight": (36, 12), "rate1": (), "rate2": (), "relative_position_bias_table": (49, 3),
}  # fmt: skip


def window_params(t, prefix=""):
    t = {name.removeprefix(prefix): value for name, value in t.items()}
    return {
        "qkv": linear(t, "qkv"),
        "attention": {"relative_position_bias": t["relative_position_bias_table"]},
        "proj": linear(t, "proj"),
        "fc": linear(t, "fc"),
        "shift": {"kernel": t["dep_conv.weight"].transpose(2, 3, 1, 0)},
        "alpha": t["rate1"],
        "beta": t["rate2"],
    }


@pytest.mark.parametrize("shift_form", shift.FORMS)
def test_acmix_of_swin(shift_form):
    with jax.enable_x64(True):
        attention = partial(WindowAttention, window_size=4)
        layer = ACmix(
            12,
            num_heads=3,
            attention_kind=attention,
            use_proj=True,
            fc_bias=True,
            shift_form=shift_form,
            dtype=jnp.float64,
        )
        out = run(layer, window_params(fill(WINDOW_SHAPES)), waves(2, 8, 8, 12))
        golden = (-3.558441770546753, 41.92597648365847, -0.04836371400600113, 0.00046365920065955836)
        check(out, golden, (0.01921582, -0.04431278, -0.01149781), [(1, 5, 2, 1), (1, 7, 7, 11)])


def test_block_of_swin():
    """SwinTransformerBlock(12, (8, 8), 3, window 4, shift 2) with ACmix."""
    shapes = {f"attn.{name}": shape for name, shape in WINDOW_SHAPES.items()}
    shapes |= {f"{n}.{leaf}": (12,) for n in ("norm1", "norm2") for leaf in ("weight", "bias")}
    shapes |= {"mlp.fc1.weight": (48, 12), "mlp.fc1.bias": (48,), "mlp.fc2.weight": (12, 48), "mlp.fc2.bias": (12,)}
    t = fill(shapes)
    params = {
        "norm1": norm(t, "norm1"),
        "mixer": window_params(t, "attn."),
        "norm2": norm(t, "norm2"),
        "mlp": {"fc1": linear(t, "mlp.fc1"), "fc2": linear(t, "mlp.fc2")},
    }
    with jax.enable_x64(True):
        kind = partial(WindowAttention, window_size=4)
        mixer = partial(ACmix, num_heads=3, attention_kind=kind, use_proj=True, fc_bias=True)
        block = swin.Block(window_size=4, shifted=True, make_mixer=mixer, dtype=jnp.float64)
        out = run(block, params, waves(2, 8, 8, 12)).reshape(2, 64, 12)
        golden = (-3.9874618226884913, 1038.8180422400687, 0.9097137208576442, 0.9893302697505938)
        check(out, golden, (-0.55459655, 0.22940591, 0.47509573), [(1, 42, 1), (1, 63, 11)])


PERCEPTRON = {  # of SAN's weights, by the length of what goes in, of the layer between and of what comes out
    "conv_w.0.bias": 0, "conv_w.0.weight": 0, "conv_w.3.bias": 1, "conv_w.3.weight": 1, "conv_w.5.bias": 2,
}  # fmt: skip
SAN_GOLDEN = {
    "pairwise": (
        (-8.884924193043712, 136.8676569526109, 0.22201621363509508, 0.1816786021272712),
        (-0.23790468, -0.24032986, -0.24759933),
    ),
    "patchwise": (
        (1.9902735916720222, 50.23908976533977, 0.08149795640146637, -0.025453101377175165),
        (0.09365185, 0.09640071, 0.09841676),
    ),
}


@pytest.mark.parametrize(
    ("kind", "window_size", "lengths"), [("pairwise", 3, (6, 4, 2)), ("patchwise", 7, (4 * 50, 2, 49 * 2))]
)
def test_attention_of_san(kind, window_size, lengths):
    """SAM(kind, 64, 4, 16, 8, window_size), in evaluation with fresh running statistics."""
    shapes = {"conv1": 4, "conv2": 4, "conv3": 16}
    shapes = {
        f"{n}.{leaf}": (c, 64) if leaf == "weight" else (c,) for n, c in shapes.items() for leaf in ("weight", "bias")
    }
    shapes |= {name: (lengths[which],) for name, which in PERCEPTRON.items()}
    shapes |= {"conv_w.2.weight": (lengths[1], lengths[0]), "conv_w.5.weight": (lengths[2], lengths[1])}
    if kind == "pairwise":
        shapes |= {"conv_p.weight": (2, 2), "conv_p.bias": (2,)}
    t = fill(shapes)
    projections = [linear(t, f"conv{i}") for i in (1, 2, 3)]
    attention = {
        "norm1": norm(t, "conv_w.0"),
        "weight1": {"kernel": t["conv_w.2.weight"].T},
        "norm2": norm(t, "conv_w.3"),
        "weight2": linear(t, "conv_w.5"),
    }
    if kind == "pairwise":
        attention["position"] = linear(t, "conv_p")
    params = {
        "qkv": {leaf: np.concatenate([p[leaf] for p in projections], axis=-1) for leaf in ("kernel", "bias")},
        "attention": attention,
    }
    statistics = {
        name: {"mean": np.zeros(length), "var": np.ones(length)}
        for name, length in zip(("norm1", "norm2"), lengths, strict=False)
    }
    with jax.enable_x64(True):
        module = {"pairwise": PairwiseAttention, "patchwise": PatchwiseAttention}[kind]
        attention = partial(module, window_size=window_size)
        layer = SelfAttention(16, num_heads=4, qk_heads=1, attention_kind=attention, dtype=jnp.float64)
        x = waves(1, 64, 8, 8).transpose(0, 2, 3, 1)
        out = run(layer, params, x, batch_stats={"attention": statistics}).transpose(0, 3, 1, 2)
        check(out, *SAN_GOLDEN[kind], [(0, 5, 2, 1), (0, 15, 7, 7)])
