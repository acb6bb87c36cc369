"""The convolution path of ACmix (paper section 4.3): mix 3N pieces into k^2 taps, then shift the taps and sum them.

Conventions of this package. Maps are NHWC. Stage I gives 3N pieces `[B, H, W, 3N, dim]`: the N heads of q, then those
of k, then those of v, with dim = C / N channels each. Output pixel (i, j) is centred on input pixel
(stride * i, stride * j), the k x k taps are `dilation` pixels apart, and the map is zero outside.

* fc `[3N, k^2]` mixes the pieces into taps `[B, H, W, dim, k^2]`, tap t = y * k + x. It is one matrix, shared by all
  pixels and by all `dim` channels of a piece, hence 3N x k^2. The first arXiv version of the paper says 3N x k^2 N; the
  author calls that a mistake (issue 5 of the released code): the factor N is that of the group convolution below.
* The shift kernel `[k, k, k^2, dim * N]` (height, width, tap, output) is a group convolution with `dim` groups. Group j
  sees the k^2 taps of in-head channel j and gives N outputs. At initialisation it shifts tap t by
  (y - k // 2, x - k // 2) and sums.
* Output j * N + n is output n of in-head channel j, as in the released code. The attention's channel h * dim + j is
  in-head channel j of head h, so the sum of the paths pairs different in-head channels. Training does not mind:
  channels have no meaning before it. Weights do: those of code that concatenates the N outputs (n * dim + j, as in
  figure 2) have other pairs of channels and do not fit; and permuting heads moves blocks of `dim` channels of the
  attention, but none of the convolution, each of whose outputs sees all heads through fc.

The forms are equal in value and gradient; `ops/choice.py` picks one. "slices" is the definition: k^2 shifted copies of
the taps, one product each. "group_conv" is the paper's figure 3; on CPUs its backward pass takes seconds.
"multiply_shift" multiplies first and shifts the k^2 products. "dense" uses that the path is linear in its input x: one
ordinary convolution, with a kernel composed from all parameters (`compose`, `composed_convolution`).
"""

import jax

from acmix_jax.errors import check_choice
from acmix_jax.ops.shift.composed import compose, composed_convolution
from acmix_jax.ops.shift.multiply_shift import multiply_and_shift, repeated_shift_convolution
from acmix_jax.ops.shift.taps import TAP_FORMS, mix_pieces, repeat_pixels, shift_and_sum, shift_kernel, shift_taps

__all__ = [
    "FORMS",
    "PIECE_FORMS",
    "TAP_FORMS",
    "compose",
    "composed_convolution",
    "mix_pieces",
    "repeat_pixels",
    "repeated_shift_convolution",
    "shift_and_sum",
    "shift_convolution",
    "shift_kernel",
    "shift_taps",
]

PIECE_FORMS = (*TAP_FORMS, "multiply_shift")  # start from the pieces of Stage I
FORMS = (*PIECE_FORMS, "dense")  # dense starts from the input of the layer


def shift_convolution(
    pieces: jax.Array,
    fc: jax.Array,
    fc_bias: jax.Array | None,
    kernel: jax.Array,
    *,
    stride: int = 1,
    dilation: int = 1,
    form: str = "slices",
) -> jax.Array:
    """Mixes the pieces, then shifts and sums them with a learnable kernel.

    Args:
      pieces: `[B, H, W, S, dim]`.
      fc: `[S, k^2]`; fc_bias: `[k^2]` or None.
      kernel: `[k, k, k^2, dim * N]`.
      form: one of PIECE_FORMS.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), dim * N]`.

    Raises:
      UserError: unknown `form`.
    """
    check_choice("form of the convolution", form, PIECE_FORMS)
    if form == "multiply_shift":
        return multiply_and_shift(pieces, fc, fc_bias, kernel, stride, dilation)
    return shift_taps(mix_pieces(pieces, fc, fc_bias), kernel, stride=stride, dilation=dilation, form=form)
