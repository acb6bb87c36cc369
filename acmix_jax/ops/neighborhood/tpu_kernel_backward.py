"""The backward pass of the TPU kernels: one kernel, whose programs add to the gradients of k and v strip by strip.

The weights are computed again from the logits and the log2 of their sum. A patch of keys overlaps with those around it,
so the gradients of k and v are summed in vector memory, over a strip and the rows that the next one adds to. A program
writes the rows that its strip has finished: with several strips, one of them late, or more.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from acmix_jax.ops.neighborhood import tpu_tiles as tiles
from acmix_jax.ops.neighborhood.tpu_plan import SPILLS


def backward(q, k, v, out, log_sum, dout, window_size, stride, dilation, interpret=False):
    """Gradients of q, k and v, of their shapes and types, from those of `forward`'s result. `out` is not needed."""
    plan = tiles.make_plan(q, k, window_size, stride, dilation)
    specs, strips = tiles.Specs(plan, q.shape[0]), len(plan.strips)
    total, finished, late = plan.sums
    dkeys = pl.BlockSpec(
        (finished, plan.key_block[1], plan.side, plan.channels), lambda j, b, s, *_: (jnp.maximum(s - late, 0), 0, b, j)
    )
    channels = plan.channels
    sums = [(plan.block[0], plan.block[1] * plan.side, channels)]
    sums += 2 * [(total, plan.key_block[1] * plan.side, channels)]
    maps = [tiles.to_pixels(x, plan) for x in (q, k, v, dout.astype(v.dtype))]
    gradients = pl.pallas_call(
        partial(_backward_kernel, plan=plan),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(plan.groups, pl.cdiv(q.shape[0], plan.side), strips + late),
            in_specs=[specs.queries, specs.keys, specs.keys, specs.queries, specs.log_sum, *specs.copies],
            out_specs=[specs.queries, dkeys, dkeys],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in sums],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in maps[:3]],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=plan.bytes(q.dtype.itemsize) + SPILLS),
        interpret=interpret,
    )(plan.strips, plan.places, *maps, log_sum, plan.row_copies, plan.column_copies)
    return tuple(tiles.from_pixels(x, y.shape) for x, y in zip(gradients, (q, k, v), strict=True))


def _backward_kernel(
    strips_ref, places_ref, q_ref, k_ref, v_ref, dout_ref, log_sum_ref, rows_ref, columns_ref, dq_ref, dk_ref, dv_ref,
    dq_sum, dk_sum, dv_sum, *, plan,
):  # fmt: skip
    tiles.clear_beyond(plan, k_ref, v_ref)
    strip, last = pl.program_id(2), len(plan.strips) - 1
    total, finished, late = plan.sums
    kept = total - finished
    first = strips_ref[jnp.minimum(strip, last)] - (strip - late) * finished  # row of the sums of the strip's first key

    for ref in (dk_sum, dv_sum):
        tiles.for_each_row(kept, partial(_carry, ref, finished, strip))
        tiles.for_each_row(finished, lambda row, ref=ref: _clear(ref, kept + row))

    def work(tiles_of_strip):
        places = [place for _, place in tiles_of_strip]
        jobs = [(tile, place, image) for tile, place in tiles_of_strip for image in range(plan.images)]
        dtype = k_ref.dtype
        copies = tiles.log_copies(rows_ref, columns_ref, places, plan)
        queries, douts = (tiles.load_queries(ref, strip, places, plan) for ref in (q_ref, dout_ref))
        keys, values = (tiles.load_keys(ref, places, plan) for ref in (k_ref, v_ref))
        queries = [tiles.by_head(x * (plan.dim**-0.5 * tiles.LOG2_E), plan, dtype) for x in queries]
        douts = [tiles.by_head(x, plan, dtype) for x in douts]
        shifts = [x - log_sum_ref[0, 0, 0, image, tile] for x, (tile, _, image) in zip(copies, jobs, strict=True)]
        weights = [jnp.exp2(tiles.product(x, y, (1, 1)) + z) for x, y, z in zip(keys, queries, shifts, strict=True)]
        dweights = [tiles.product(x, y, (1, 1)) for x, y in zip(values, douts, strict=True)]
        dlogits = [
            (x * (y - (x * y).sum(axis=0, keepdims=True))).astype(dtype) for x, y in zip(weights, dweights, strict=True)
        ]
        dvalues = [tiles.product(x.astype(dtype), y, (1, 0)) for x, y in zip(weights, douts, strict=True)]
        dkeys = [tiles.product(x, y, (1, 0)) for x, y in zip(dlogits, queries, strict=True)]
        dqueries = [tiles.product(x, y, (0, 0)) for x, y in zip(keys, dlogits, strict=True)]  # [channels, lanes]
        for (_, place, image), dquery, dkey, dvalue in zip(jobs, dqueries, dkeys, dvalues, strict=True):
            dquery = tiles.from_heads(dquery, plan) * plan.dim**-0.5
            tiles.at(dq_sum, *place[:2], plan.tile, image, plan)[...] = dquery
            for ref, x in ((dk_sum, dkey), (dv_sum, dvalue)):
                patch = tiles.at(ref, first + place[2], place[3], plan.patch, image, plan)
                patch[...] += x.reshape(*plan.patch, plan.channels)

    @pl.when(strip <= last)
    def _():
        tiles.for_each_tile(plan, strip, places_ref, work)
        tiles.write_rows(dq_sum, dq_ref)

    tiles.write_rows(dk_sum, dk_ref, 1 / tiles.LOG2_E)
    tiles.write_rows(dv_sum, dv_ref)


def _carry(ref, finished, strip, row):
    ref[row] = jnp.where(strip > 0, ref[row + finished], 0)


def _clear(ref, row):
    ref[row] = jnp.zeros_like(ref[row])
