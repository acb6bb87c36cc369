"""PyTorch state dicts to variables and back; the only package that knows PyTorch's names and order of axes."""

from acmix_jax.convert.state_dict import from_torch, to_torch

__all__ = ["from_torch", "to_torch"]
