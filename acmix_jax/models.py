"""The registry of names: `create_backbone` makes a backbone, `create_model` and `create_segmenter` add heads to it.

A backbone is given its mixing layers, one maker for each stage; here, and only here, they are made: `ACmix` or the
plain network's own layer, with the attention kind of the family.
"""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from acmix_jax.backbones import pvt, resnet, san, swin
from acmix_jax.errors import UserError, check_choice
from acmix_jax.heads.classifier import Classifier, ClassifierHead
from acmix_jax.heads.fpn import FPN
from acmix_jax.heads.segmenter import Segmenter
from acmix_jax.heads.semantic_fpn import SemanticFPN
from acmix_jax.heads.upernet import FCN, UperNet
from acmix_jax.layers.acmix import ACmix
from acmix_jax.layers.attention import (
    GlobalAttention,
    LocalAttention,
    PairwiseAttention,
    PatchwiseAttention,
    WindowAttention,
)
from acmix_jax.layers.self_attention import SelfAttention
from acmix_jax.layers.weights import kaiming_fan_out, normal_02, torch_default
from acmix_jax.ops.choice import run_attention_form


class ModelName(NamedTuple):
    """The parts of a model's name, such as "acmix_resnet50"."""

    family: str  # "resnet"
    plain: str  # "resnet50"
    is_acmix: bool


def list_models(pattern: str = "*") -> list[str]:
    """Names for `create_model` that match a shell pattern such as "acmix_*"."""
    names = [prefix + name for family in FAMILIES.values() for name in family.names for prefix in ("", "acmix_")]
    return sorted(fnmatch.filter(names, pattern))


def parse_name(name: str) -> ModelName:
    """Family, plain network and whether it has ACmix; raises a UserError with the nearest names for an unknown one."""
    check_choice("model", name, list_models())
    plain = name.removeprefix("acmix_")
    return ModelName(next(key for key, family in FAMILIES.items() if plain in family.names), plain, name != plain)


def create_backbone(
    name: str,
    dtype: Any = jnp.float32,
    drop_path: float | None = None,
    dropout: float = 0.0,
    remat: bool = False,
    frozen_stages: int = 0,
    norm_eval: bool = False,
    dense: bool = False,
    **acmix: Any,
) -> nn.Module:
    """Builds a backbone as a Linen module: images `[B, H, W, 3]` to {"c2", "c3", "c4", "c5"}.

    Its properties `widths` and `strides` give channels and stride of each map.

    Args:
      name: one of `list_models()`.
      dtype: type of the computation; parameters stay in float32.
      drop_path: rate of the last block of Swin and PVT; None for the model's own.
      dropout: rate in Swin and PVT.
      remat: rematerialise each block in the backward pass: less memory, more time.
      frozen_stages, norm_eval: see `backbones.resnet.ResNet` (ResNet only).
      dense: as detection and segmentation have it: PVT without a class token, Swin with a norm on each map.
      **acmix: fields of `layers.acmix.ACmix` or of its attention to change in every block, only for models named
        acmix_*: paths, combination, kernel_size, shift_form, shift_init, shared_shift; window_size (not PVT; plain
        Swin and SAN have it, too); num_heads, attention_form (ResNet); position_size (ResNet, and pairwise SAN, plain
        or not): side in pixels of the images whose distances in the position term are kept on images of any size.

    Raises:
      UserError: unknown name of a model or field, with the nearest ones; a field that this model does not have; or a
        window or image without pixels.
    """
    parsed = parse_name(name)
    family = FAMILIES[parsed.family]
    for field in acmix:
        check_choice(f"ACmix field of {name}", field, family.fields)
    if not parsed.is_acmix and (foreign := [field for field in acmix if field not in family.plain_fields]):
        raise UserError(f"{name} has no ACmix layer to set {', '.join(foreign)} in; use acmix_{name}")
    for size in ("window_size", "position_size"):
        if acmix.get(size) is not None and acmix[size] < 1:
            raise UserError(f"{size}={acmix[size]} is not valid; use a whole number from 1")
    options = {"drop_path": drop_path, "dropout": dropout, "frozen_stages": frozen_stages, "norm_eval": norm_eval}
    for option, value in options.items():
        if value and option not in family.options:
            raise UserError(f"{name} has no {option}; leave it at its default")
    variant, mixers = family.parts(parsed.plain, parsed.is_acmix, **acmix)
    own = {option: options[option] for option in family.options} | (family.dense if dense else {})
    return family.backbone(variant, tuple(mixers), dtype=dtype, remat=remat, **own)


def create_model(name: str, num_classes: int = 1000, dtype: Any = jnp.float32, **options: Any) -> Classifier:
    """Builds a classifier as a Linen module.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits.
      dtype: type of the computation; parameters and logits are float32.
      **options: of `create_backbone`, which also says what it raises.
    """
    head = FAMILIES[parse_name(name).family].head
    return Classifier(create_backbone(name, dtype, **options), ClassifierHead(num_classes, dtype=dtype, **head))


def create_segmenter(
    name: str,
    head: str = "semantic_fpn",
    num_classes: int = 150,
    dtype: Any = jnp.float32,
    head_width: int | None = None,
    classifier_std: float = 0.01,
    **options: Any,
) -> Segmenter:
    """Builds a network for semantic segmentation as a Linen module; initialise it through `with_auxiliary`.

    Args:
      name: one of `list_models()`.
      head: "semantic_fpn" (with PVT in the paper) or "upernet" (with Swin there; has an auxiliary head).
      num_classes: number of logits of each pixel.
      dtype: type of the computation; parameters and logits are float32.
      head_width: channels of the FPN, or of UperNet; the convolutions of Semantic FPN and of the auxiliary head have
        half as many. None for the released 256 and 512.
      classifier_std: see `heads.segmenter.PixelClassifier`.
      **options: of `create_backbone`, which also says what it raises.

    Raises:
      UserError: unknown head.
    """
    check_choice("head", head, SEGMENTATION_HEADS)
    backbone = create_backbone(name, dtype, dense=True, **options)
    return Segmenter(
        backbone, **SEGMENTATION_HEADS[head](num_classes, head_width, dtype, classifier_std=classifier_std)
    )


def model_fields(config: Any, backend: str | None = None) -> dict[str, Any]:
    """The keywords of `create_model` and `create_backbone` that a config (acmix_jax/config/fields.py) sets.

    Args:
      backend: that of the run's devices, whose own form of attention is added (`choice.run_attention_form`); None for
        a model for any backend.
    """
    fields = {name: config[name] for name in ("drop_path", "dropout", "remat")}
    parsed = parse_name(config.model)
    family = FAMILIES[parsed.family]
    acmix = config.acmix.to_dict()
    dtype = jnp.dtype(config.dtype)
    if backend and "attention_form" in family.fields:
        form = run_attention_form(backend, dtype.itemsize, config.batch_norm_groups)
        acmix["attention_form"] = acmix["attention_form"] or form
    has = acmix if parsed.is_acmix else family.plain_fields
    acmix = {name: value for name, value in acmix.items() if value is not None and name in has}
    return {"dtype": dtype, **fields, **acmix}


Parts = tuple[NamedTuple, Sequence[Callable[..., nn.Module]]]  # a backbone's variant, and its mixers


def _mixer(is_acmix: bool, kind: Callable[..., nn.Module], shared: dict[str, Any], acmix: dict[str, Any]):
    """ACmix with an attention kind, or the same attention alone."""
    if is_acmix:
        return partial(ACmix, attention_kind=kind, **shared, **acmix)
    return partial(SelfAttention, attention_kind=kind, **shared)


def _resnet(plain, is_acmix, window_size=7, position_size=None, attention_form=None, **fields) -> Parts:
    """3x3 convolutions, or ACmix as the released ResNet has it: 4 heads, a 7x7 window, Kaiming initialisation."""
    variant = resnet.VARIANTS[plain]
    if not is_acmix:
        return variant, [resnet.conv3x3] * 4
    kind = partial(LocalAttention, window_size=window_size, form=attention_form, kernel_init=kaiming_fan_out)
    strides = resnet.ResNet(variant).strides.values()
    kinds = [partial(kind, position_size=position_size and position_size / stride) for stride in strides]
    return variant, [partial(ACmix, attention_kind=kind, kernel_init=kaiming_fan_out, **fields) for kind in kinds]


def _san(plain, is_acmix, window_size=None, position_size=None, **fields) -> Parts:
    """`window_size` replaces the 7 of all stages but the first."""
    attention = PairwiseAttention if plain.endswith("_pairwise") else PatchwiseAttention
    variant = san.VARIANTS[plain.removesuffix("_pairwise")]
    sizes = [variant.window_sizes[0], *(window_size or size for size in variant.window_sizes[1:])]
    kinds = [partial(attention, window_size=size) for size in sizes]
    if position_size is not None:
        if attention is PatchwiseAttention:
            raise UserError(f"{plain} has no position term; leave position_size out, or use {plain}_pairwise")
        strides = [2 ** (stage + variant.first_pool) for stage in range(len(kinds))]
        kinds = [partial(kind, position_size=position_size / s) for kind, s in zip(kinds, strides, strict=True)]
    return variant, [_mixer(is_acmix, kind, {"num_heads": 4, "qk_heads": 1}, fields) for kind in kinds]


def _pvt(plain, is_acmix, **fields) -> Parts:
    variant = pvt.VARIANTS[plain]
    stages = zip(variant.num_heads, variant.reductions, strict=True)
    shared = [{"num_heads": heads, "reduction": reduction, **_TRANSFORMER} for heads, reduction in stages]
    return variant, [_mixer(is_acmix, GlobalAttention, own, {"conv_init": torch_default, **fields}) for own in shared]


def _swin(plain, is_acmix, window_size=7, **fields) -> Parts:
    variant = swin.VARIANTS[plain]._replace(window_size=window_size)
    kind = partial(WindowAttention, window_size=window_size)
    shared = [{"num_heads": heads, **_TRANSFORMER} for heads in variant.num_heads]
    acmix = {"conv_init": torch_default, "fc_bias": True, **fields}
    return variant, [_mixer(is_acmix, kind, own, acmix) for own in shared]


def _semantic_fpn(num_classes, width, dtype, **fields) -> dict[str, nn.Module]:
    width = width or 256
    return {"neck": FPN(width, dtype=dtype), "head": SemanticFPN(num_classes, width // 2, dtype=dtype, **fields)}


def _upernet(num_classes, width, dtype, **fields) -> dict[str, nn.Module]:
    width = width or 512
    head = UperNet(num_classes, width, dtype=dtype, **fields)
    return {"head": head, "auxiliary": FCN(num_classes, width // 2, dtype=dtype, **fields)}


SEGMENTATION_HEADS = {"semantic_fpn": _semantic_fpn, "upernet": _upernet}

_LINEAR = {"kernel_init": normal_02, "bias_init": nn.initializers.zeros}
_TRANSFORMER = {"use_proj": True, **_LINEAR}
_DROPS = ("drop_path", "dropout")
_FIELDS = ("paths", "combination", "kernel_size", "shift_form", "shift_init", "shared_shift")


class Family(NamedTuple):
    """The models of one backbone file."""

    names: Iterable[str]  # of the plain models
    backbone: Callable[..., nn.Module]
    parts: Callable[..., Parts]  # from plain name, is_acmix and fields of ACmix
    fields: tuple[str, ...]  # of ACmix and its attention that may be set
    plain_fields: tuple[str, ...]  # those that the plain models have, too
    options: tuple[str, ...]  # of `create_backbone` that only some families have
    head: dict[str, Any]  # fields of the classification head
    dense: dict[str, Any]  # fields of the backbone for dense tasks


FAMILIES = {
    "resnet": Family(
        tuple(resnet.VARIANTS), resnet.ResNet, _resnet,
        (*_FIELDS, "num_heads", "window_size", "position_size", "attention_form"), (),
        ("frozen_stages", "norm_eval"), {}, {},
    ),
    "san": Family(
        tuple(name + suffix for name in san.VARIANTS for suffix in ("", "_pairwise")), san.SAN, _san,
        (*_FIELDS, "window_size", "position_size"), ("window_size", "position_size"), (), {}, {},
    ),
    "pvt": Family(
        tuple(pvt.VARIANTS), pvt.PVT, _pvt, _FIELDS, (), _DROPS,
        {"summary": "token", "norm_epsilon": 1e-6, **_LINEAR}, {"use_class_token": False},
    ),
    "swin": Family(
        tuple(swin.VARIANTS), swin.Swin, _swin, (*_FIELDS, "window_size"), ("window_size",), _DROPS,
        {"norm_epsilon": 1e-5, **_LINEAR}, {"norm_outputs": True},
    ),
}  # fmt: skip
