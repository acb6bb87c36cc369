"""Plan of the TPU kernels: the place of each tile of queries and of its patch of keys.

Maps are `[H, W, B, channels]` with the images in sublanes, as XLA lays out the maps of convolutions: a vector register
of a TPU is 8 sublanes of 128 lanes, and its eight images of one pixel lie side by side. So the kernels need no copy of
a map, rows and columns may begin anywhere, and a load with a stride of sublanes takes 8 columns of one image, or of
two, as 32 bits hold two images in bfloat16. Channels fill the lanes; above 128 there is a program for each 128.

Logits are `[keys, heads * queries]`: keys in sublanes, so that maxima and sums over keys are sums of registers, and in
the lanes all heads of a tile of queries. The heads are copies of the queries, each zero outside its own channels: one
product of 128 channels makes the logits of all of them.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from acmix_jax.ops.neighborhood.reference import window_indices

LANES, SUBLANES = 128, 8  # of a register
COLUMNS = SUBLANES  # of a tile of queries; those of a patch are a multiple of it
VECTOR_MEMORY = 40 * 2**20  # bytes that the backward pass may fill, where one row of tiles needs no more
MOST_MEMORY = 100 * 2**20  # of the 128 MiB of a v5e
SPILLS = 16 * 2**20  # bytes for what the compiler keeps in vector memory beside that
_NEVER = -1e9  # for log2(0)


class Plan(NamedTuple):
    """Everything static about one call."""

    heads: int  # in each group of lanes
    dim: int
    groups: int  # of lanes
    side: int  # images of a block, side by side in sublanes: 2 or 4 where those are all, else 8
    images: int  # of those, the images that are worked on
    size: tuple[int, int]  # map of queries
    keys: tuple[int, int]  # map of keys
    stride: int
    tile: tuple[int, int]  # queries
    patch: tuple[int, int]  # keys
    tiles: tuple[int, int]  # of a strip of rows; the grid walks over the strips
    key_block: tuple[int, int]  # keys of a strip
    strips: np.ndarray  # int32 [strips], first row of their keys
    places: np.ndarray  # int32 [6, strips * tiles]: first row, column of queries; of keys; kinds of rows, columns
    row_copies: np.ndarray  # float32 [kinds, patch rows, 8, lanes]: log2 of how often a query's window holds a row
    column_copies: np.ndarray  # float32 [kinds, patch columns, lanes]

    @property
    def channels(self):
        """Channels of a group of lanes."""
        return self.heads * self.dim

    @property
    def lanes(self):
        """Heads times queries: the lanes of the logits."""
        return self.heads * self.tile[0] * self.tile[1]

    @property
    def block(self):
        """Rows and columns of the queries of a strip."""
        return self.tiles[0] * self.tile[0], self.tiles[1] * self.tile[1]

    @property
    def sums(self):
        """Rows of the gradients of k and v that a strip sums and that it finishes, and how many strips late it does."""
        count = np.arange(len(self.strips))
        if len(count) == 1:
            return self.keys[0], self.keys[0], 0
        finished = self.block[0] * self.stride
        late = max(1, int((count - self.strips // finished).max()))  # no strip may add to what is finished
        return int((self.strips + self.key_block[0] - (count - late) * finished).max()), finished, late

    def bytes(self, itemsize):
        """Vector memory of the backward pass: blocks twice, the sums of the gradients, and the tables."""
        (rows, columns), (key_rows, key_columns), (total, finished, _) = self.block, self.key_block, self.sums
        twice = 2 * itemsize * (3 * rows * columns + 2 * (key_rows + finished) * key_columns)
        sums = 4 * (rows * columns + 2 * total * key_columns)
        log_sum = 2 * 4 * self.images * self.tiles[0] * self.tiles[1] * LANES
        return (twice + sums) * self.side * LANES + log_sum + self.row_copies.nbytes + self.column_copies.nbytes


def lane_groups(heads, dim):
    """Fills groups of lanes with the channels: (heads of a group, groups), or None if they do not fit."""
    if heads * dim <= LANES:
        return heads, 1
    if LANES % dim == 0 and heads * dim % LANES == 0:
        return LANES // dim, heads * dim // LANES
    return None


@lru_cache
def plan_tiles(batch, size, keys, heads, dim, window_size, stride, dilation, itemsize):
    """The plan for maps of `size` queries and of `keys`, (height, width) each."""
    heads, groups = lane_groups(heads, dim)
    side = next((n for n in (2, 4) if batch <= n), SUBLANES)
    images = min(side, -(-batch * itemsize // 4) * 4 // itemsize)  # two of bfloat16 share 32 bits
    windows = [window_indices(n, window_size, stride, dilation) for n in keys]
    granule = SUBLANES // side  # columns of a full register, where patches begin
    tile = _balanced(size[0], max(1, LANES // COLUMNS // heads)), COLUMNS
    patch = _extent(windows[0], tile[0], 1), -(-_extent(windows[1], tile[1], granule) // COLUMNS) * COLUMNS
    width = -(-max(keys[1], patch[1]) // granule) * granule
    tops, rows = _cut(windows[0], tile[0], patch[0], keys[0], 1)
    lefts, columns = _cut(windows[1], tile[1], patch[1], width, granule)
    row_kinds, row_copies = _by_lane(rows, np.arange(heads * tile[0] * tile[1]) // tile[1] % tile[0])
    column_kinds, column_copies = _by_lane(columns, np.arange(heads * tile[0] * tile[1]) % tile[1])
    row_copies = row_copies[:, :, None].repeat(COLUMNS, 2)

    across = len(lefts)

    def plan(per_strip):
        height = max(t[-1] - t[0] for t in np.split(tops, range(per_strip, len(tops), per_strip))) + patch[0]
        strips = np.minimum(tops[::per_strip], keys[0] - height)
        local = np.arange(len(strips) * per_strip) % per_strip
        y = np.minimum(np.arange(len(local)), len(tops) - 1)  # rows of tiles beyond the map see what the last one sees
        places = np.stack([
            np.repeat(local * tile[0], across), np.tile(np.arange(across) * tile[1], len(y)),
            np.repeat(tops[y] - strips.repeat(per_strip), across), np.tile(lefts, len(y)),
            np.repeat(row_kinds[y], across), np.tile(column_kinds, len(y)),
        ])  # fmt: skip
        return Plan(
            heads, dim, groups, side, images, size, keys, stride, tile, patch, (per_strip, across),
            (int(height), width), strips.astype(np.int32), places.astype(np.int32), row_copies, column_copies,
        )  # fmt: skip

    plans = [plan(n) for n in sorted({_balanced(len(tops), n) for n in range(1, len(tops) + 1)})]
    fitting = [p for p in plans if p.bytes(itemsize) <= VECTOR_MEMORY] or plans[:1]
    return min(fitting, key=lambda p: (p.places.shape[1], len(p.strips)))  # no tiles beyond the map, then few strips


def _balanced(n, most):
    """The shortest of equal parts, of at most `most`, that are as few."""
    return -(-n // -(-n // most))


def _by_tile(windows, tile):
    """Windows `[tiles, tile, window_size]`; the last one fills up the last tile."""
    tiles = -(-len(windows) // tile)
    return windows[np.minimum(np.arange(tiles * tile), len(windows) - 1)].reshape(tiles, tile, -1)


def _extent(windows, tile, granule):
    windows = _by_tile(windows, tile)
    return int((windows.max((1, 2)) + 1 - windows.min((1, 2)) // granule * granule).max())


def _cut(windows, tile, patch, size, granule):
    """First key of the patch of each tile, and log2 of how often each query sees each key, `[tiles, tile, patch]`."""
    windows = _by_tile(windows, tile)
    starts = np.minimum(windows.min((1, 2)) // granule * granule, size - patch)
    copies = (windows[..., None] == (starts[:, None] + np.arange(patch))[:, None, None]).sum(2)
    return starts, np.where(copies, np.log2(np.maximum(copies, 1)), _NEVER)


def _by_lane(tables, query):
    """Index of each tile's table among the different ones, and those by lane, `[kinds, patch, lanes]`."""
    kinds, index = np.unique(tables, axis=0, return_inverse=True)
    return index.reshape(-1), kinds.swapaxes(1, 2)[:, :, query].astype(np.float32)
