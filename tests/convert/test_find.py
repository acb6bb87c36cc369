"""Where the weights are in what training scripts save."""

import numpy as np
import pytest

from acmix_jax.convert.find import find
from acmix_jax.errors import UserError

NAMES = {"stem.weight", "layers.0.weight", "layers.0.bias", "head.weight"}


def weights(prefix="", value=0.0):
    return {prefix + name: np.full(2, value) for name in sorted(NAMES)}


def place_and_value(content, key=None):
    found = find(content, [NAMES], key)
    assert found.tensors.keys() == NAMES
    return found.place, found.tensors["stem.weight"][0]


@pytest.mark.parametrize(
    "content",
    [
        weights(),
        weights("net."),
        weights("encoder_q.0.") | {"epoch": 3},
        weights("_forward_module.student.net."),
        {"layers._orig_mod.0.weight" if name == "layers.0.weight" else name: x for name, x in weights().items()},
        {name.replace("layers.0.", "layers._fsdp_wrapped_module.0._orig_mod."): x for name, x in weights().items()},
        {name.replace("layers.0.", "layers.0._checkpoint_wrapped_module."): x for name, x in weights().items()},
        {"params": weights("module.")},
        {"checkpoint": {"epoch": 2, "weights": weights("model.")}, "args": {"lr": 0.1}},
        {"state": weights(), "optimizer": {"state": {0: {"exp_avg": np.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
        {"loops": {}, "state_dict": weights("net.backbone."), "optimizer_states": [{"state": {}}]},
    ],
)
def test_any_wrapper_and_any_prefix_come_off(content):
    assert place_and_value(content)[1] == 0


@pytest.mark.parametrize(
    ("plain", "average"),
    [
        ("weights", "ema"),
        ("model", "ema_model"),
        ("student", "teacher"),
        ("net", "modelEMA"),
        ("last", "swa_weights"),
        ("state_dict", "best_state_dict"),
    ],
)
def test_the_plain_weights_are_taken_in_any_order(plain, average):
    for keys in ([plain, average], [average, plain]):
        content = {key: weights("module.", value=float(key == average)) for key in keys}
        assert place_and_value(content) == (plain, 0)
        assert find(content, [NAMES]).others == [average]
        assert place_and_value(content, key=average) == (average, 1)


def test_an_average_may_be_in_the_same_mapping_and_lack_some_tensors():
    average = {name: x for name, x in weights("teacher.net.", 1.0).items() if "bias" not in name}
    content = {"state_dict": average | weights("student.net.")}
    assert place_and_value(content) == ("state_dict.student.net", 0)
    found = find(content, [NAMES])
    assert (found.others, found.beside) == (["state_dict.teacher.net"], [])
    assert find(content, [NAMES], key="teacher").tensors["stem.weight"][0] == 1


@pytest.mark.parametrize(
    ("plain", "average"),
    [
        ("_model.", "_ema_model."),
        ("model.", "model._ema."),
        ("net._student.", "net._teacher."),
        ("", "_orig_mod.avg."),
        ("_orig_mod.", "_ema._orig_mod."),
    ],
)
def test_prefixes_with_an_underscore_stay_apart(plain, average):
    """Attributes that begin with one are as common in Lightning as others."""
    for content in (weights(plain) | weights(average, 1.0), weights(average, 1.0) | weights(plain)):
        assert place_and_value(content)[1] == 0
        assert len(find(content, [NAMES]).others) == 1


def test_names_that_differ_by_a_wrapper_stay_apart():
    content = weights("net.") | weights("net._orig_mod.", 1.0) | weights("net._fsdp_wrapped_module.", 2.0)
    assert place_and_value(content) == ("net", 0)
    assert find(content, [NAMES]).others == ["net._orig_mod", "net._fsdp_wrapped_module"]
    assert place_and_value(content, key="net._orig_mod") == ("net._orig_mod", 1)


def test_an_average_alone_is_taken():
    assert place_and_value({"model_ema": weights("module."), "optimizer": {}}) == ("model_ema", 0)


def test_tensors_of_other_heads_are_left_over():
    content = weights("backbone.") | {"decode_head.weight": np.ones(3), "aux.bias": np.ones(3)}
    assert find(content, [NAMES]).beside == ["decode_head.weight", "aux.bias"]
    assert find({"swa": weights("module.") | {"n_averaged": np.int64(3)}}, [NAMES]).beside == ["n_averaged"]


def test_the_layout_with_most_of_its_names_is_taken():
    other = {"stem.weight", "blocks.0.weight", "blocks.0.bias", "head.weight"}
    content = {"model": {f"module.{name}": np.zeros(2) for name in other}}
    found = find(content, [NAMES, other])
    assert (found.layout, found.tensors.keys()) == (1, other)
    assert find(weights(), [NAMES, other]).layout == 0


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown key 'model_em'; did you mean model_ema\?"):
        find({"model": weights(), "model_ema": weights()}, [NAMES], key="model_em")


@pytest.mark.parametrize("content", [weights(), {"vit": {"block.weight": np.ones(2)}}])
def test_a_key_without_weights_is_refused(content):
    with pytest.raises(UserError, match="there is no key 'model' with weights of this model; leave key .* out"):
        find(content, [NAMES], key="model")


@pytest.mark.parametrize("key", ["head", "layers", "layers.0", "stem"])
def test_a_part_of_the_network_is_no_key(key):
    with pytest.raises(UserError, match=f"no key '{key}' with weights of this model; leave key"):
        find(weights(), [NAMES], key=key)
    with pytest.raises(UserError, match=f"unknown key '{key}'; choose one of: model, model_ema"):
        find({"model": weights(), "model_ema": weights("module.")}, [NAMES], key=key)


def test_a_key_of_another_network_is_left_to_the_comparison_of_names():
    other = {"model": {"vit.weight": np.ones(2)}, "model_ema": {"vit.weight": np.zeros(2)}}
    assert find(other, [NAMES], key="model_ema").tensors["vit.weight"][0] == 0


def test_an_optimizer_holds_no_weights():
    found = find({"optimizer": {"exp_avg": weights()}, "optimizers": {"g": weights()}, "model": weights()}, [NAMES])
    assert (found.place, found.others, found.beside) == ("model", [], [])


def test_names_of_another_network_are_whole():
    names = {f"module.vit.block{i}.weight" for i in range(9)}
    assert find({"state_dict": dict.fromkeys(names, np.ones(1))}, [NAMES]).tensors.keys() == names


@pytest.mark.parametrize("content", [{}, [np.ones(3)], {"epoch": 2, "losses": [1.0]}, {0: np.ones(3)}, np.ones(3)])
def test_what_holds_no_tensors_is_refused(content):
    with pytest.raises(UserError, match="no tensors by name"):
        find(content, [NAMES])
