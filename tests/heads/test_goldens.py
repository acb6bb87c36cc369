"""The heads against numbers computed in float64 with the modules of mmdetection and mmsegmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.heads.fpn import FPN
from acmix_jax.heads.semantic_fpn import SemanticFPN
from acmix_jax.heads.upernet import FCN, UperNet
from tests.goldens import check, fill, norm, waves


def kernel(tensors, name):
    """A PyTorch convolution's weight in our order of axes; a matrix if it is 1x1."""
    weight = tensors[f"{name}.weight"]
    return weight[:, :, 0, 0].T if weight.shape[2] == 1 else weight.transpose(2, 3, 1, 0)


def with_norm(shapes):
    """Shapes of mmcv's ConvModules with a BatchNorm, from those of their convolutions."""
    norms = {f"{name}.bn.{leaf}": shape[:1] for name, shape in shapes.items() for leaf in ("weight", "bias")}
    return norms | {f"{name}.conv.weight": shape for name, shape in shapes.items()}


def variables(modules, tensors, classifier="conv_seg"):
    """Of a head with these ConvModules (ours to theirs), with fresh running statistics."""
    params = {o: {"conv": {"kernel": kernel(tensors, f"{t}.conv")}, "norm": norm(tensors, f"{t}.bn")}
              for o, t in modules.items()}  # fmt: skip
    count = {ours: len(module["norm"]["bias"]) for ours, module in params.items()}
    statistics = {ours: {"norm": {"mean": np.zeros(n), "var": np.ones(n)}} for ours, n in count.items()}
    params["classifier"] = {"kernel": kernel(tensors, classifier), "bias": tensors[f"{classifier}.bias"]}
    return {"params": params, "batch_stats": statistics}


def maps(names, shapes, batch=1):
    """Maps of these names; shapes are (channels, height, width)."""
    return {n: waves(batch, *shape).transpose(0, 2, 3, 1) for n, shape in zip(names, shapes, strict=True)}


def logits(head, variables, maps, train=False):
    def apply(variables, maps):
        return head.apply(variables, maps, train, mutable=["batch_stats"] if train else False)

    out = jax.jit(apply)(variables, maps)
    return np.asarray(out[0] if train else out).transpose(0, 3, 1, 2)


LAST = [(-1, -1, -1, -1)]
PYRAMID = ((4, 20, 28), (6, 10, 14), (8, 5, 7), (10, 3, 4))
RETINA = {
    "p3": (41.3711257237162, 174.382508016269, -0.163939934165271),
    "p4": (-9.38961445704077, 37.1328878993116, 0.111405863562115),
    "p5": (2.5259159308593, 13.6312541673187, 0.115444470351329),
    "p6": (0.849429702882096, 5.48703527784895, -0.0407506439202109),
    "p7": (2.40430175053428, 2.40430175053428, 0.0615110513113507),
}
RCNN = {
    "p2": (126.709267815707, 668.011928092829, -0.208564046744615),
    "p5": (1.61225650424978, 12.8244640530713, -0.203401461786144),
    "p6": (-0.608254371259883, 3.895333582271, -0.208433074164115),
}
STARTS = {
    ("conv", "p3"): (0.0533109413, 0.0927903240, 0.1007909099),
    ("conv", "p4"): (0.3075722344, 0.3058582924, 0.3034492785),
    ("conv", "p5"): (-0.1384868515, -0.0936255771, -0.1021063855),
    ("conv", "p6"): (-0.1533668397, -0.1076648392, 0.0873400311),
    ("conv", "p7"): (0.8029003754, 0.6724370193, 0.4698589810),
    ("pool", "p2"): (0.1125972020, 0.1344558181, 0.1365409548),
    ("pool", "p5"): (-0.1425574589, -0.1685961176, -0.1524687802),
    ("pool", "p6"): (-0.1425574589, -0.1524687802, -0.0489572715),
}


@pytest.mark.parametrize(
    ("first", "extra", "golden"), [("c3", "conv", RETINA), ("c2", "pool", RCNN)], ids=["retina", "rcnn"]
)
def test_feature_pyramid(first, extra, golden):
    """Outputs of 8 channels, five of them, from maps of odd sizes."""
    start = int(first[1]) - 2
    channels = [shape[0] for shape in PYRAMID[start:]]
    outputs = [8] * len(channels) + ([10, 8] if extra == "conv" else [])  # input channels of the 3x3 convolutions
    shapes = {f"lateral_convs.{i}.conv.weight": (8, c, 1, 1) for i, c in enumerate(channels)}
    shapes |= {f"lateral_convs.{i}.conv.bias": (8,) for i in range(len(channels))}
    shapes |= {f"fpn_convs.{i}.conv.weight": (8, c, 3, 3) for i, c in enumerate(outputs)}
    shapes |= {f"fpn_convs.{i}.conv.bias": (8,) for i in range(len(outputs))}
    t = fill(shapes)
    params = {}
    for kind, ours, count in (("lateral", "lateral_c", len(channels)), ("fpn", "output_p", len(outputs))):
        for i in range(count):
            theirs = f"{kind}_convs.{i}.conv"
            params[f"{ours}{i + start + 2}"] = {"kernel": kernel(t, theirs), "bias": t[f"{theirs}.bias"]}
    with jax.enable_x64(True):
        neck = FPN(8, first, 5, extra, dtype=jnp.float64)
        results = jax.jit(neck.apply)({"params": params}, maps(("c2", "c3", "c4", "c5"), PYRAMID))
    assert list(results) == [f"p{level}" for level in range(start + 2, start + 7)]
    for name, values in golden.items():
        check(np.asarray(results[name]).transpose(0, 3, 1, 2), values, STARTS[extra, name], LAST)


def test_semantic_fpn():
    """FPNHead in 4x4, channels 6, 5 classes."""
    convolutions = {f"scale_heads.{i}.{2 * n}": (6, 6 if n else 4, 3, 3) for i in range(4) for n in range(max(i, 1))}
    t = fill(with_norm(convolutions) | {"conv_seg.weight": (5, 6, 1, 1), "conv_seg.bias": (5,)})
    modules = {f"p{i + 2}_conv{n + 1}": f"scale_heads.{i}.{2 * n}" for i in range(4) for n in range(max(i, 1))}
    inputs = maps(("p2", "p3", "p4", "p5"), [(4, 16 // 2**i, 24 // 2**i) for i in range(4)], batch=2)
    with jax.enable_x64(True):
        out = logits(SemanticFPN(5, 6, dtype=jnp.float64), variables(modules, t), inputs)
    golden = (547.954206852659, 567.220353201657, 0.183011112509552)
    check(out, golden, (0.0173977003, 0.0193443367, 0.0205075353), LAST)


UPERNET = {
    "even": (
        (-392.13454465077, 512.783466802278, -0.0183273579286944), (0.0754793414, 0.0759909671, 0.0759485688)
    ),
    "odd": (
        (-1424.46695507396, 1858.75282068979, -0.0183365819369275), (0.0750219764, 0.0754770965, 0.0754426631)
    ),
    "train": (
        (-391.249531427861, 511.772143205872, -0.0159057887026773), (0.0847001092, 0.0782826270, 0.0772706509)
    ),
}  # fmt: skip
EVEN, ODD = ((16, 24), (8, 12), (4, 6), (2, 3)), ((31, 45), (16, 23), (8, 12), (4, 6))


@pytest.mark.parametrize("case", UPERNET)
def test_upernet(case):
    """UPerHead in 3, 4, 5, 6, channels 7, 5 classes; "train" is BatchNorm of the batch, without dropout."""
    channels = (3, 4, 5, 6)
    convolutions = {f"psp_modules.{i}.1": (7, 6, 1, 1) for i in range(4)}
    convolutions |= {"bottleneck": (7, 6 + 4 * 7, 3, 3), "fpn_bottleneck": (7, 4 * 7, 3, 3)}
    convolutions |= {f"lateral_convs.{i}": (7, channels[i], 1, 1) for i in range(3)}
    convolutions |= {f"fpn_convs.{i}": (7, 7, 3, 3) for i in range(3)}
    t = fill(with_norm(convolutions) | {"conv_seg.weight": (5, 7, 1, 1), "conv_seg.bias": (5,)})
    modules = {f"pool{side}": f"psp_modules.{i}.1" for i, side in enumerate((1, 2, 3, 6))}
    modules |= {"bottleneck": "bottleneck", "fpn_bottleneck": "fpn_bottleneck"}
    modules |= {f"lateral_c{i + 2}": f"lateral_convs.{i}" for i in range(3)}
    modules |= {f"output_c{i + 2}": f"fpn_convs.{i}" for i in range(3)}
    sizes = ODD if case == "odd" else EVEN
    inputs = maps(("c2", "c3", "c4", "c5"), [(c, *size) for c, size in zip(channels, sizes, strict=True)], batch=2)
    with jax.enable_x64(True):
        head = UperNet(5, 7, dropout=0.0, dtype=jnp.float64)
        out = logits(head, variables(modules, t), inputs, train=case == "train")
    check(out, *UPERNET[case], LAST)


def test_auxiliary_head():
    """FCNHead in 5, channels 4, 5 classes."""
    t = fill(with_norm({"convs.0": (4, 5, 3, 3)}) | {"conv_seg.weight": (5, 4, 1, 1), "conv_seg.bias": (5,)})
    with jax.enable_x64(True):
        inputs = maps(["c4"], [(5, 4, 6)], batch=2)
        out = logits(FCN(5, 4, dtype=jnp.float64), variables({"conv1": "convs.0"}, t), inputs)
    golden = (27.9839031532754, 27.9839031532754, 0.0599380549876267)
    check(out, golden, (0.0464356431, 0.0462796620, 0.0463713084), LAST)
