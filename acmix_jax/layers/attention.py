"""The attention kinds. A kind receives q, k and v already projected, as maps with the heads apart.

ResNet-ACmix attends to a window around each pixel, SAN weighs such a window in two ways, Swin cuts the map into
windows, PVT attends to a whole (coarser) map. q is `[B, H, W, heads, dim]`, one for each output pixel; k and v may have
their own number of heads (SAN) or grid (PVT; a finer one with a stride). The result is as q, with the heads of v.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
      form: a form of `neighborhood_attention`; None picks the fastest.
    """

    window_size: int = 7
    stride: int = 1
    dilation: int = 1
    position: bool = True
    form: str | None = None
    kernel_init: Initializer = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """Attends: q `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, k and v `[B, H, W, heads, dim]` to as q."""
        embedding = None
        if self.position:
            # The bias cancels out of every logit; it is here because released checkpoints have it.
            kernel, bias = Weights((2, q.shape[-1]), self.kernel_init, name="position")()
            coordinates = position_map(*k.shape[1:3], dtype=kernel.dtype)
            embedding = (coordinates @ kernel + bias).astype(self.dtype)  # [H, W, dim]
        return neighborhood_attention(
            q, k, v, embedding,
            window_size=self.window_size, stride=self.stride, dilation=self.dilation, form=self.form,
        )  # fmt: skip


class _SharedWeights(nn.Module):
    """What SAN's two kinds share: a small network gives each pixel the weights of its window, then v is summed.

    Attributes:
      window_size, stride, dilation: see `ops.patchwise`.
      share: value channels that use the same weight.
      train: BatchNorm normalises by the batch and moves its running statistics.
    """

    window_size: int = 7
    stride: int = 1
    dilation: int = 1
    share: int = 8
    train: bool = False
    dtype: Any = jnp.float32

    @property
    def _window(self):
        return {"window_size": self.window_size, "stride": self.stride, "dilation": self.dilation}

    def _perceptron(self, x, hidden, outputs):
        """BatchNorm, ReLU, linear, twice; the first linear map has no bias."""
        for i, (width, use_bias) in enumerate([(hidden, False), (outputs, True)], start=1):
            x = BatchNorm(use_running_average=not self.train, dtype=self.dtype, name=f"norm{i}")(x)
            x = nn.Dense(
                width, use_bias, kernel_init=torch_default, bias_init=torch_bias(x.shape[-1]), dtype=self.dtype,
                name=f"weight{i}",
            )(nn.relu(x))  # fmt: skip
        return x

    def _aggregate(self, weights, v):
        out = patchwise.aggregate(weights, v.reshape(*v.shape[:3], -1), **self._window)
        return out.reshape(*out.shape[:3], *v.shape[3:])


class PatchwiseAttention(_SharedWeights):
    """SAN's patchwise attention: the weights come from q and the whole window of k, without softmax or position.

    Takes q, k `[B, H, W, 1, dim]` and v `[B, H, W, heads, dim]` (Zhao et al., CVPR 2020, section 3.2).
    """

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        shared, taps = v.shape[-1] * v.shape[-2] // self.share, self.window_size**2
        q, k = (x.reshape(*x.shape[:3], -1) for x in (q, k))
        patches = patchwise.unfold(k, **self._window).swapaxes(-1, -2)  # [B, H, W, channels, taps]
        x = jnp.concatenate([q, patches.reshape(*patches.shape[:3], -1)], axis=-1)
        weights = self._perceptron(x, hidden=shared, outputs=shared * taps)
        return self._aggregate(weights.reshape(*weights.shape[:3], shared, taps), v)


class PairwiseAttention(_SharedWeights):
    """SAN's pairwise attention: each weight comes from the difference between two pixels, softmax over the window.

    Takes q, k `[B, H, W, 1, dim]` and v `[B, H, W, heads, dim]` (Zhao et al., CVPR 2020, section 3.1, subtraction).
    """

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        shared = v.shape[-1] * v.shape[-2] // self.share
        q, k = (x.reshape(*x.shape[:3], -1) for x in (q, k))

        def difference(x, y):  # [B, H, W, taps, C]
            return x[:, :, :, None] - patchwise.unfold(y, **self._window)

        kernel, bias = Weights((2, 2), name="position")()
        place = (position_map(*k.shape[1:3], dtype=kernel.dtype) @ kernel + bias)[None]
        relation = difference(q, k)
        # Neighbours are close to each other, so their difference is taken before the type gets narrow.
        offset = jnp.broadcast_to(
            difference(place[:, :: self.stride, :: self.stride], place).astype(self.dtype), (*relation.shape[:-1], 2)
        )
        x = jnp.concatenate([relation, offset], axis=-1)
        logits = self._perceptron(x, hidden=q.shape[-1], outputs=shared)
        weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-2)
        return self._aggregate(weights.astype(self.dtype).swapaxes(-1, -2), v)


class WindowAttention(nn.Module):
    """Softmax attention inside the windows of a map, with a learned bias for each offset (Swin).

    The map is already padded to multiples of the window and, for shifted windows, rolled.

    Attributes:
      window_size: width of the windows that the bias table has offsets for (7 in Swin).
      window: the (height, width) of a window here, at most `window_size`.
      shift: how far the map was rolled up and to the left; pixels that only the roll brought together are masked.
    """

    window_size: int = 7
    window: tuple[int, int] = (7, 7)
    shift: tuple[int, int] = (0, 0)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """q, k, v `[B, H, W, heads, dim]`, the same shape out."""
        height, width, heads = q.shape[1:4]
        table = self.param("relative_position_bias", normal_02, ((2 * self.window_size - 1) ** 2, heads))
        bias = table[relative_position_index(self.window, self.window_size)]  # [pixels, pixels, heads]
        mask = shift_mask(height, width, self.window, self.shift)[:, None] if any(self.shift) else None
        out = softmax_attention(*(partition(x, self.window) for x in (q, k, v)), bias.transpose(2, 0, 1), mask)
        return reverse(out, self.window, height, width)


class GlobalAttention(nn.Module):
    """Softmax attention of every pixel to every pixel of k and v, whose grid may be coarser (PVT)."""

    dtype: Any = jnp.float32

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, tokens: tuple[jax.Array, ...] = ()) -> Any:
        """Attends: q `[B, H, W, heads, dim]` and k, v `[B, H', W', heads, dim]` to the shape of q.

        `tokens`: q, k and v `[B, T, heads, dim]` of tokens that have no place on the map but take part; with them,
        the result is the pair (map, `[B, T, heads, dim]`).
        """
        sequences = [x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (q, k, v)]
        if not tokens:
            return softmax_attention(*sequences).reshape(q.shape)
        joined = (jnp.concatenate(pair, axis=1) for pair in zip(tokens, sequences, strict=True))
        out = softmax_attention(*joined)
        count = tokens[0].shape[1]
        return out[:, count:].reshape(q.shape), out[:, :count]
