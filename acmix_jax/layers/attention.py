"""Stage II, attention: the kinds, each from q, k and v with the heads apart.

LocalAttention (ResNet-ACmix) attends to a window around each pixel; PatchwiseAttention and PairwiseAttention (SAN)
weigh such a window in two ways; WindowAttention (Swin) cuts the map into windows; GlobalAttention (PVT) attends to a
whole, coarser map. q is `[B, H, W, heads, dim]`, one for each output pixel; k and v may have another number of heads
(SAN) or another grid (PVT; with a stride). The result has the pixels of q and the heads of v.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from acmix_jax.layers.norm import BatchNorm
from acmix_jax.layers.weights import Initializer, Weights, normal_02, torch_bias, torch_default
from acmix_jax.ops import patchwise
from acmix_jax.ops.attention import softmax_attention
from acmix_jax.ops.neighborhood import neighborhood_attention, position_map
from acmix_jax.ops.window import partition, relative_position_index, reverse, shift_mask


class LocalAttention(nn.Module):
    """Softmax attention over a window around each pixel, with a relative position term (ResNet-ACmix).

    Attributes:
      window_size: width of the window in taps, odd (7 in the paper).
      stride, dilation: see `ops.neighborhood`.
      position: adds the relative position term, a learned linear map of the coordinate difference.
      position_size: side of a result, before rounding it up, whose distance between coordinates is kept on maps of any
        size (see `ops.neighborhood.position_map`); None for coordinates from -1 to 1 over any map, as released.
      form: a form of `neighborhood_attention`; None for the default of `ops/choice.py`.
    """

    window_size: int = 7
    stride: int = 1
    dilation: int = 1
    position: bool = True
    position_size: float | None = None
    form: str | None = None
    kernel_init: Initializer = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Q `[B, ceil(H / stride), ceil(W / stride), heads, dim]`; k, v `[B, H, W, heads, dim]`; result as q."""
        embedding = None
        if self.position:
            # The bias cancels out of every logit; it is here because released checkpoints have it.
            kernel, bias = Weights((2, q.shape[-1]), self.kernel_init, name="position")()
            size = self.position_size and math.ceil(self.position_size * self.stride)
            coordinates = position_map(*k.shape[1:3], kernel.dtype, size)
            embedding = (coordinates @ kernel + bias).astype(self.dtype)  # [H, W, dim]
        return neighborhood_attention(
            q, k, v, embedding,
            window_size=self.window_size, stride=self.stride, dilation=self.dilation, form=self.form,
        )  # fmt: skip


class _SharedWeights(nn.Module):
    """Base of SAN's two kinds: a small network gives each pixel the weights of its window, by which v is summed.

    Attributes:
      window_size, stride, dilation: see `ops.patchwise`.
      share: value channels that use the same weight.
    """

    window_size: int = 7
    stride: int = 1
    dilation: int = 1
    share: int = 8
    dtype: Any = jnp.float32

    @property
    def _window(self):
        return {"window_size": self.window_size, "stride": self.stride, "dilation": self.dilation}

    def _perceptron(self, x, hidden, outputs, train):
        """BatchNorm, ReLU, linear, twice; the first linear map has no bias."""
        for i, (width, use_bias) in enumerate([(hidden, False), (outputs, True)], start=1):
            x = BatchNorm(use_running_average=not train, dtype=self.dtype, name=f"norm{i}")(x)
            x = nn.Dense(
                width, use_bias, kernel_init=torch_default, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype,
                name=f"weight{i}",
            )(nn.relu(x))  # fmt: skip
        return x

    def _aggregate(self, weights, v):
        out = patchwise.aggregate(weights, lax.collapse(v, 3), **self._window)
        return out.reshape(*out.shape[:3], *v.shape[3:])


class PatchwiseAttention(_SharedWeights):
    """SAN's patchwise attention: weights from q and the whole window of k, without softmax or position.

    q, k `[B, H, W, 1, dim]`, v `[B, H, W, heads, dim]`; with `train`, BatchNorm normalises by the batch (Zhao et al.,
    CVPR 2020, section 3.2).
    """

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool = False) -> jax.Array:
        shared, taps = v.shape[-1] * v.shape[-2] // self.share, self.window_size**2
        q, k = (lax.collapse(x, 3) for x in (q, k))
        patches = patchwise.unfold(k, **self._window).swapaxes(-1, -2)  # [B, H, W, channels, taps]
        x = jnp.concatenate([q, lax.collapse(patches, 3)], axis=-1)
        weights = self._perceptron(x, shared, shared * taps, train)
        return self._aggregate(weights.reshape(*weights.shape[:3], shared, taps), v)


class PairwiseAttention(_SharedWeights):
    """SAN's pairwise attention: each weight from the difference of two pixels, with a softmax over the window.

    Attributes, beside those of SAN's kinds:
      position_size: as in `LocalAttention`, but rounded down.

    q, k `[B, H, W, 1, dim]`, v `[B, H, W, heads, dim]`; with `train`, BatchNorm normalises by the batch (Zhao et al.,
    CVPR 2020, section 3.1, subtraction).
    """

    position_size: float | None = None

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool = False) -> jax.Array:
        shared = v.shape[-1] * v.shape[-2] // self.share
        q, k = (lax.collapse(x, 3) for x in (q, k))

        def difference(x, y):  # [B, H, W, taps, C]
            return x[:, :, :, None] - patchwise.unfold(y, **self._window)

        kernel, bias = Weights((2, 2), name="position")()
        size = self.position_size and math.floor(self.position_size)
        position = (position_map(*k.shape[1:3], kernel.dtype, size) @ kernel + bias)[None]
        relation = difference(q, k)
        # Positions of neighbours differ little, so they are subtracted before they are cast to a narrow type.
        offset = difference(position[:, :: self.stride, :: self.stride], position).astype(self.dtype)
        offset = jnp.broadcast_to(offset, (*relation.shape[:-1], 2))
        x = jnp.concatenate([relation, offset], axis=-1)
        logits = self._perceptron(x, q.shape[-1], shared, train)
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-2)
        return self._aggregate(weights.astype(self.dtype).swapaxes(-1, -2), v)


class WindowAttention(nn.Module):
    """Softmax attention inside the windows of a map, with a learned bias for each offset (Swin).

    Attributes:
      window_size: width of the windows that the bias table has offsets for (7 in Swin).
    """

    window_size: int = 7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: tuple[int, int] | None = None,
        shift: tuple[int, int] = (0, 0),
    ) -> jax.Array:
        """q, k, v `[B, H, W, heads, dim]` to the same shape.

        Args:
          window: (height, width) of a window, at most `window_size`, which is the default; H and W are multiples of it.
          shift: distance that the map was rolled up and to the left before; pixels that only the roll brought together
            are masked.
        """
        self.sow("intermediates", "shift", np.array(shift))  # for analysis of maps that are rolled here
        window = window or (self.window_size, self.window_size)
        height, width, heads, dim = q.shape[1:]
        table = self.param("relative_position_bias", normal_02, ((2 * self.window_size - 1) ** 2, heads), jnp.float32)
        bias = table[relative_position_index(window, self.window_size)]  # [pixels, pixels, heads]
        mask = shift_mask(height, width, window, shift)[:, None] if any(shift) else None

        def to_windows(x):  # cut with the channels in one axis: TPUs move whole lanes then, and not those of each head
            cut = partition(x.reshape(*x.shape[:3], heads * dim), window)
            return cut.reshape(*cut.shape[:3], heads, dim)

        out = softmax_attention(*map(to_windows, (q, k, v)), bias.transpose(2, 0, 1), mask)
        return reverse(out.reshape(*out.shape[:3], heads * dim), window, height, width).reshape(q.shape)


class GlobalAttention(nn.Module):
    """Softmax attention of every pixel to every pixel of k and v, whose grid may be coarser (PVT)."""

    dtype: Any = jnp.float32

    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, tokens: tuple[jax.Array, jax.Array, jax.Array] | None = None
    ) -> Any:
        """Q `[B, H, W, heads, dim]`; k, v `[B, H', W', heads, dim]`; result as q.

        Args:
          tokens: q, k and v `[B, T, heads, dim]` of tokens that take part beside the map. With them, the result is the
            pair (map, `[B, T, heads, dim]`).
        """
        sequences = [lax.collapse(x, 1, 3) for x in (q, k, v)]
        if tokens is None:
            return softmax_attention(*sequences).reshape(q.shape)
        joined = (jnp.concatenate(pair, axis=1) for pair in zip(tokens, sequences, strict=True))
        out = softmax_attention(*joined)
        count = tokens[0].shape[1]
        return out[:, count:].reshape(q.shape), out[:, :count]
