"""Stage II of ACmix, convolution: mix the pieces of Stage I into k^2 maps, shift these and sum (paper, section 4.3)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from acmix_jax.errors import UserError, check_choice
from acmix_jax.layers.projection import Projected
from acmix_jax.layers.weights import Initializer, Weights, torch_default
from acmix_jax.ops import choice, shift


class ShiftConvolution(nn.Module):
    """`beta * convolution`, computed from the projections, or from x with a kernel composed of all parameters.

    Attributes:
      features: channels of the output.
      heads: numbers of heads of q, k and v; their sum is 3N in the paper (less in SAN, whose q and k have one).
      kernel_size: width of the convolution, odd; k_c in the paper.
      stride, dilation: those of an ordinary convolution with zero padding that keeps the size.
      reduction: k and v lie on a grid this much coarser (PVT); they are repeated to the full size.
      form: one of `ops.shift.FORMS`; None for the default of `ops/choice.py`.
      shift_init: starts the shift kernel as shifts (the paper); False draws it from `kernel_init` (released ResNet).
      shared_shift: all heads share one shift kernel (paper, figure 3c with one group convolution instead of N). For
        the ablation; neither folded nor converted.
      fc_bias: gives fc a bias (the released Swin).
      kernel_init: initialiser of fc, and of the shift kernel without `shift_init`.
      dtype: type of the computation and of the result; parameters stay in float32.

    Raises:
      UserError: an even `kernel_size`, which has no centre, or an unknown `form`.
    """

    features: int
    heads: tuple[int, int, int]
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    reduction: int = 1
    form: str | None = None
    shift_init: bool = True
    shared_shift: bool = False
    fc_bias: bool = False
    kernel_init: Initializer = torch_default
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, projected: Projected, beta: jax.Array | float) -> jax.Array:
        """From x `[B, H, W, C]` and its projections to `[B, ceil(H / stride), ceil(W / stride), features]`."""
        if self.kernel_size % 2 == 0:
            raise UserError(f"kernel_size={self.kernel_size} has no centre pixel; use an odd number")
        if self.form is not None:
            check_choice("shift_form", self.form, shift.FORMS)
        folded = self.get_variable("folded", "kernel"), self.get_variable("folded", "bias_kernel")
        if folded[0] is not None and self.reduction == 1:
            return shift.composed_convolution(x, *folded, stride=self.stride, dilation=self.dilation)
        fc, fc_bias, kernel = self._parameters()
        kernel = beta * kernel  # scaling the map instead would cost a pass over it, and one over its gradient
        return choice.by_backend(
            partial(self._form_on, in_features=x.shape[-1]), self._aggregate, x, projected.pieces,
            projected.reduced_pieces, (projected.kernel, projected.bias), (fc, fc_bias, kernel), folded,
        )  # fmt: skip

    def needs_pieces(self, in_features: int) -> bool:
        """True if the form of any backend starts from the pieces of Stage I."""
        return any(self._form_on(backend, in_features) != "dense" for backend in choice.LIMITS)

    def _form_on(self, backend, in_features):
        if self.has_variable("folded", "kernel"):
            return "dense"
        return self.form or choice.convolution_form(in_features, self.stride, backend)

    def _aggregate(self, form, x, pieces, reduced, qkv, parameters, composed):
        """The path in one form; no parameters are made here. `composed`: kernels from `fold`, or (None, None)."""
        spacing = {"stride": self.stride, "dilation": self.dilation}
        fc, fc_bias, kernel = parameters
        fine = sum(self.heads) if self.reduction == 1 else self.heads[0]  # number of pieces on the grid of x
        if form == "dense" and composed[0] is None:  # composed in full precision; with a reduction, of q alone
            dim = self.features // self.heads[-1]
            qkv_kernel, qkv_bias = qkv[0][:, : fine * dim].reshape(-1, fine, dim), qkv[1][: fine * dim]
            composed = shift.compose(qkv_kernel, qkv_bias.reshape(fine, dim), fc[:fine], fc_bias, kernel)
        fc, fc_bias, kernel = (p if p is None else p.astype(self.dtype) for p in (fc, fc_bias, kernel))
        if self.reduction > 1 and form in shift.TAP_FORMS:  # all pieces meet in the taps
            taps = shift.mix_pieces(pieces, fc[:fine], fc_bias)
            taps += shift.repeat_pixels(shift.mix_pieces(reduced, fc[fine:]), self.reduction, *x.shape[1:3])
            return shift.shift_taps(taps, kernel, form=form, **spacing)
        if form == "dense":
            convolved = shift.composed_convolution(x, *composed, **spacing)
        else:
            convolved = shift.shift_convolution(pieces, fc[:fine], fc_bias, kernel, form=form, **spacing)
        if self.reduction == 1:
            return convolved
        return convolved + shift.repeated_shift_convolution(
            reduced, fc[fine:], kernel, factor=self.reduction, size=x.shape[1:3], **spacing
        )

    def _parameters(self):
        """Fc `[3N, k^2]`, its bias `[k^2]` or None, and the shift kernel `[k, k, k^2, features]`."""
        size, num_taps = self.kernel_size, self.kernel_size**2

        def as_shifts(key, shape, dtype=jnp.float32):
            return shift.shift_kernel(size, shape[-1], dtype)

        fc, fc_bias = Weights((sum(self.heads), num_taps), self.kernel_init, use_bias=self.fc_bias, name="fc")()
        outputs = self.features // (self.heads[-1] if self.shared_shift else 1)
        kernel_init = as_shifts if self.shift_init else self.kernel_init
        kernel, _ = Weights((size, size, num_taps, outputs), kernel_init, use_bias=False, name="shift")()
        if self.shared_shift:
            kernel = jnp.repeat(kernel, self.heads[-1], axis=-1)
        return fc, fc_bias, kernel
