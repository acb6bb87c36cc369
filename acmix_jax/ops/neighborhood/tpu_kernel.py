"""Neighborhood attention as fused Pallas kernels for TPUs: no logit and no weight reaches the main memory.

A program works on a strip of rows of eight images, tile by tile of queries (`tpu_tiles.py`). The position term was
subtracted from k before. Reflection costs nothing: a key seen n times gets log2(n) on its logit (see `tiles.py`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from acmix_jax.ops.neighborhood import tpu_tiles as tiles
from acmix_jax.ops.neighborhood.tpu_kernel_backward import backward
from acmix_jax.ops.neighborhood.tpu_plan import LANES, MOST_MEMORY, SPILLS, lane_groups

__all__ = ["backward", "forward", "unsupported"]

MOST_HEADS = 32
SMALL_MEMORY = ("TPU v2", "TPU v3", "TPU v4")  # 16 MiB of vector memory


def unsupported(q, k, window_size, stride, dilation):
    """The reason why the kernels cannot take arrays (or `ShapeDtypeStruct`s) like q and k; None if they can."""
    heads, dim = q.shape[3:]
    if q.dtype != k.dtype or q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"the TPU kernel takes bfloat16 or float32, not {q.dtype} and {k.dtype}"
    if heads > MOST_HEADS:
        return f"{heads} heads, more than {MOST_HEADS}, make a program of enormous length"
    if not lane_groups(heads, dim):
        return f"{heads} heads of {dim} channels do not fill groups of {LANES} lanes"
    kinds = [device.device_kind for device in jax.local_devices() if device.device_kind.startswith(SMALL_MEMORY)]
    if kinds:
        return f"{kinds[0]} has less vector memory than the kernels need"
    needed = tiles.make_plan(q, k, window_size, stride, dilation).bytes(q.dtype.itemsize)
    if needed > MOST_MEMORY:
        return f"a row of tiles of {k.shape[2]} columns needs {needed >> 20} MiB of vector memory"
    return None


def forward(q, k, v, window_size, stride, dilation, interpret=False):
    """Neighborhood attention, whose logits are `q . k / sqrt(dim)`.

    Args:
      q: `[B, ceil(H / stride), ceil(W / stride), heads, dim]`, bfloat16 or float32.
      k, v: `[B, H, W, heads, dim]`, of the same type; the position was subtracted from k.
      window_size, stride, dilation: see `ops.neighborhood`.
      interpret: whether to run in Pallas' interpreter, for machines without a TPU.

    Returns:
      The shape of q in the type of v; and for `backward` log2 of the sum of the exponentials of each query's logits,
      float32, in the order of the tiles (`tpu_tiles.Specs.log_sums`).
    """
    plan = tiles.make_plan(q, k, window_size, stride, dilation)
    specs = tiles.Specs(plan, q.shape[0])
    maps = [tiles.to_pixels(x, plan) for x in (q, k, v)]
    out, log_sum = pl.pallas_call(
        partial(_forward_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(plan.groups, pl.cdiv(q.shape[0], plan.side), len(plan.strips)),
            in_specs=[specs.queries, specs.keys, specs.keys, *specs.copies],
            out_specs=[specs.queries, specs.log_sum],
            scratch_shapes=[pltpu.VMEM((plan.block[0], plan.block[1] * plan.side, plan.channels), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(maps[0].shape, v.dtype), specs.log_sums(q.shape[0])],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=plan.bytes(q.dtype.itemsize) + SPILLS),
        interpret=interpret,
    )(plan.strips, plan.places, *maps, plan.row_copies, plan.column_copies)
    return tiles.from_pixels(out, q.shape), log_sum


def _forward_kernel(_, places_ref, q_ref, k_ref, v_ref, rows_ref, columns_ref, out_ref, log_sum_ref, sums_ref, *, plan):
    tiles.clear_beyond(plan, k_ref, v_ref)
    strip = pl.program_id(2)

    def work(tiles_of_strip):
        # Step by step for all tiles and images: the products of one run beside the softmax of another.
        places = [place for _, place in tiles_of_strip]
        copies = tiles.log_copies(rows_ref, columns_ref, places, plan)
        queries = tiles.load_queries(q_ref, strip, places, plan)
        keys, values = (tiles.load_keys(ref, places, plan) for ref in (k_ref, v_ref))
        queries = [tiles.by_head(x * (plan.dim**-0.5 * tiles.LOG2_E), plan, q_ref.dtype) for x in queries]
        logits = [tiles.product(x, y, (1, 1)) + z for x, y, z in zip(keys, queries, copies, strict=True)]
        largest = [x.max(axis=0, keepdims=True) for x in logits]
        weights = [jnp.exp2(x - y) for x, y in zip(logits, largest, strict=True)]
        totals = [x.sum(axis=0, keepdims=True) for x in weights]
        out = [
            tiles.product(x, y.astype(x.dtype), (0, 0)) * (1 / total)  # [channels, lanes]
            for x, y, total in zip(values, weights, totals, strict=True)
        ]
        jobs = [(tile, place, image) for tile, place in tiles_of_strip for image in range(plan.images)]
        for (tile, place, image), x, y, total in zip(jobs, out, largest, totals, strict=True):
            tiles.at(sums_ref, *place[:2], plan.tile, image, plan)[...] = tiles.from_heads(x, plan)
            log_sum_ref[0, 0, 0, image, tile] = y + jnp.log2(total)

    tiles.for_each_tile(plan, strip, places_ref, work)
    tiles.write_rows(sums_ref, out_ref)
