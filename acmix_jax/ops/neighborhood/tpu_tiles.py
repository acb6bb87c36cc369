"""Reading and writing the tiles of the TPU kernels (`tpu_plan.py` says where they lie)."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from acmix_jax.ops.neighborhood.tpu_plan import LANES, SUBLANES, plan_tiles

LOG2_E = 1.4426950408889634  # the kernels take powers of two


def make_plan(q, k, window_size, stride, dilation):
    """The plan for q and k, `[B, H, W, heads, dim]` of their own H and W."""
    return plan_tiles(
        q.shape[0], q.shape[1:3], k.shape[1:3], *q.shape[3:], window_size, stride, dilation, q.dtype.itemsize
    )


def to_pixels(x, plan):
    """`[B, H, W, heads, dim]` to `[H, W, B, channels]`, with images of zeros up to a block of 2 or 4."""
    x = x.reshape(*x.shape[:3], -1).transpose(1, 2, 0, 3)
    missing = plan.side - x.shape[2]
    return jnp.pad(x, ((0, 0), (0, 0), (0, missing), (0, 0))) if missing > 0 and plan.side < SUBLANES else x


def from_pixels(x, shape):
    """The inverse of `to_pixels`."""
    return x.transpose(2, 0, 1, 3)[: shape[0]].reshape(shape)


class Specs:
    """Blocks of the arrays for the programs of a grid: groups of lanes, blocks of images, strips of rows."""

    def __init__(self, plan, batch):
        self.plan, last = plan, len(plan.strips) - 1
        (height, width), side, channels = plan.key_block, plan.side, plan.channels
        self.queries = pl.BlockSpec((*plan.block, side, channels), lambda j, b, s, *_: (jnp.minimum(s, last), 0, b, j))
        if last:
            # Strips of keys overlap. JAX takes such a block only if all its axes are indexed by elements.
            columns, images = pl.Element(width, (0, width - plan.keys[1])), pl.Element(side, (0, -batch % side))
            self.keys = pl.BlockSpec((pl.Element(height), columns, images, pl.Element(channels)), self._first_key)
        else:
            self.keys = pl.BlockSpec((height, width, side, channels), lambda j, b, *_: (0, 0, b, j))
        self.copies = [_whole(x) for x in (plan.row_copies, plan.column_copies)]
        log_sum = self.log_sums(batch).shape
        self.log_sum = pl.BlockSpec(
            (1, 1, 1, *log_sum[3:]), lambda j, b, s, *_: (j, b, jnp.minimum(s, last), 0, 0, 0, 0)
        )

    def _first_key(self, group, block, strip, starts, _):
        row = starts[jnp.minimum(strip, len(self.plan.strips) - 1)]
        lane = pl.multiple_of(group * LANES, LANES) if self.plan.groups > 1 else 0
        return row, 0, pl.multiple_of(block * self.plan.side, self.plan.side), lane

    def log_sums(self, batch):
        """The shape of the log2 of the sums of weights; an axis of 1 lets kernels write one row of lanes."""
        p = self.plan
        shape = p.groups, pl.cdiv(batch, p.side), len(p.strips), p.images, p.tiles[0] * p.tiles[1], 1, p.lanes
        return jax.ShapeDtypeStruct(shape, jnp.float32)


def _whole(x):
    return pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)


def clear_beyond(plan, *refs):
    """Zeroes columns beyond maps of keys that are narrower than a patch: memory there may hold no numbers."""
    for ref in refs:
        if plan.key_block[1] > plan.keys[1]:
            ref[:, plan.keys[1] :] = jnp.zeros_like(ref[:, plan.keys[1] :])


def for_each_tile(plan, strip, places_ref, work):
    """Calls `work` for the tiles of a strip, with lists of `(tile, place)`; tiles times images of a list are eight."""
    tiles = plan.tiles[0] * plan.tiles[1]
    at_once = min(tiles, SUBLANES // plan.images)

    def some(first, count):
        numbers = [first + n for n in range(count)]
        work([(tile, [places_ref[i, strip * tiles + tile] for i in range(6)]) for tile in numbers])

    pl.loop(0, tiles // at_once)(lambda i: some(i * at_once, at_once))
    if tiles % at_once:
        some(tiles - tiles % at_once, tiles % at_once)


def for_each_row(rows, work):
    """Calls `work(row)`, in a loop: unrolled, the compiler would take minutes."""
    if rows:
        pl.loop(0, rows)(work)


def write_rows(sums_ref, ref, scale=None):
    """Writes the first rows of the float32 sums `[rows, columns * images, channels]`, times `scale`, to a map."""

    def write(row):
        values = sums_ref[row] if scale is None else sums_ref[row] * scale
        ref[row] = values.reshape(ref.shape[1:]).astype(ref.dtype)

    for_each_row(ref.shape[0], write)


def load(ref, top, left, size, images):
    """Part of a map `[rows, columns, images, channels]`: a list of float32 `[pixels, channels]` for some images."""
    width = size[1]
    together = 4 // ref.dtype.itemsize  # 32 bits hold two images of bfloat16
    rows, columns, all_images, channels = ref.shape
    ref, step = ref.reshape(rows, columns * all_images, channels), all_images // together
    if together == 2:
        ref = ref.bitcast(jnp.int32)
    ref = ref.at[pl.ds(top, size[0]), pl.ds(pl.multiple_of(left * step, step), width * step)]
    loads = [ref[:, pl.ds(n // together, width, stride=step)].reshape(-1, channels) for n in images[::together]]
    if together == 1:
        return loads
    return [lax.bitcast_convert_type(x, jnp.float32) for both in loads for x in (both << 16, both & -0x10000)]


def at(ref, top, left, size, image, plan):
    """The part of one image in a float32 map `[rows, columns * images, channels]`, to be written or added to."""
    span = pl.ds(pl.multiple_of(left * plan.side, SUBLANES), size[1] * plan.side)
    return ref.at[pl.ds(top, size[0]), span].at[:, pl.ds(image, size[1], stride=plan.side)]


def load_queries(ref, strip, places, plan):
    """Tiles of queries or of their gradient, zero outside the map: `[queries, channels]` for each place and image."""
    tiles = [(place, x) for place in places for x in load(ref, *place[:2], plan.tile, range(plan.images))]
    if (len(plan.strips) * plan.block[0], plan.block[1]) == plan.size:
        return [x for _, x in tiles]
    i = lax.broadcasted_iota(jnp.int32, tiles[0][1].shape, 0)  # pixels of the tile, 8 a row

    def inside(place):
        row, column = strip * plan.block[0] + place[0] + (i >> 3), place[1] + (i & 7)
        return (row < plan.size[0]) & (column < plan.size[1])

    return [jnp.where(inside(place), x, 0) for place, x in tiles]  # memory there holds anything, even no numbers


def load_keys(ref, places, plan):
    """Patches of the keys or values, `[keys, channels]` for each place and image."""
    patches = [x for place in places for x in load(ref, *place[2:4], plan.patch, range(plan.images))]
    return [x.astype(ref.dtype) for x in patches]


def by_head(queries, plan, dtype):
    """Copies of `[queries, channels]`, each zero outside the channels of its head: `[heads * queries, channels]`."""
    return jnp.concatenate([jnp.where(_own(h, plan), queries, 0) for h in range(plan.heads)]).astype(dtype)


def from_heads(x, plan):
    """The opposite: of the copies `[channels, heads * queries]`, each head's own channels, `[*tile, channels]`."""
    first, *others = x.T.reshape(plan.heads, -1, plan.channels)
    for h, x in enumerate(others, 1):
        first = jnp.where(_own(h, plan), x, first)
    return first.reshape(*plan.tile, plan.channels)


def _own(head, plan):
    lane = lax.broadcasted_iota(jnp.int32, (1, plan.channels), 1)
    return (lane >= head * plan.dim) & (lane < (head + 1) * plan.dim)


def log_copies(rows_ref, columns_ref, places, plan):
    """log2 of how often each query of the lanes sees each key, `[keys, lanes]` for each place and image."""
    columns = [columns_ref[place[5]].reshape(1, -1, SUBLANES, plan.lanes) for place in places]
    both = [rows_ref[place[4]][:, None] + x for place, x in zip(places, columns, strict=True)]
    return [x.reshape(-1, plan.lanes) for x in both for _ in range(plan.images)]


def product(a, b, contract):
    """Matrix product over axis `contract[0]` of a and `contract[1]` of b, accumulated in float32."""
    precision = None if a.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    axes = ((contract[0],), (contract[1],)), ((), ())
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)
