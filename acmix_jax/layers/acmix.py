"""The ACmix layer (Pan et al., CVPR 2022, figure 2): one projection, aggregated twice.

                    x [B, H, W, C]
      Stage I: q, k, v by 1x1 projections, 3N pieces [B, H, W, d], d = C / N
                 |                            |
      attention, N heads             fc [3N, k^2], one matrix for all pixels and
      over windows of q, k, v        all d channels: k^2 maps [B, H, W, d]
      (then proj: Swin, PVT)         shift each map and sum, for each of the N outputs
                 |                   of each channel (a group convolution, d groups)
      [B, H, W, N * d]                        [B, H, W, d * N]
             * alpha ------------ + ------------ * beta

fc has 3N x k^2 parameters; the paper's first text says 3N x k^2 N by mistake. Channel c of the sum joins head c // d of
the attention with output c % N of the convolution, as in the released code. Both are explained in ops/shift.
"""

from typing import Any

import flax.linen as nn
import jax

from acmix_jax.errors import UserError
from acmix_jax.layers.convolution import ShiftConvolution
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.layers.weights import Initializer, path_weights


class ACmix(SelfAttention):
    """`alpha * attention + beta * convolution` over the same q, k and v; a drop-in for a 3x3 convolution, at any size.

    Attributes, beside those of `SelfAttention`:
      kernel_size, shift_form, shift_init, shared_shift, fc_bias: see `ShiftConvolution`, where shift_form is `form`.
      conv_init: initialiser of fc; None is `kernel_init`.
      paths: "both", or one alone, without alpha and beta (paper, table 6).
      combination: of both paths, see `path_weights`.

    Raises:
      UserError: sizes that do not divide, even sizes without a centre, unknown names.
    """

    kernel_size: int = 3
    shift_form: str | None = None
    shift_init: bool = True
    shared_shift: bool = False
    fc_bias: bool = False
    conv_init: Initializer | None = None
    paths: str = "both"
    combination: str = "learned"

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None, **context: Any) -> Any:
        """As `SelfAttention.__call__`; the convolution does not see the tokens, which have no position on the map."""
        alpha, beta = path_weights(self, self.paths, self.combination)
        if tokens is not None and self.paths == "convolution":
            raise UserError("paths='convolution' leaves the class token without input; use attention or both")
        x = x.astype(self.dtype)
        convolution = ShiftConvolution(
            features=self.features, heads=self.qkv_heads, kernel_size=self.kernel_size, stride=self.stride,
            dilation=self.dilation, reduction=self.reduction, form=self.shift_form, shift_init=self.shift_init,
            shared_shift=self.shared_shift, fc_bias=self.fc_bias, kernel_init=self.conv_init or self.kernel_init,
            dtype=self.dtype,
        )  # fmt: skip
        nn.share_scope(self, convolution)  # its parameters are named fc and shift, without a level of their own
        all_pieces = self.paths != "attention" and convolution.needs_pieces(x.shape[-1])

        projected = self.project(x, tokens, all_pieces)  # Stage I
        parts, tokens = {}, None
        if self.paths != "convolution":
            attended, tokens = self.attend(projected, **context)  # Stage II, attention
            with jax.named_scope("weighted_sum"):
                parts["attention"] = alpha * attended  # alpha makes it float32; the sum is cast once
        if self.paths != "attention":
            with jax.named_scope("stage2_convolution"):
                parts["convolution"] = convolution(x, projected, beta)  # Stage II, convolution; beta is in its kernel
        for name, part in parts.items():
            self.sow("intermediates", f"weighted_{name}", part)
        with jax.named_scope("weighted_sum"):
            mixed = sum(parts.values()).astype(self.dtype)
        return mixed if tokens is None else (mixed, (alpha * tokens).astype(self.dtype))
