"""The one registry: model name -> backbone and head."""

import fnmatch
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from acmix_jax.backbones import pvt, resnet, san, swin
from acmix_jax.errors import UserError, check_choice
from acmix_jax.heads.classifier import Classifier
from acmix_jax.layers.acmix import ACmix
from acmix_jax.layers.attention import LocalAttention, PairwiseAttention, PatchwiseAttention
from acmix_jax.layers.weights import kaiming_fan_out, normal_02, torch_default


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model` that match a shell pattern such as "acmix_*"."""
    names = [prefix + name for family in FAMILIES.values() for name in family.names for prefix in ("", "acmix_")]
    return sorted(fnmatch.filter(names, pattern))


def family_of(name: str) -> str:
    """The family of a model, such as "resnet"; raises a UserError with the nearest names if there is no such model."""
    check_choice("model", name, list_models())
    return next(key for key, family in FAMILIES.items() if name.removeprefix("acmix_") in family.names)


def create_model(
    name: str,
    num_classes: int = 1000,
    dtype: Any = jnp.float32,
    drop_path: float | None = None,
    dropout: float = 0.0,
    remat: bool = False,
    **acmix: Any,
) -> Classifier:
    """Builds a classifier as a Linen module.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      dtype: type of the computation; parameters stay in float32.
      drop_path: rate of the last block of Swin and PVT; None for the model's own.
      dropout: rate in Swin and PVT.
      remat: compute each block again for its gradient: less memory, more time.
      **acmix: fields of `layers.acmix.ACmix` or of its attention to change in every block, only for models named
        acmix_*: paths, combination, kernel_size, shift_form, shift_init, shared_shift; window_size (not PVT);
        num_heads, attention_form (ResNet).

    Raises:
      UserError: unknown name of a model or field, says the nearest ones; or a field that this model does not have.
    """
    family = FAMILIES[family_of(name)]
    plain = name.removeprefix("acmix_")
    if name == plain and acmix:
        raise UserError(f"{name} has no ACmix layer to set {', '.join(acmix)} in; use acmix_{name}")
    for field in acmix:
        check_choice(f"ACmix field of {name}", field, family.fields)
    rates = {"drop_path": drop_path, "dropout": dropout}
    if not family.drops and any(rates.values()):
        raise UserError(f"{name} has neither drop path nor dropout; leave drop_path at None and dropout at 0")
    backbone = family.build(plain, name != plain, dtype=dtype, **(rates if family.drops else {}), **acmix).clone(
        remat=remat
    )
    return Classifier(backbone, num_classes, dtype=dtype, **family.head)


def _resnet(name, is_acmix, dtype, window_size=7, attention_form=None, **fields):
    """The 3x3 convolutions, or ACmix as the released ResNet has it: 4 heads, a 7x7 window, Kaiming initialisation."""
    attention = partial(LocalAttention, window_size=window_size, form=attention_form, kernel_init=kaiming_fan_out)
    mixer = partial(ACmix, attention=attention, kernel_init=kaiming_fan_out, **fields)
    return resnet.ResNet(resnet.VARIANTS[name], mixer if is_acmix else resnet.conv3x3, dtype)


def _san(name, is_acmix, dtype, window_size=None, **fields):
    attention = PairwiseAttention if name.endswith("_pairwise") else PatchwiseAttention
    mixer = partial(ACmix, **(fields if is_acmix else _PLAIN))
    return san.SAN(san.VARIANTS[name.removesuffix("_pairwise")], mixer, attention, window_size, dtype)


def _pvt(name, is_acmix, dtype, drop_path, dropout, **fields):
    mixer = partial(ACmix, **_TRANSFORMER, **(fields if is_acmix else _PLAIN))
    return pvt.PVT(pvt.VARIANTS[name], mixer, drop_path, dropout, dtype)


def _swin(name, is_acmix, dtype, drop_path, dropout, window_size=7, **fields):
    mixer = partial(ACmix, fc_bias=True, **_TRANSFORMER, **(fields if is_acmix else _PLAIN))
    return swin.Swin(swin.VARIANTS[name], mixer, window_size, drop_path, dropout, dtype)


_PLAIN = {"paths": "attention"}
_LINEAR = {"kernel_init": normal_02, "bias_init": nn.initializers.zeros}
_TRANSFORMER = {"project": True, "conv_init": torch_default, **_LINEAR}
_FIELDS = ("paths", "combination", "kernel_size", "shift_form", "shift_init", "shared_shift")


class Family(NamedTuple):
    """How the models of one backbone file are built."""

    names: Iterable[str]  # of the plain models
    build: Callable[..., nn.Module]  # the backbone, from name, is_acmix, dtype and fields
    fields: tuple[str, ...]  # of ACmix and its attention that `create_model` may set
    drops: bool  # has drop path and dropout
    head: dict[str, Any]  # fields of the classifier


FAMILIES = {
    "resnet": Family(
        tuple(resnet.VARIANTS), _resnet, (*_FIELDS, "num_heads", "window_size", "attention_form"), False, {}
    ),
    "san": Family(
        tuple(name + kind for name in san.VARIANTS for kind in ("", "_pairwise")), _san, (*_FIELDS, "window_size"),
        False, {},
    ),
    "pvt": Family(tuple(pvt.VARIANTS), _pvt, _FIELDS, True, {"summary": "token", "norm_epsilon": 1e-6, **_LINEAR}),
    "swin": Family(tuple(swin.VARIANTS), _swin, (*_FIELDS, "window_size"), True, {"norm_epsilon": 1e-5, **_LINEAR}),
}  # fmt: skip
