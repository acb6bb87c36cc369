"""Local attention on NVIDIA GPUs as fused kernels (Pallas, lowered by Triton): no logit and no weight reaches memory.

One program works on one tile of queries of one head. It walks over the patch of keys that the windows of the tile
touch, chunk after chunk, with the running softmax of flash attention (Dao et al., NeurIPS 2022). How often a query sees
a key is one more matrix product, added to the logits (gpu_tables.py).

The gradient computes the weights again, from the log-sum-exp of each query: one kernel by tiles of queries for dq, and
one by tiles of keys for dk and dv, so that no program adds to what another one writes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from acmix_jax.ops.neighborhood.gpu_tables import NEVER, Patches, cut_patches, number_of_places

DIMS = (16, 32, 64, 128)
DTYPES = ("float32", "bfloat16", "float16")


class Tiles(NamedTuple):
    """Cut of a kernel; `rows * columns` and `chunk` are powers of two, at least 16, as sides of matrix products.

    Attributes:
      rows, columns: pixels of a tile (queries; keys in the kernel of dk and dv).
      chunk: pixels of a patch in one step (keys; queries in the kernel of dk and dv).
      warps, stages: of the Triton program.
    """

    rows: int
    columns: int
    chunk: int
    warps: int
    stages: int


# Fastest on an H200, in bfloat16 with windows of 7 (docs/notes/gpu_kernel.md), by channels of a head and stride.
_MEASURED = {
    (16, 1): (Tiles(4, 8, 64, 1, 2), Tiles(4, 8, 64, 1, 2), Tiles(4, 8, 32, 1, 2)),
    (32, 1): (Tiles(4, 8, 32, 1, 2), Tiles(4, 8, 32, 1, 2), Tiles(4, 4, 32, 1, 2)),
    (32, 2): (Tiles(4, 4, 64, 1, 2), Tiles(4, 4, 64, 1, 2), Tiles(8, 8, 64, 4, 1)),
    (64, 1): (Tiles(8, 8, 32, 4, 2), Tiles(8, 8, 64, 4, 2), Tiles(8, 8, 32, 4, 1)),
    (64, 2): (Tiles(4, 8, 64, 1, 2), Tiles(8, 8, 64, 4, 1), Tiles(8, 8, 64, 4, 1)),
}


def _choose_tiles(dim, stride, dtype):
    """Tiles of the forward kernel, of dq, and of dk and dv.

    Those that were not measured are chosen by counts: instructions, registers and spills of the machine code, and bytes
    from the L2 cache, of an H100. A smaller tile computes fewer logits of keys that no window holds; a larger one reads
    a key less often.
    """
    if dtype == jnp.float32 and dim > 32:  # smaller tiles or more warps, or registers spill
        tiles = Tiles(4, 8, 32, dim // 16, 1)
        return tiles, tiles, tiles if stride == 1 else tiles._replace(chunk=16)
    if dtype != jnp.float32 and (dim, min(stride, 2)) in _MEASURED:
        return _MEASURED[dim, min(stride, 2)]
    if dim > 32:
        return Tiles(8, 8, 64, 4, 1), Tiles(8, 8, 64, 4, 1), Tiles(8, 8, 32 if stride == 1 else 64, 4, 1)
    if stride > 1:
        return (Tiles(4, 4, 32, 1, 2),) * 3
    return Tiles(4, 8, 32, 1, 2), Tiles(4, 8, 32, 1, 2), Tiles(4, 8 if dim == 16 else 4, 32, 1, 2)


def unsupported(q, k, window_size: int, stride: int, dilation: int) -> str | None:
    """Reason why the kernels cannot compute these shapes and types, or None; q and k as in `forward`."""
    if q.shape[-1] not in DIMS:
        return f"{q.shape[-1]} channels a head, not {', '.join(map(str, DIMS))}"
    if q.dtype != k.dtype or q.dtype.name not in DTYPES:
        return f"queries in {q.dtype.name} and keys in {k.dtype.name}, not one of {', '.join(DTYPES)}"
    for capability in (getattr(device, "compute_capability", "") for device in jax.local_devices()):
        if capability[:1].isdigit() and float(capability) < 8:  # AMD's are names
            return f"a GPU of compute capability {capability}, below 8"
    return None


def forward(q, k, v, window_size: int, stride: int, dilation: int, interpret: bool = False):
    """Attention without a position term.

    Args:
      q: `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, not yet scaled.
      k, v: `[B, H, W, heads, dim]`, in the type of q.
      interpret: computes what the kernel does with plain JAX, on any backend; slow.

    Returns:
      The result, as q, and the log-sum-exp of each query's logits, to the base 2, float32 `[B, heads, queries]`.
    """
    tiles, _, _ = _choose_tiles(q.shape[-1], stride, q.dtype)
    arrays = _flat(q, k, v)
    outputs = (
        jax.ShapeDtypeStruct(arrays[0].shape, q.dtype),
        jax.ShapeDtypeStruct((q.shape[0], q.shape[3], arrays[0].shape[1]), jnp.float32),
    )
    cut = _Cut(tiles, k.shape[1:3], (window_size, stride, dilation), by_keys=False)
    out, lse = _call(_forward_kernel, cut, arrays, outputs, interpret)
    return out.reshape(q.shape), lse


def backward(q, k, v, out, lse, dout, window_size: int, stride: int, dilation: int, interpret: bool = False):
    """Gradients of q, k and v, given that of `out`; arguments as in `forward`, with its results."""
    _, dq_tiles, dkv_tiles = _choose_tiles(q.shape[-1], stride, q.dtype)
    window = window_size, stride, dilation
    arrays = _flat(q, k, v, dout)
    delta = jnp.einsum("bqnd,bqnd->bnq", *_flat(out, dout), preferred_element_type=jnp.float32)
    like_q, like_k, like_v, _ = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)
    cut = _Cut(dq_tiles, k.shape[1:3], window, by_keys=False)
    (dq,) = _call(_dq_kernel, cut, (*arrays, lse, delta), (like_q,), interpret)
    cut = _Cut(dkv_tiles, k.shape[1:3], window, by_keys=True)
    dk, dv = _call(_dkv_kernel, cut, (*arrays, lse, delta), (like_k, like_v), interpret)
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)


def _flat(*maps):
    """`[B, H, W, heads, dim]` to `[B, H * W, heads, dim]`."""
    return tuple(x.reshape(x.shape[0], -1, *x.shape[3:]) for x in maps)


class _Cut:
    """Pixels that a program works on: those of its tile, and those of the tile's patch in the other map."""

    def __init__(self, tiles: Tiles, size, window, by_keys):
        queries = tuple(-(-n // window[1]) for n in size)
        self.tiles = tiles
        self.patches: Patches = cut_patches(size, window, (tiles.rows, tiles.columns), tiles.chunk, by_keys)
        self.steps = self.patches.tables.shape[2] // tiles.chunk
        self.size, self.width_of_others = (size, queries[1]) if by_keys else (queries, size[1])

    def own(self, dtype):
        """Pixels of this program's tile, whether they lie inside the map, and their one-hot places."""
        rows, columns, *_ = self.tiles
        height, width = self.size
        index, pixel = pl.program_id(1), lax.iota(jnp.int32, rows * columns)
        y, x = lax.div(pixel, np.int32(columns)), lax.rem(pixel, np.int32(columns))
        place = lax.broadcasted_iota(jnp.int32, (rows * columns, number_of_places((rows, columns))), 1)
        one_hot = ((place == y[:, None]) | (place == rows + x[:, None])).astype(dtype)
        across = np.int32(self.patches.across)
        y, x = y + rows * lax.div(index, across), x + columns * lax.rem(index, across)
        inside = (y < height) & (x < width)
        # Interpret mode drops what lies beyond the map; it would write old values to a repeated index.
        return jnp.where(inside, y * width + x, height * width), inside, one_hot

    def others(self, step, patch_ref):
        """Pixels of one chunk of the patch, and whether they belong to it."""
        width = np.int32(self.patches.width)
        pixel = step * self.tiles.chunk + lax.iota(jnp.int32, self.tiles.chunk)
        inside = pixel < self.patches.height * self.patches.width
        y, x = patch_ref[0] + lax.div(pixel, width), patch_ref[1] + lax.rem(pixel, width)
        return jnp.where(inside, y * self.width_of_others + x, 0), inside

    def log_copies(self, step, patch_ref, tables_ref, one_hot):
        """Addition to the logits of the chunk's pixels, `[own pixels, chunk]`."""
        chunk = pl.ds(step * self.tiles.chunk, self.tiles.chunk)
        return _matmul(one_hot, tables_ref[patch_ref[2], :, chunk])


def _call(kernel, cut, arrays, outputs, interpret):
    """Runs a kernel for all heads, tiles and images; arrays `[B, pixels, heads, dim]` or `[B, heads, pixels]`."""
    batch, _, heads, _ = arrays[0].shape

    def one_head(x):
        if len(x.shape) == 4:
            return pl.BlockSpec((None, x.shape[1], None, x.shape[3]), lambda head, tile, image: (image, 0, head, 0))
        return pl.BlockSpec((None, None, x.shape[2]), lambda head, tile, image: (image, head, 0))

    lowest = float(jnp.finfo(arrays[0].dtype).min) / 2  # float16 does not reach NEVER
    tables = jnp.asarray(np.maximum(cut.patches.tables, lowest), arrays[0].dtype)
    tiles = jnp.asarray(cut.patches.tiles)
    return pl.pallas_call(
        partial(kernel, cut, jnp.exp2 if interpret else _exp2),
        grid=(heads, tiles.shape[0], batch),
        in_specs=[
            pl.BlockSpec((None, 3), lambda head, tile, image: (tile, 0)),
            pl.BlockSpec(tables.shape, lambda head, tile, image: (0, 0, 0)),
            *map(one_head, arrays),
        ],
        out_specs=[one_head(x) for x in outputs],
        out_shape=outputs,
        compiler_params=plgpu.CompilerParams(num_warps=cut.tiles.warps, num_stages=cut.tiles.stages),
        interpret=interpret,
        name=kernel.__name__.strip("_"),
    )(tiles, tables, *arrays)


def _forward_kernel(cut, exp2, patch_ref, tables_ref, q_ref, k_ref, v_ref, out_ref, lse_ref):
    pixels, inside, one_hot = cut.own(q_ref.dtype)
    q = _scaled(_load(q_ref, pixels, inside))

    def step(c, carry):
        out, largest, total = carry
        others, valid = cut.others(c, patch_ref)
        keys, values = _load(k_ref, others, valid), _load(v_ref, others, valid)
        logits = _outer(q, keys) + cut.log_copies(c, patch_ref, tables_ref, one_hot)
        now = jnp.maximum(largest, logits.max(axis=1))
        weights = exp2(logits - now[:, None])
        kept = exp2(largest - now)
        total = kept * total + weights.sum(axis=1)
        return kept[:, None] * out + _matmul(weights.astype(values.dtype), values), now, total

    zeros = jnp.zeros(q.shape[0], jnp.float32)
    out, largest, total = _walk(cut, step, (jnp.zeros(q.shape, jnp.float32), zeros + np.float32(NEVER), zeros))
    plgpu.store(_at(out_ref, pixels), (out / total[:, None]).astype(out_ref.dtype), mask=inside[:, None])
    plgpu.store(lse_ref.at[pixels], largest + jnp.log2(total), mask=inside)


def _dq_kernel(cut, exp2, patch_ref, tables_ref, q_ref, k_ref, v_ref, dout_ref, lse_ref, delta_ref, dq_ref):
    pixels, inside, one_hot = cut.own(q_ref.dtype)
    q, dout = _scaled(_load(q_ref, pixels, inside)), _load(dout_ref, pixels, inside)
    lse, delta = (plgpu.load(x.at[pixels], mask=inside, other=0.0)[:, None] for x in (lse_ref, delta_ref))

    def step(c, dq):
        others, valid = cut.others(c, patch_ref)
        keys, values = _load(k_ref, others, valid), _load(v_ref, others, valid)
        weights = exp2(_outer(q, keys) + cut.log_copies(c, patch_ref, tables_ref, one_hot) - lse)
        dlogits = weights * (_outer(dout, values) - delta)
        return dq + _matmul(dlogits.astype(keys.dtype), keys)

    dq = _walk(cut, step, jnp.zeros(q.shape, jnp.float32))
    plgpu.store(_at(dq_ref, pixels), (dq * _scale(q)).astype(dq_ref.dtype), mask=inside[:, None])


def _dkv_kernel(cut, exp2, patch_ref, tables_ref, q_ref, k_ref, v_ref, dout_ref, lse_ref, delta_ref, dk_ref, dv_ref):
    pixels, inside, one_hot = cut.own(k_ref.dtype)
    keys, values = _load(k_ref, pixels, inside), _load(v_ref, pixels, inside)

    def step(c, carry):
        dk, dv = carry
        others, valid = cut.others(c, patch_ref)
        # Scaled and rounded as in the other kernels, for logits that agree with the log-sum-exp.
        q, dout = _scaled(_load(q_ref, others, valid)), _load(dout_ref, others, valid)
        lse, delta = (plgpu.load(x.at[others], mask=valid, other=0.0)[None] for x in (lse_ref, delta_ref))
        weights = exp2(_outer(keys, q) + cut.log_copies(c, patch_ref, tables_ref, one_hot) - lse)
        dlogits = weights * (_outer(values, dout) - delta)  # [keys, queries], as the weights
        return dk + _matmul(dlogits.astype(q.dtype), q), dv + _matmul(weights.astype(q.dtype), dout)

    zeros = jnp.zeros(keys.shape, jnp.float32)
    dk, dv = _walk(cut, step, (zeros, zeros))
    plgpu.store(_at(dk_ref, pixels), (dk * np.float32(np.log(2))).astype(dk_ref.dtype), mask=inside[:, None])
    plgpu.store(_at(dv_ref, pixels), dv.astype(dv_ref.dtype), mask=inside[:, None])


def _walk(cut, step, carry):
    return lax.fori_loop(np.int32(0), np.int32(cut.steps), step, carry)


def _at(ref, pixels):
    """The pixels' channels; indices are arrays throughout, as interpret mode cannot mix them with slices."""
    shape = (pixels.shape[0], ref.shape[-1])
    return ref.at[lax.broadcast_in_dim(pixels, shape, (0,)), lax.broadcasted_iota(jnp.int32, shape, 1)]


def _load(ref, pixels, inside):
    return plgpu.load(_at(ref, pixels), mask=inside[:, None], other=0.0)


def _exp2(x):
    """2 to the power of x, or 0 below the normal floats, which cost `jnp.exp2` up to a fifth of all instructions."""
    like_x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    (y,) = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;", args=[x], constraints="=f,f", pack=1, result_shape_dtypes=[like_x]
    )
    return y


def _scale(x):
    return np.float32(x.shape[-1] ** -0.5)


def _scaled(x):
    """Times log2(e) / sqrt(dim), as the kernels take powers of two."""
    return (x.astype(jnp.float32) * (_scale(x) * np.float32(np.log2(np.e)))).astype(x.dtype)


def _matmul(a, b):
    return _product(a, b, (((1,), (0,)), ((), ())))


def _outer(a, b):
    """All pairs of the rows of `[m, d]` and `[n, d]`, `[m, n]`."""
    return _product(a, b, (((1,), (1,)), ((), ())))


def _product(a, b, axes):
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None  # else Triton would round float32 to 10 bits
    return lax.dot_general(a, b, axes, precision=precision, preferred_element_type=jnp.float32)
