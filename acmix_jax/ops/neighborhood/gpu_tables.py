"""Tables of the GPU kernels: where the patch of each tile lies, and how often each of its pixels is seen.

That number splits by axis, n = n_y * n_x, so log2(n) is a matrix product: of the place of a pixel in its tile, a
one-hot row and a one-hot column side by side, and a table `[places, pixels of the patch]` that holds log2(n_y) for each
row and log2(n_x) for each column. In the kernels it is one more product of the matrix unit, added to the logits. No
mask, no padding and no arithmetic with indices is left. log2 of 1, 2 and 4 is exact in bfloat16.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from acmix_jax.ops.neighborhood.tiles import count_copies, cut_axis

NEVER = -1e9  # stands for log2(0); finite, so that products with the zeros of a one-hot place stay 0


class Patches(NamedTuple):
    """Patches of one map, one for each tile of another.

    Attributes:
      tiles: int32 `[tiles, 3]`: first row and first column of the patch, index of the table.
      tables: float32 `[tables, places, pixels]`, log2 of how often a pixel of the patch is seen, by axis. Most tiles
        share one table. Its pixels are filled up to a multiple of the chunk with pixels never seen.
      across: tiles along x.
      height, width: of a patch.
    """

    tiles: np.ndarray
    tables: np.ndarray
    across: int
    height: int
    width: int


def number_of_places(tile: tuple[int, int]) -> int:
    """Rows and columns of a tile (y, x) together, as a side of a matrix product: a power of two, at least 16."""
    return max(16, 1 << (sum(tile) - 1).bit_length())


@lru_cache
def cut_patches(
    size: tuple[int, int], window: tuple[int, int, int], tile: tuple[int, int], chunk: int, by_keys: bool
) -> Patches:
    """Cuts a map into tiles and finds their patches.

    Args:
      size: height and width of the keys.
      window: size, stride and dilation.
      tile: pixels (y, x) of a tile: queries with patches of keys; `by_keys`, keys with patches of queries.
      chunk: pixels of a patch that the kernel reads at once.
    """
    cuts = []
    for length, pixels in zip(size, tile, strict=True):
        copies = count_copies(length, *window)
        cuts.append(cut_axis(copies.T if by_keys else copies, pixels))
    (y, of_y), (x, of_x) = (np.unique(cut.log_copies, axis=0, return_inverse=True) for cut in cuts)
    rows, columns = cuts
    tables = np.zeros((len(y), len(x), number_of_places(tile), rows.patch, columns.patch), np.float32)
    tables[:, :, : tile[0]] = _log2(y)[:, None, :, :, None]
    tables[:, :, tile[0] : sum(tile)] = _log2(x)[None, :, :, None, :]
    tables = tables.reshape(len(y) * len(x), tables.shape[2], -1)
    beyond = -tables.shape[2] % chunk
    tables = np.pad(tables, ((0, 0), (0, 0), (0, beyond)), constant_values=NEVER)
    tables[:, sum(tile) :] = 0
    first_row, first_column = np.meshgrid(rows.starts, columns.starts, indexing="ij")
    table = of_y.reshape(-1, 1) * len(x) + of_x.reshape(1, -1)
    tiles = np.stack([first_row, first_column, table], axis=-1).reshape(-1, 3).astype(np.int32)
    return Patches(tiles, tables, len(columns.starts), rows.patch, columns.patch)


def _log2(log_copies):
    return np.maximum(log_copies / np.log(2), NEVER)
