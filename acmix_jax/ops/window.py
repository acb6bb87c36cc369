"""Windows of Swin (Liu et al., ICCV 2021): cutting a map into them, and the biases of the attention inside.

Conventions of this file. A window is `(height, width)`; windows are ordered row by row, and so are the pixels in
one. `shift` is how far the map was rolled up and to the left before it was cut; 0 along an axis is no roll.
"""

import jax.numpy as jnp
import numpy as np

MASKED = -100.0  # added to the logit of a pair that a shifted window brings together only by the roll (as released)


def partition(x, window):
    """`[B, H, W, ...]`, H and W multiples of the window, to `[B, windows, window pixels, ...]`."""
    batch, height, width, *rest = x.shape
    x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], *rest)
    return x.swapaxes(2, 3).reshape(batch, -1, window[0] * window[1], *rest)


def reverse(windows, window, height, width):
    """The inverse of `partition`: back to `[B, height, width, ...]`."""
    batch, _, _, *rest = windows.shape
    x = windows.reshape(batch, height // window[0], width // window[1], *window, *rest)
    return x.swapaxes(2, 3).reshape(batch, height, width, *rest)


def relative_position_index(window: tuple[int, int], table_window: int) -> np.ndarray:
    """Row of the bias table for each pair of a window's pixels, int `[pixels, pixels]`.

    The table has a row for each offset between two pixels of a window of `table_window`, `(2 * table_window - 1)`
    squared of them; a smaller window uses the offsets that it has.
    """
    pixels = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1).reshape(-1, 2)
    offset = pixels[:, None] - pixels[None] + table_window - 1
    return offset[..., 0] * (2 * table_window - 1) + offset[..., 1]


def shift_mask(height: int, width: int, window: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """0 for pairs of pixels that were neighbours before the roll, else MASKED; float32 `[windows, pixels, pixels]`."""
    rows = _region(height, window[0], shift[0])
    columns = _region(width, window[1], shift[1])
    regions = partition((3 * rows[:, None] + columns)[None], window)[0]
    return np.where(regions[:, :, None] == regions[:, None], np.float32(0), np.float32(MASKED))


def _region(size, window, shift):
    """Which part of the rolled axis each index belongs to: the body, the last window's own, what was rolled there."""
    index = np.arange(size)
    return (index >= size - window).astype(int) + (index >= size - shift) if shift else np.zeros(size, int)


def pad_to_multiple(x, multiple: tuple[int, int]):
    """Zeros at the bottom and the right of `[B, H, W, C]`, until H and W are multiples."""
    bottom, right = (-size % m for size, m in zip(x.shape[1:3], multiple, strict=True))
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
