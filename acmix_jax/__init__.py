"""ACmix in JAX: the mixture of self-attention and convolution, its backbones, training and analysis."""

from acmix_jax import convert
from acmix_jax.layers.acmix import ACmix
from acmix_jax.models import create_backbone, create_model, create_segmenter, list_models
from acmix_jax.weights.fold import fold
from acmix_jax.weights.warm_start import merge

__version__ = "0.1.0"
__all__ = ["ACmix", "convert", "create_backbone", "create_model", "create_segmenter", "fold", "list_models", "merge"]
