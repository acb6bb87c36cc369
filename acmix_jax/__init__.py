"""ACmix in JAX: the mixture of self-attention and convolution, its backbones, training and analysis."""

from acmix_jax import convert
from acmix_jax.layers.acmix import ACmix
from acmix_jax.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["ACmix", "convert", "create_model", "list_models"]
