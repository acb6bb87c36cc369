from functools import partial

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import acmix_jax
from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.run.metrics import read_metrics
from acmix_jax.training.loop import train
from acmix_jax.weights.warm_start import merge
from tests.networks import draw, random_variables, segmenter_shapes

PLAIN = ["swin_micro_patch2", *(pytest.param(n, marks=pytest.mark.slow) for n in ("pvt_micro_patch2", "san5_stem1"))]


@pytest.mark.parametrize("name", PLAIN)
def test_an_upgraded_network_computes_what_the_plain_one_does(name):
    plain, model = acmix_jax.create_model(name, 10), acmix_jax.create_model("acmix_" + name, 10)
    trained, fresh = random_variables(name), random_variables("acmix_" + name, seed=1)
    upgraded, summary = merge(fresh, trained)
    images, labels = jax.random.normal(jax.random.key(0), (2, 16, 16, 3)), jnp.arange(2)
    expected = jax.jit(plain.apply)(trained, images)

    @jax.jit
    def look(params):
        def loss_of(params):
            logits = model.apply({**upgraded, "params": params}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        return jax.grad(loss_of, has_aux=True)(params)

    before, logits = look(upgraded["params"])
    after, _ = look(jax.tree.map(lambda p, g: p - 1e-4 * g, upgraded["params"], before))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert "plain layers upgraded to ACmix (alpha 1, beta 0)" in summary
    before, after = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (before, after))
    # PVT's classifier reads the class token alone, which the convolution of its last layer does not reach.
    reached = [path for path in before if "pvt" not in name or "stage4" not in path]
    scalars = [path for path in reached if path.endswith(("/alpha", "/beta"))]
    kernels = [path for path in reached if path.endswith(("/mixer/fc/kernel", "/mixer/shift/kernel"))]
    assert len(scalars) == len(kernels) >= 8
    assert all(before[path] != 0 for path in scalars)
    # beta = 0 multiplies their first gradient; once it has moved, they learn.
    assert all(np.all(before[path] == 0) and np.any(after[path] != 0) for path in kernels)


def test_the_same_network_takes_everything():
    trained = random_variables("acmix_resnet14_stem1")
    fresh = random_variables("acmix_resnet14_stem1", seed=1)
    merged, summary = merge(fresh, trained)
    jax.tree.map(np.testing.assert_array_equal, merged, trained)
    assert summary == f"{len(jax.tree.leaves(trained))} tensors"


def test_a_head_for_other_classes_stays_fresh():
    trained = random_variables("swin_micro_patch2", num_classes=10)
    fresh = random_variables("swin_micro_patch2", seed=1, num_classes=3)
    merged, summary = merge(fresh, trained)
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["head"], fresh["params"]["head"])
    jax.tree.map(np.testing.assert_array_equal, merged["params"]["backbone"], trained["params"]["backbone"])
    assert summary.endswith("a new head for 3 classes")


@pytest.mark.parametrize(
    ("name", "head", "own", "dropped"),
    [
        ("swin_micro_patch2", "upernet", 8 + 62 + 7, "2 of head and 2 of norm"),  # with norms of the four maps
        ("pvt_micro_patch2", "semantic_fpn", 16 + 37, "1 of class_token and 2 of head and 2 of norm"),
        ("acmix_resnet14_stem1", "semantic_fpn", 16 + 37, "2 of head"),
    ],
)
def test_another_task_takes_the_whole_backbone_of_a_classifier(name, head, own, dropped):
    trained, fresh = random_variables(name), draw(segmenter_shapes(name, head), seed=1)
    merged, summary = merge(fresh, trained)
    found, asked, theirs = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (merged, fresh, trained))
    taken = {path for path in asked if "/backbone/" in path and path in theirs}
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, (theirs if path in taken else asked)[path])
    assert summary == f"{len(taken)} tensors of the backbone, {own} others stay fresh, dropped {dropped}"
    assert len(taken) == len(theirs) - sum(int(word) for word in dropped.split() if word.isdigit())
    again, summary = merge(fresh, merged)  # the same task takes everything
    jax.tree.map(np.testing.assert_array_equal, again, merged)
    assert summary == f"{len(asked)} tensors"


def test_another_task_upgrades_a_plain_backbone():
    fresh = draw(segmenter_shapes("acmix_swin_micro_patch2", "semantic_fpn"), seed=1)
    summary = merge(fresh, random_variables("swin_micro_patch2"))[1]
    assert "6 plain layers upgraded to ACmix (alpha 1, beta 0), dropped 2 of head and 2 of norm" in summary


def test_a_segmenter_for_other_classes_has_new_logits_alone():
    trained, fresh = (draw(segmenter_shapes("resnet14_stem1", "upernet", count), seed=count) for count in (5, 3))
    merged, summary = merge(fresh, trained)
    for part in ("head", "auxiliary"):
        ours, theirs, asked = (tree["params"][part] for tree in (merged, trained, fresh))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs | {"classifier": asked["classifier"]})
    assert summary.endswith("a new head for 3 classes")


def test_another_task_takes_no_part_of_a_backbone():
    trained = random_variables("swin_micro_patch2")
    fresh = draw(segmenter_shapes("swin_micro_patch2", "semantic_fpn"))
    backbone = trained["params"]["backbone"]
    backbone["extra"], _ = np.zeros(3), backbone["patch_embed"].pop("bias")
    with pytest.raises(UserError) as error:
        merge(fresh, trained)
    assert "params/backbone/patch_embed/bias is missing" in str(error.value)
    assert "params/backbone/extra is left over" in str(error.value)


def test_every_difference_is_listed():
    trained = random_variables("acmix_swin_micro_patch2")
    fresh = random_variables("acmix_swin_micro_patch2", seed=1)
    layer = trained["params"]["backbone"]["stage1_block1"]["mixer"]
    del layer["fc"], trained["params"]["norm"]["bias"]
    layer["extra"] = np.zeros(3)
    trained["params"]["backbone"]["patch_embed"]["kernel"] = np.zeros((2, 2, 1, 32))
    with pytest.raises(UserError) as error:
        merge(fresh, trained)
    for difference in (
        "params/backbone/patch_embed/kernel is (2, 2, 1, 32) instead of (2, 2, 3, 32)",
        "params/backbone/stage1_block1/mixer/fc/bias is missing",
        "params/backbone/stage1_block1/mixer/fc/kernel is missing",
        "params/norm/bias is missing",
        "params/backbone/stage1_block1/mixer/extra is left over",
    ):
        assert difference in str(error.value)


@pytest.mark.parametrize(
    ("name", "theirs", "asked"),
    [("swin_micro_patch2", 12, 7), ("swin_micro_patch2", 7, 4), ("acmix_swin_micro_patch2", 8, 7)],
)
def test_windows_of_another_size_are_named_with_what_to_set(name, theirs, asked):
    trained = random_variables("swin_micro_patch2", window_size=theirs)
    with pytest.raises(UserError) as error:
        merge(random_variables(name, window_size=asked), trained)
    assert str(error.value) == (
        f"the weights do not fit: the attention windows of the weights are {theirs} pixels wide, not {asked}: "
        f"set window_size={theirs} (--config.acmix.window_size={theirs} on the command line)"
    )


def test_a_plain_network_of_another_window_is_upgraded():
    trained = random_variables("swin_micro_patch2", window_size=12)
    merged, summary = merge(random_variables("acmix_swin_micro_patch2", window_size=12), trained)
    assert "6 plain layers upgraded" in summary
    tables = [tree["params"]["backbone"]["stage1_block1"]["mixer"]["attention"] for tree in (merged, trained)]
    jax.tree.map(np.testing.assert_array_equal, *tables)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(value):
    trained = random_variables("swin_micro_patch2")
    trained["params"]["norm"]["bias"][3] = value
    with pytest.raises(UserError, match="do not fit: params/norm/bias has values that are NaN or infinite"):
        merge(random_variables("swin_micro_patch2"), trained)


def test_long_lists_end_with_how_many_more():
    fresh = {"params": {"backbone": {f"layer{i}": np.zeros(2) for i in range(99)}}}
    with pytest.raises(UserError, match="layer0 is missing, .* and 94 more$") as error:
        merge(fresh, {"params": {}})
    assert len(str(error.value)) < 1000


def test_a_plain_resnet_cannot_be_upgraded():
    with pytest.raises(UserError, match="stage1_block1/mixer/alpha is missing"):
        merge(random_variables("acmix_resnet14_stem1"), random_variables("resnet14_stem1"))


@pytest.mark.slow
def test_a_run_starts_from_weights(config, tmp_path, capsys):
    """From a folder as acmix_jax.convert writes it; README's commands, which are tested too, start from a run."""
    trained = random_variables("swin_micro_patch2", channels=1)
    workdir.check_unused(tmp_path / "plain")
    workdir.write_facts(tmp_path / "plain", {"model": "swin_micro_patch2", "num_classes": 10})
    with Checkpoints(tmp_path / "plain" / "checkpoints") as checkpoints:
        checkpoints.save_variables(0, trained)
    config.model, config.init_from = "acmix_swin_micro_patch2", str(tmp_path / "plain")
    config.num_epochs, config.log_every, config.optimizer.learning_rate = 2 * config.batch_size / 1437, 1, 1e-6
    state = train(config, tmp_path / "acmix", jax.devices()[:1])
    assert "(swin_micro_patch2) at step 0: 125 tensors, 6 plain layers upgraded" in capsys.readouterr().err
    scalars = read_metrics(tmp_path / "acmix")[0]
    assert scalars["alpha/stage1_block1"] == pytest.approx(1, abs=1e-4)
    assert scalars["beta/stage1_block1"] == pytest.approx(0, abs=1e-4)
    before, after = (params["backbone"]["patch_embed"]["kernel"] for params in (trained["params"], state.params))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_folders_are_not_mixed_up(config, tmp_path):
    config.init_from = str(tmp_path / "nothing")
    with pytest.raises(UserError, match="nothing' holds neither a run nor converted or folded weights; check the path"):
        train(config, tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()
    workdir.check_unused(tmp_path / "weights")
    workdir.write_facts(tmp_path / "weights", {"model": "swin_micro_patch2", "num_classes": 10})
    with pytest.raises(UserError, match="holds weights and no run; set --config.init_from="):
        workdir.prepare(tmp_path / "weights", config, 0, {})
    look = partial(workdir.config_to_look_with, tmp_path / "weights")
    with pytest.raises(UserError, match="weights of swin_micro_patch2 with 10 classes and no config"):
        look(None)
    with pytest.raises(UserError, match="but --config is of acmix_resnet14_stem1 with 10"):
        look(config)
    config.model = "swin_micro_patch2"
    assert look(config) is config
    with pytest.raises(UserError, match="holds a run or weights already"):
        workdir.check_unused(tmp_path / "weights")
