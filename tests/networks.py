"""Variables of networks for tests, traced once for each network and drawn without compiling an initializer."""

import functools

import jax
import numpy as np

from acmix_jax.convert.state_dict import variable_shapes

shapes = functools.cache(variable_shapes)  # a trace takes about a second


def segmenter_shapes(name, head, num_classes=5):
    """Of a segmenter's variables, with heads of 8 and 4 channels."""
    return shapes(name, num_classes, head=head, head_width=8)


def random_variables(name, seed=0, num_classes=10, channels=3, **acmix):
    """Those of a classifier; see `draw`."""
    return draw(shapes(name, num_classes, channels, **acmix), seed)


def draw(shapes, seed=0):
    """NumPy float32 values: activations stay of order one; no bias, statistic or scalar is 0 or 1."""
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        normal = rng.standard_normal(leaf.shape)
        if path[-1].key in ("scale", "var"):
            return np.float32(1 + 0.2 * np.abs(normal))
        return np.float32(normal * (np.prod(leaf.shape[:-1]) ** -0.5 if path[-1].key == "kernel" else 0.2))

    return jax.tree.map_with_path(value, shapes)
