"""Messages about tensors that are not those of the model."""

import ml_dtypes
import numpy as np
import pytest

from acmix_jax.convert.check import check, notes
from acmix_jax.convert.find import Found
from acmix_jax.errors import UserError

SHAPES = {f"layers.{i}.attn.relative_position_bias_table": (169, 3) for i in range(4)} | {"head.bias": (10,)}


def refusal(changes, found=None, dropped=(), shapes=SHAPES):
    tensors = {key: np.zeros(shape, np.float32) for key, shape in shapes.items() if key not in dropped}
    with pytest.raises(UserError) as error:
        check("swin_tiny", shapes, tensors | changes, found or Found({}, 0, [], "", []), "head")
    return str(error.value)


def tables(*rows):
    return {key: np.zeros((n, 3), np.float32) for key, n in zip(SHAPES, rows, strict=False)}


@pytest.mark.parametrize(("rows", "window"), [(529, 12), (225, 8), (2209, 24), (9, 2)])
def test_another_window_is_named_with_what_to_set(rows, window):
    assert refusal(tables(*[rows] * 4)) == (
        f"the state dict is not one of swin_tiny: the attention windows of the weights are {window} pixels "
        f"wide, not 7: set window_size={window} (--window_size={window} on the command line)"
    )


@pytest.mark.parametrize("rows", [(169, 169, 169, 49), (170,) * 4])
def test_tables_that_no_window_explains_are_listed(rows):
    message = refusal(tables(*rows))
    assert "window_size" not in message
    assert f"layers.3.attn.relative_position_bias_table ({rows[3]}, 3) instead of (169, 3)" in message or rows[3] == 170


@pytest.mark.parametrize("shape", [(), (529,), (529, 6), (0, 3)])
def test_tables_of_another_network_are_listed(shape):
    message = refusal({key: np.zeros(shape, np.float32) for key in tables(*[529] * 4)})
    assert f"4 of another shape: layers.0.attn.relative_position_bias_table {shape} instead of (169, 3)" in message


def test_the_window_is_named_beside_other_differences():
    message = refusal(tables(*[529] * 4), dropped=["head.bias"])
    assert "window_size=12" in message
    assert "1 missing: head.bias" in message
    assert "of another shape" not in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_named(value, dtype):
    assert "NaN or infinite in head.bias;" in refusal({"head.bias": np.full(10, value, dtype)})


def test_whole_numbers_are_no_weights():
    message = "1 of another type: head.bias int8; name the model that it was saved from"
    assert refusal({"head.bias": np.zeros(10, np.int8)}).endswith(message)


@pytest.mark.parametrize(("prefix", "beside"), [("", []), ("backbone.", ["head.bias"]), ("module.encoder_q.", [])])
def test_weights_without_a_classifier_say_what_to_add(prefix, beside):
    shapes = {f"layers.{i}.bias": (3,) for i in range(3)} | {"head.bias": (10,), "head.weight": (10, 3)}
    found = Found({}, 0, beside, "", [], prefix)
    message = refusal({}, found, ("head.bias", "head.weight"), shapes)
    hint = f"it has no classifier: add {prefix}head.bias, {prefix}head.weight (zeros, to train a new one)"
    assert f"the state dict is not one of swin_tiny: {hint}; 2 missing: head.bias, head.weight" in message
    assert ("1 left over: head.bias" in message) == bool(beside)
    assert "no classifier" not in refusal({}, found, ("head.bias", "head.weight", "layers.0.bias"), shapes)


LONG = {
    "missing": {f"layers.{i}.blocks.0.attn.a_parameter_{i}_of_the_model": (169, 3) for i in range(500)},
    "left over": {f"vit.{i}.{'x' * 300}": np.zeros(3, np.float32) for i in range(500)},
    "of another shape": {f"layers.{i}.{'long' * 50}.weight": (1, 2, 3, 4) for i in range(500)},
}


@pytest.mark.parametrize("dtype", [np.float32, np.int16])  # of another type as well
@pytest.mark.parametrize("kinds", [["missing", "left over"], ["missing", "of another shape"], list(LONG)])
def test_long_lists_end_with_how_many_more(kinds, dtype):
    missing, left_over, shapes = (LONG[kind] if kind in kinds else {} for kind in LONG)
    reshaped = {key: np.zeros((4, 3, 2, 1), dtype) for key in shapes}
    found = Found({}, 0, [], "state_dict.model", [f"state_dict_ema_{i}.module.backbone" for i in range(9)])
    changes = left_over | reshaped | tables(*[529] * 4)
    message = refusal(changes, found, dropped=missing, shapes=SHAPES | missing | shapes)
    assert len(message) <= 1000
    assert message.count(" more") == len(kinds) + 1 + (dtype == np.int16 and bool(shapes))
    assert all(f"500 {kind}: " in message for kind in kinds)
    assert message.endswith("(--key=state_dict_ema_0.module.backbone in the command) to take them")


def test_notes_say_what_was_not_taken():
    choice, left_over = notes(Found({}, 0, [f"head{i}.weight" for i in range(5)], "model", ["model_ema", "ema2"]))
    assert choice == (
        "the weights were taken from model, there are others in model_ema, ema2: set key=model_ema "
        "(--key=model_ema in the command) to take them"
    )
    assert left_over == (
        "5 left over beside the weights of the model: head0.weight, head1.weight, head2.weight and 2 more"
    )
    assert notes(Found({}, 0, [], "model", [])) == []
