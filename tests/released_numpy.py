"""ResNet-ACmix and Swin-ACmix in slow, obvious float64 NumPy: an oracle for whole networks.

Both networks compute what the released PyTorch code of LeapLabTHU/ACmix computes in evaluation mode, from a state dict
in its names and layouts. Images are `[B, C, H, W]`, as are the maps of ResNet; those of Swin are `[B, H, W, C]`.
Without a `rate1`, a block is that of the plain network. Nothing here is from `acmix_jax`, so agreement means something.
"""

import math

import numpy as np
from scipy.special import erf


def as_float64(state):
    return {name: np.asarray(value, np.float64) for name, value in state.items()}


def under(state, prefix):
    """The tensors whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def linear(x, t):
    return x @ t["weight"].T + t.get("bias", 0.0)


def conv2d(x, weight, bias=None, stride=1, padding=0, groups=1):
    """Zero-padded cross-correlation in `groups` independent groups of channels, one kernel tap after the other."""
    batch, channels, height, width = x.shape
    features, _, rows, cols = weight.shape
    h_out, w_out = ((size + 2 * padding - k) // stride + 1 for size, k in ((height, rows), (width, cols)))
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((batch, groups, features // groups, h_out * w_out))
    for i in range(rows):
        for j in range(cols):
            tap = x[:, :, i : i + stride * h_out : stride, j : j + stride * w_out : stride]
            matrix = weight[:, :, i, j].reshape(groups, features // groups, channels // groups)
            out += np.ascontiguousarray(matrix) @ tap.reshape(batch, groups, channels // groups, h_out * w_out)
    out = out.reshape(batch, features, h_out, w_out)
    return out if bias is None else out + bias[:, None, None]


def pointwise(x, weight, bias):
    """1x1 convolution; the weight is `[out, in]` or `[out, in, 1, 1]`."""
    return conv2d(x, weight.reshape(*weight.shape[:2], 1, 1), bias)


def batch_norm(x, t, eps=1e-5):
    scale = t["weight"] / np.sqrt(t["running_var"] + eps)
    return (x - t["running_mean"][:, None, None]) * scale[:, None, None] + t["bias"][:, None, None]


def layer_norm(x, t, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * t["weight"] + t["bias"]


def softmax(x, axis):
    weights = np.exp(x - x.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def neighbours(x, kernel, stride, **padding):
    """The kernel x kernel surroundings of every stride-th pixel of `[..., H, W]`, row by row, as a new first axis."""
    height, width = x.shape[-2:]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(kernel // 2, kernel // 2)] * 2, **padding)
    offsets = [(i, j) for i in range(kernel) for j in range(kernel)]
    return np.stack([padded[..., i : i + height : stride, j : j + width : stride] for i, j in offsets])


def convolution_path(pieces, t, stride=1):
    """ACmix's convolution of the 3N maps `[B, 3N, d, H, W]` (all q heads, then k, then v): fc, then shift and sum."""
    batch, _, dim, height, width = pieces.shape
    matrix = t["fc.weight"].reshape(t["fc.weight"].shape[:2])
    taps = np.einsum("tp,bpjyx->bjtyx", matrix, pieces, optimize=True)
    if "fc.bias" in t:  # in Swin only
        taps = taps + t["fc.bias"][:, None, None]
    # Group j of dep_conv sees the 9 taps of in-head index j and makes all its N outputs, so that the output channel is
    # j * N + n, whereas attention's is n * d + j. The released code adds the two as they are.
    return conv2d(taps.reshape(batch, -1, height, width), t["dep_conv.weight"], None, stride, padding=1, groups=dim)


def acmix_resnet(t, x, stride=1, heads=4, kernel_att=7):
    """The operator that replaces a 3x3 convolution: `[B, Cin, H, W]` -> `[B, C, H / stride, W / stride]`."""
    t = as_float64(t)
    batch, _, height, width = x.shape
    assert min(height, width) > kernel_att // 2, "reflection padding needs a map larger than the padding"
    assert height % stride == width % stride == 0, "the released code needs a size that the stride divides"
    q, k, v = (pointwise(x, t[f"conv{n}.weight"], t[f"conv{n}.bias"]) for n in (1, 2, 3))
    q, k, v = (y.reshape(batch, heads, -1, height, width) for y in (q, k, v))  # head-major channels

    ys, xs = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    position = pointwise(np.stack([xs, ys])[None], t["conv_p.weight"], t["conv_p.bias"])  # [1, d, H, W]
    relative = position[..., ::stride, ::stride] - neighbours(position, kernel_att, stride, mode="reflect")
    keys = neighbours(k, kernel_att, stride, mode="reflect") + relative[:, :, None]  # [p, B, N, d, H', W']
    query = q[..., ::stride, ::stride] * q.shape[2] ** -0.5  # the convolution takes the unscaled q
    weights = softmax(np.einsum("bnjyx,pbnjyx->pbnyx", query, keys), axis=0)
    attended = np.einsum("pbnyx,pbnjyx->bnjyx", weights, neighbours(v, kernel_att, stride, mode="reflect"))

    convolved = convolution_path(np.concatenate([q, k, v], axis=1), t, stride)
    return t["rate1"] * attended.reshape(convolved.shape) + t["rate2"] * convolved


def bottleneck(t, x, stride):
    y = np.maximum(batch_norm(conv2d(x, t["conv1.weight"]), under(t, "bn1.")), 0)
    if "conv2.rate1" in t:
        y = acmix_resnet(under(t, "conv2."), y, stride)
    else:
        y = conv2d(y, t["conv2.weight"], stride=stride, padding=1)
    y = np.maximum(batch_norm(y, under(t, "bn2.")), 0)
    y = batch_norm(conv2d(y, t["conv3.weight"]), under(t, "bn3."))
    if "downsample.0.weight" in t:
        x = batch_norm(conv2d(x, t["downsample.0.weight"], stride=stride), under(t, "downsample.1."))
    return np.maximum(x + y, 0)


def resnet_acmix(state, images, depths=(1, 2, 4, 1), stem=(7, 2, True)):
    """Logits `[B, K]` of images `[B, C, H, W]`; `stem` is (kernel size, stride, whether the max pool follows)."""
    state = as_float64(state)
    kernel, stride, pool = stem
    assert state["conv1.weight"].shape[2:] == (kernel, kernel)
    x = conv2d(np.asarray(images, np.float64), state["conv1.weight"], stride=stride, padding=kernel // 2)
    x = np.maximum(batch_norm(x, under(state, "bn1.")), 0)
    if pool:
        x = neighbours(x, 3, 2, mode="constant", constant_values=-np.inf).max(0)
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            x = bottleneck(under(state, f"layer{stage}.{block}."), x, stride=2 if stage > 1 and block == 0 else 1)
    return linear(x.mean((2, 3)), under(state, "fc."))


def window_partition(x, window):
    """`[B, H, W, C]` -> `[B, windows, window * window, C]`, windows and their pixels row by row."""
    batch, height, width, channels = x.shape
    assert height % window == width % window == 0, "windows must tile the map"
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, window * window, channels)


def shift_mask(height, width, window, shift):
    """`[windows, L, L]`: -100 between pixels of a rolled map that are no neighbours in the map before rolling."""
    region = np.zeros((1, height, width, 1))
    slices = slice(0, -window), slice(-window, -shift), slice(-shift, None)
    for i, rows in enumerate(slices):
        for j, cols in enumerate(slices):
            region[:, rows, cols] = 3 * i + j
    region = window_partition(region, window)[0, :, :, 0]
    return np.where(region[:, :, None] != region[:, None, :], -100.0, 0.0)


def relative_position_bias(table, window):
    """`[N, L, L]` of the table `[(2M - 1)**2, N]`; of a table for a larger window, the offsets that occur."""
    side = math.isqrt(len(table))
    rows, cols = np.divmod(np.arange(window * window), window)
    dy, dx = rows[:, None] - rows, cols[:, None] - cols  # query minus key
    return table[(dy + side // 2) * side + dx + side // 2].transpose(2, 0, 1)


def window_attention(t, x, heads, window, mask=0.0):
    """Attention of a (rolled) map within its windows and, if there is a `rate1`, ACmix's convolution of all of it."""
    t = as_float64(t)
    batch, height, width, channels = x.shape
    qkv = linear(x, under(t, "qkv."))
    windows = window_partition(qkv, window)
    windows = windows.reshape(*windows.shape[:3], 3, heads, channels // heads)
    q, k, v = (windows[:, :, :, n] for n in range(3))  # each [B, windows, L, N, d]
    logits = np.einsum("bwqnj,bwknj->bnwqk", q * (channels // heads) ** -0.5, k)
    logits = logits + relative_position_bias(t["relative_position_bias_table"], window)[:, None] + mask
    attended = np.einsum("bnwqk,bwknj->bwqnj", softmax(logits, axis=-1), v)
    attended = linear(attended.reshape(batch, height // window, width // window, window, window, -1), under(t, "proj."))
    attended = attended.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)  # the windows back in their places
    if "rate1" not in t:
        return attended
    # The convolution sees the map as it is given: across windows, across the seam of the roll, and unprojected.
    pieces = qkv.reshape(batch, height, width, 3 * heads, channels // heads).transpose(0, 3, 4, 1, 2)
    return t["rate1"] * attended + t["rate2"] * convolution_path(pieces, t).transpose(0, 2, 3, 1)


def swin_block(t, x, heads, window, shift):
    t, x = as_float64(t), np.asarray(x, np.float64)
    height, width = x.shape[1:3]
    if min(height, width) <= window:  # the classifier's rule: windows no larger than the map, and then no shift
        window, shift = min(height, width), 0
    mask = shift_mask(height, width, window, shift) if shift else 0.0
    y = np.roll(layer_norm(x, under(t, "norm1.")), (-shift, -shift), (1, 2))
    x = x + np.roll(window_attention(under(t, "attn."), y, heads, window, mask), (shift, shift), (1, 2))
    y = linear(layer_norm(x, under(t, "norm2.")), under(t, "mlp.fc1."))
    y = 0.5 * y * (1 + erf(y / math.sqrt(2)))
    return x + linear(y, under(t, "mlp.fc2."))


def patch_merging(t, x):
    assert x.shape[1] % 2 == x.shape[2] % 2 == 0, "patch merging needs an even map"
    quarters = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]  # the row offset runs first
    return linear(layer_norm(np.concatenate(quarters, -1), under(t, "norm.")), under(t, "reduction."))


def swin_acmix(state, images, depths, num_heads, window=7, patch=4):
    """Logits `[B, K]` of images `[B, C, H, W]`."""
    state = as_float64(state)
    assert images.shape[2] % patch == images.shape[3] % patch == 0, "patches must tile the image"
    embed = under(state, "patch_embed.")
    x = conv2d(np.asarray(images, np.float64), embed["proj.weight"], embed["proj.bias"], stride=patch)
    x = layer_norm(x.transpose(0, 2, 3, 1), under(embed, "norm."))
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        t = under(state, f"layers.{stage}.")
        for block in range(depth):
            x = swin_block(under(t, f"blocks.{block}."), x, heads, window, shift=window // 2 if block % 2 else 0)
        if stage < len(depths) - 1:
            x = patch_merging(under(t, "downsample."), x)
    return linear(layer_norm(x, under(state, "norm.")).mean((1, 2)), under(state, "head."))


def _affine(name, *weight, stats=False):
    """A weight and its bias; `stats` adds what a BatchNorm tracks."""
    names = ("bias", "running_mean", "running_var") if stats else ("bias",)
    return {f"{name}.weight": weight} | {f"{name}.{n}": weight[:1] for n in names}


def resnet_acmix_shapes(depths, width=64, stem_kernel=7, channels=3, num_classes=10):
    """{name: shape} of a released ResNet-ACmix checkpoint, without `num_batches_tracked`."""
    shapes = {"conv1.weight": (width, channels, stem_kernel, stem_kernel)} | _affine("bn1", width, stats=True)
    features = width
    for stage, depth in enumerate(depths):
        mid = width * 2**stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            shapes |= {f"{name}.conv1.weight": (mid, features, 1, 1)} | _affine(f"{name}.bn1", mid, stats=True)
            shapes |= {f"{name}.conv2.rate1": (1,), f"{name}.conv2.rate2": (1,)}
            for n in (1, 2, 3):
                shapes |= _affine(f"{name}.conv2.conv{n}", mid, mid, 1, 1)
            shapes |= _affine(f"{name}.conv2.conv_p", mid // 4, 2, 1, 1)
            shapes |= {f"{name}.conv2.fc.weight": (9, 12, 1, 1), f"{name}.conv2.dep_conv.weight": (mid, 9, 3, 3)}
            shapes |= _affine(f"{name}.bn2", mid, stats=True)
            shapes |= {f"{name}.conv3.weight": (4 * mid, mid, 1, 1)} | _affine(f"{name}.bn3", 4 * mid, stats=True)
            if block == 0:
                shapes |= {f"{name}.downsample.0.weight": (4 * mid, features, 1, 1)}
                shapes |= _affine(f"{name}.downsample.1", 4 * mid, stats=True)
            features = 4 * mid
    return shapes | _affine("fc", num_classes, features)


def swin_acmix_shapes(depths, num_heads, width, patch, window=7, channels=3, num_classes=10):
    """{name: shape} of a released Swin-ACmix checkpoint, without the index and mask buffers."""
    shapes = _affine("patch_embed.proj", width, channels, patch, patch) | _affine("patch_embed.norm", width)
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        dim = width * 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shapes |= _affine(f"{name}.norm1", dim)
            shapes |= {f"{name}.attn.rate1": (1,), f"{name}.attn.rate2": (1,)}
            shapes |= {f"{name}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, heads)}
            shapes |= _affine(f"{name}.attn.qkv", 3 * dim, dim) | _affine(f"{name}.attn.proj", dim, dim)
            shapes |= _affine(f"{name}.attn.fc", 9, 3 * heads, 1, 1) | {f"{name}.attn.dep_conv.weight": (dim, 9, 3, 3)}
            shapes |= _affine(f"{name}.norm2", dim)
            shapes |= _affine(f"{name}.mlp.fc1", 4 * dim, dim) | _affine(f"{name}.mlp.fc2", dim, 4 * dim)
        if stage < len(depths) - 1:
            name = f"layers.{stage}.downsample"
            shapes |= {f"{name}.reduction.weight": (2 * dim, 4 * dim)} | _affine(f"{name}.norm", 4 * dim)
    return shapes | _affine("norm", dim) | _affine("head", num_classes, dim)


def random_state(shapes, seed):
    """A state dict that keeps activations of order one; in float32, which a network under test can hold exactly."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        normal = rng.standard_normal(shape)
        if name.endswith(("rate1", "rate2")):  # unequal and of both signs, so that no mix-up goes unseen
            value = (0.7 if name.endswith("rate1") else -0.4) + 0.05 * normal
        elif name.endswith("relative_position_bias_table"):
            value = normal
        elif len(shape) > 1:
            value = normal / math.sqrt(math.prod(shape[1:]))
        elif name.endswith(("bias", "running_mean")):
            value = 0.1 * normal
        else:  # weights of norms, running variances
            value = rng.uniform(0.5, 1.5, shape)
        state[name] = value.astype(np.float32)
    return state
