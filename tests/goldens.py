"""Numbers computed in float64 with the released PyTorch modules, and the parameters and inputs that they are for.

Parameters, in the order of their sorted PyTorch names, are 0.2 * sin(0.7 * i + rank); inputs are sin(0.05 * i).
"""

import numpy as np


def fill(shapes):
    """Parameters with these names and shapes, by the rule above."""
    return {
        name: 0.2 * np.sin(0.7 * np.arange(np.prod(shapes[name], dtype=int)) + rank).reshape(shapes[name])
        for rank, name in enumerate(sorted(shapes))
    }


def waves(*shape):
    return np.sin(0.05 * np.arange(np.prod(shape))).reshape(shape)


def check(out, golden, start, places):
    """Golden: sum, sum of absolute values, and the values at two places; start: the first three values, rounded."""
    found = (out.sum(), np.abs(out).sum(), *(out[place] for place in places))
    np.testing.assert_allclose(found, golden, rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.reshape(-1)[:3], start, rtol=0, atol=6e-9)


def linear(tensors, name):
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}


def norm(tensors, name):
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}
