"""The ACmix operator (Pan et al., CVPR 2022, section 4): one projection, aggregated twice."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from acmix_jax.errors import UserError, check_choice
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.layers.weights import Initializer, Weights, torch_bias, torch_default
from acmix_jax.ops import choice, shift
from acmix_jax.ops.xla_cpu import add_to_each, linear

PATHS = ("both", "attention", "convolution")
COMBINATIONS = ("learned", "convex", "fixed")


class ACmix(nn.Module):
    """`alpha * attention + beta * convolution` over the same projections q, k and v.

    Stage I projects x three times (1x1). Stage II aggregates the result as attention, and as a convolution: fc mixes
    the pieces (heads of q, k and v) into kernel_size**2 maps, which are shifted and summed. As it stands, a drop-in
    for a 3x3 convolution: `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), features]`. With another
    attention kind and `paths="attention"`, it is the attention layer of SAN, Swin or PVT.

    Where the released PyTorch code crashes, this layer means: on odd sizes with a stride, output pixel (i, j) is
    centred on input pixel (stride * i, stride * j), in both paths; `dilation` spreads the attention window and the
    shifts alike, as in a dilated convolution; `kernel_size` 1, 5, ... has that many shifts an axis and zero padding
    that keeps the size; a map smaller than the window is reflected as often as needed (ops/neighborhood.py);
    with `dtype=bfloat16` the parameters and the softmax stay in float32.

    Attributes:
      features: channels of v and of the output, divisible by `num_heads`.
      num_heads: heads of v, and of q and k too if `qk_heads` is None; N in the paper.
      qk_heads: heads of q and of k, as wide as those of v; 1 in SAN.
      attention: the attention kind: a module class or partial that takes dtype and name, and stride and dilation
        where they are not 1: LocalAttention, PatchwiseAttention and PairwiseAttention do. With `reduction`, only
        GlobalAttention will do; WindowAttention needs a map of whole windows.
      kernel_size: width of the convolution, odd (k_c in the paper).
      reduction: k and v come from a map this much smaller, made by a strided convolution and LayerNorm (PVT). The
        convolution path repeats them to the full size.
      project: a linear map after the attention, which the convolution path does not pass (Swin, PVT).
      paths: "both", or only "attention" or "convolution" (then without alpha and beta).
      combination: of both paths (paper, table 6): alpha and beta "learned", each by itself; "convex", alpha and
        1 - alpha; or "fixed" at a half each. All keep alpha and beta as parameters, so that what reads, folds or
        converts them need not know; with "convex" they move by equal and opposite steps.
      shift_form: a form of ops/shift.py; None picks the fastest. Kernels that fold.py composed stay dense.
      shift_init: start the convolution as shifts (the paper); False draws its kernel from `conv_init`, which is
        what the released ResNet does.
      shared_shift: the heads share one shift kernel, so that each repeats what the others see (paper, figure 3c, one
        group convolution instead of N); for the ablation, neither folded nor converted.
      fc_bias: gives fc a bias (the released Swin variant).
      kernel_init, bias_init: initialisers of the linear maps; None is PyTorch's bias.
      conv_init: initialiser of fc; None is `kernel_init`.
      dtype: type of the computation and the result.

    Channel order as in the released code: attention channel h * dim + j meets convolution channel j * num_heads + n.

    Raises:
      UserError: sizes that do not divide, even sizes without a centre, unknown names.
    """

    features: int
    num_heads: int = 4
    qk_heads: int | None = None
    attention: Callable[..., nn.Module] = LocalAttention
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    reduction: int = 1
    project: bool = False
    paths: str = "both"
    combination: str = "learned"
    shift_form: str | None = None
    shift_init: bool = True
    shared_shift: bool = False
    fc_bias: bool = False
    kernel_init: Initializer = torch_default
    bias_init: Initializer | None = None
    conv_init: Initializer | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None) -> Any:
        """Mixes x `[B, H, W, C]` as described above.

        `tokens` `[B, T, C]` have no place on the map (PVT's class token): the attention sees them, the convolution
        does not. With them, the result is the pair (map, `[B, T, features]`).
        """
        check_choice("paths", self.paths, PATHS)
        check_choice("combination", self.combination, COMBINATIONS)
        if self.features % self.num_heads:
            raise UserError(f"features={self.features} is not divisible by num_heads={self.num_heads}")
        if tokens is not None and self.paths == "convolution":
            raise UserError("paths='convolution' leaves the class token without input; use attention or both")
        x = x.astype(self.dtype)
        qkv = Weights((x.shape[-1], sum(self._widths)), self._init_each_projection, self.bias_init, name="qkv")()
        form = self.shift_form or choice.convolution_form(x.shape[-1])
        check_choice("shift_form", form, shift.FORMS)
        if self.has_variable("folded", "kernel"):
            form = "dense"
        # With a stride, attention needs fewer queries than the convolution path, which takes none where it is dense.
        stride = self.stride if self.paths == "attention" or form == "dense" else 1
        with jax.named_scope("stage1"):
            pieces = self._project_map(x, stride, *qkv)
            if tokens is not None:
                tokens = self._project(tokens.astype(self.dtype), *qkv)
        alpha, beta = self._factors()
        attended = convolved = None
        if self.paths != "convolution":
            with jax.named_scope("stage2_attention"):
                queries, keys, values = self._split(pieces)
                if stride != self.stride:
                    queries = queries[:, :: self.stride, :: self.stride]
                attended = self._attend(queries, keys, values, tokens)
        if self.paths != "attention":
            with jax.named_scope("stage2_convolution"):
                convolved = self._convolve(form, x, pieces, beta, *qkv)
        return self.weighted_sum(alpha, attended, convolved)

    def _factors(self):
        """Alpha and beta; fold.py leaves one factor, that of the attention."""
        if self.has_variable("folded", "scale"):
            return self.get_variable("folded", "scale"), 1.0
        if self.paths != "both":
            return 1.0, 1.0
        alpha, beta = (self.param(name, nn.initializers.constant(0.5), ()) for name in ("alpha", "beta"))
        if self.combination == "convex":  # gives back what it gets if the two add up to 1, and keeps it so
            return (1 + alpha - beta) / 2, (1 + beta - alpha) / 2
        return (alpha, beta) if self.combination == "learned" else jax.lax.stop_gradient((alpha, beta))

    def weighted_sum(self, alpha, attended, convolved):
        """What the layer returns; None for a path that is not there. The convolution comes with beta in it.

        A method of its own so that analysis/path_norms.py can watch it.
        """
        attended, tokens = attended if isinstance(attended, tuple) else (attended, None)
        parts = [x for x in (None if attended is None else alpha * attended, convolved) if x is not None]
        mixed = sum(parts).astype(self.dtype)
        return mixed if tokens is None else (mixed, (alpha * tokens).astype(self.dtype))

    @property
    def _heads(self):
        """Heads of q, k and v: the pieces of Stage I."""
        qk_heads = self.num_heads if self.qk_heads is None else self.qk_heads
        return qk_heads, qk_heads, self.num_heads

    @property
    def _widths(self):
        """Channels of q, k and v."""
        return tuple(heads * (self.features // self.num_heads) for heads in self._heads)

    def _init_each_projection(self, key, shape, dtype=jnp.float32):
        """q, k and v are three maps to the initialiser, whose fan-out is one of them."""
        keys = jax.random.split(key, 3)
        parts = [self.kernel_init(k, (shape[0], width), dtype) for k, width in zip(keys, self._widths, strict=True)]
        return jnp.concatenate(parts, axis=1)

    def _project(self, x, kernel, bias):
        """Stage I for `[..., C]`: the pieces `[..., pieces, dim]`, heads of q, then of k, then of v."""
        # Pixels in one axis: for a bias added to a map, XLA on CPUs writes the gradient of the projections twice.
        projected = linear(x, kernel.astype(self.dtype)).reshape(-1, kernel.shape[-1])
        return add_to_each(projected, bias).reshape(*x.shape[:-1], -1, self.features // self.num_heads)

    def _project_map(self, x, stride, kernel, bias):
        """All pieces `[B, H, W, pieces, dim]`, where they are on one grid, else those of q and those of k with v.

        q is then `[B, H / stride, W / stride, heads, dim]`; k and v `[B, H, W, ...]`, or smaller by `reduction`.
        """
        queries = self._widths[0]
        if self.reduction > 1:
            size = (self.reduction, self.reduction)
            coarse = nn.Conv(
                x.shape[-1], size, size, padding="VALID", bias_init=torch_bias(self.reduction**2 * x.shape[-1]),
                kernel_init=torch_default, dtype=self.dtype, name="reduce",
            )(x)  # fmt: skip
            coarse = nn.LayerNorm(1e-5, use_fast_variance=False, dtype=self.dtype, name="reduce_norm")(coarse)
        elif stride == 1:
            return (self._project(x, kernel, bias),)
        else:
            coarse = x
        return (
            self._project(x[:, ::stride, ::stride], kernel[:, :queries], bias[:queries]),
            self._project(coarse, kernel[:, queries:], bias[queries:]),
        )

    def _split(self, pieces, axis=3):
        """The pieces of q, k and v apart."""
        ends = np.cumsum(self._heads)[:-1]
        if len(pieces) == 1:
            return jnp.split(pieces[0], ends, axis)
        return pieces[0], *jnp.split(pieces[1], ends[1:] - ends[0], axis)

    def _attend(self, queries, keys, values, tokens):
        place = {name: getattr(self, name) for name in ("stride", "dilation") if getattr(self, name) != 1}
        kind = self.attention(dtype=self.dtype, name="attention", **place)
        if tokens is None:
            return self._merge_heads(kind(queries, keys, values))[0]
        return self._merge_heads(*kind(queries, keys, values, tokens=self._split((tokens,), axis=2)))

    def _merge_heads(self, *outputs):
        """`[..., heads, dim]` to `[..., features]`, and the linear map after it."""
        outputs = tuple(out.reshape(*out.shape[:-2], self.features) for out in outputs)
        if not self.project:
            return outputs
        proj = nn.Dense(
            self.features, kernel_init=self.kernel_init, bias_init=self.bias_init or torch_bias(self.features),
            dtype=self.dtype, name="proj",
        )  # fmt: skip
        return tuple(proj(out) for out in outputs)

    def _convolve(self, form, x, pieces, beta, qkv, qkv_bias):
        """The convolution path, times beta."""
        if self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size} has no centre pixel; use an odd number")
        place = {"stride": self.stride, "dilation": self.dilation}
        composed = self.get_variable("folded", "kernel"), self.get_variable("folded", "bias_kernel")
        if composed[0] is not None and self.reduction == 1:
            return shift.composed_convolution(x, *composed, **place)
        size, taps, count = self.kernel_size, self.kernel_size**2, sum(self._heads)
        conv_init = self.conv_init or self.kernel_init

        def shift_init(key, shape, dtype=jnp.float32):
            return shift.shift_kernel(size, shape[-1], dtype)

        fc, fc_bias = Weights((count, taps), conv_init, use_bias=self.fc_bias, name="fc")()
        outputs = self.features // (self.num_heads if self.shared_shift else 1)
        kernel, _ = Weights(
            (size, size, taps, outputs), shift_init if self.shift_init else conv_init, use_bias=False, name="shift"
        )()
        if self.shared_shift:
            kernel = jnp.repeat(kernel, self.num_heads, axis=-1)
        kernel = beta * kernel  # and not the result, a map, and its gradient
        fine = count if self.reduction == 1 else self._heads[0]  # pieces on the grid of x; the others are coarser
        if form == "dense" and composed[0] is None:  # from parameters in full precision
            width = fine * (self.features // self.num_heads)
            projections = qkv[:, :width].reshape(x.shape[-1], fine, -1), qkv_bias[:width].reshape(fine, -1)
            composed = shift.compose(*projections, fc[:fine], fc_bias, kernel)
        fc, fc_bias, kernel = (p if p is None else p.astype(self.dtype) for p in (fc, fc_bias, kernel))
        if self.reduction > 1 and form in shift.TAP_FORMS:
            mixed = shift.mix_pieces(pieces[0], fc[:fine], fc_bias)
            coarse = shift.mix_pieces(pieces[1], fc[fine:])
            mixed += shift.repeat_pixels(coarse, self.reduction, *x.shape[1:3])
            return shift.shift_taps(mixed, kernel, form=form, **place)
        if form == "dense":
            convolved = shift.composed_convolution(x, *composed, **place)
        else:
            convolved = shift.shift_convolution(pieces[0], fc[:fine], fc_bias, kernel, form=form, **place)
        if self.reduction == 1:
            return convolved
        return convolved + shift.repeated_shift_convolution(
            pieces[1], fc[fine:], kernel, factor=self.reduction, size=x.shape[1:3], **place
        )
