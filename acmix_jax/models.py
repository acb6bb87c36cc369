"""The one registry: model name -> backbone and head."""

import fnmatch
from functools import partial
from typing import Any

import jax.numpy as jnp

from acmix_jax.backbones import resnet
from acmix_jax.errors import UserError, check_choice
from acmix_jax.heads.classifier import Classifier
from acmix_jax.layers.acmix import ACmix
from acmix_jax.layers.attention import LocalAttention
from acmix_jax.layers.weights import kaiming_fan_out


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model` that match a shell pattern such as "acmix_*"."""
    names = [prefix + name for name in resnet.VARIANTS for prefix in ("", "acmix_")]
    return sorted(fnmatch.filter(names, pattern))


def create_model(name: str, num_classes: int = 1000, dtype: Any = jnp.float32, **acmix: Any) -> Classifier:
    """Builds a classifier as a Linen module.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      dtype: type of the computation; parameters stay in float32.
      **acmix: fields of `layers.acmix.ACmix` or of its attention (`window_size`) to change in every block; only for
        models named acmix_*.

    Raises:
      UserError: unknown name of a model or field, says the nearest ones; or a field given for a plain model.
    """
    check_choice("model", name, list_models())
    plain = name.removeprefix("acmix_")
    mixer = resnet.conv3x3
    if name != plain:
        mixer = _acmix(**acmix)
    elif acmix:
        raise UserError(f"{name} has no ACmix layer to set {', '.join(acmix)} in; use acmix_{name}")
    return Classifier(resnet.ResNet(resnet.VARIANTS[plain], mixer, dtype), num_classes, dtype)


def _acmix(window_size: int = 7, **fields: Any):
    """ACmix as the released ResNet sets it up: 4 heads, a 7x7 window, Kaiming initialisation."""
    for name in fields:
        check_choice("field of ACmix", name, [*ACmix.__dataclass_fields__, "window_size"])
    attention = partial(LocalAttention, window_size=window_size)
    return partial(ACmix, attention=attention, kernel_init=kaiming_fan_out, **fields)
