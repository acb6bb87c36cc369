"""Windows of Swin (Liu et al., ICCV 2021): partition of a map, position biases and shift masks.

Conventions of this file. A window is `(height, width)`; windows, and the pixels in a window, are in row-major order.
`shift` is how far the map was rolled up and to the left before the partition; 0 along an axis is no roll.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

MASKED = -100.0  # added to the logits of pixels that only the roll brought into one window (as released)


def partition(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Cuts `[B, H, W, ...]`, H and W multiples of the window, into `[B, windows, window pixels, ...]`."""
    return rearrange(x, "b (wy y) (wx x) ... -> b (wy wx) (y x) ...", y=window[0], x=window[1])


def reverse(windows: jax.Array, window: tuple[int, int], height: int, width: int) -> jax.Array:
    """Undoes `partition`: `[B, windows, window pixels, ...]` to `[B, height, width, ...]`."""
    counts = {"wy": height // window[0], "wx": width // window[1]}
    return rearrange(windows, "b (wy wx) (y x) ... -> b (wy y) (wx x) ...", **counts, y=window[0], x=window[1])


def relative_position_index(window: tuple[int, int], table_window: int) -> np.ndarray:
    """Row of the bias table for each pair of pixels of a window, int `[pixels, pixels]`.

    The table has `(2 * table_window - 1) ** 2` rows, one for each offset between two pixels of a window of side
    `table_window`. A smaller window uses the rows of its own offsets.
    """
    pixels = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), axis=-1).reshape(-1, 2)
    offset = pixels[:, None] - pixels[None] + table_window - 1
    return offset[..., 0] * (2 * table_window - 1) + offset[..., 1]


def table_window(rows: int) -> int:
    """Side of the windows that a bias table with so many rows is for; see `relative_position_index`."""
    return (round(rows**0.5) + 1) // 2


def shift_mask(height: int, width: int, window: tuple[int, int], shift: tuple[int, int]) -> np.ndarray:
    """0 for pairs of pixels of one region before the roll, else MASKED; float32 `[windows, pixels, pixels]`."""
    rows = _region(height, window[0], shift[0])
    columns = _region(width, window[1], shift[1])
    regions = partition((3 * rows[:, None] + columns)[None], window)[0]
    return np.where(regions[:, :, None] == regions[:, None], np.float32(0), np.float32(MASKED))


def _region(size, window, shift):
    """Region of each index of a rolled axis: 0 before the last window, 1 in it, 2 where the roll moved pixels."""
    index = np.arange(size)
    return (index >= size - window).astype(int) + (index >= size - shift) if shift else np.zeros(size, int)


def pad_to_multiple(x: jax.Array, multiple: tuple[int, int]) -> jax.Array:
    """Pads `[B, H, W, C]` with zeros at the bottom and right to multiples of `multiple` (height, width)."""
    bottom, right = (-size % m for size, m in zip(x.shape[1:3], multiple, strict=True))
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)))
