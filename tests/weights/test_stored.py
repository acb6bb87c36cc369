import jax
import numpy as np
import pytest

import acmix_jax
from acmix_jax.config import default_config
from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.weights.fold import fold
from acmix_jax.weights.stored import fold_checkpoint, read_into, read_trainable
from tests.networks import draw, random_variables, segmenter_shapes


def write(name, step, folder):
    """A folder with random weights of a network; returns them."""
    model, rng = acmix_jax.create_model(name, num_classes=10), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    variables = jax.tree.map(lambda x: rng.uniform(0.5, 1.0, x.shape).astype(np.float32), shapes)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(step, variables)
    workdir.write_facts(folder, {"model": name, "num_classes": 10})
    return variables


def test_a_checkpoint_is_folded_into_a_folder_of_weights(tmp_path):
    run, out = tmp_path / "run", tmp_path / "folded"
    variables = write("resnet14_stem1", 7, run)
    assert "resnet14_stem1 at step 7" in fold_checkpoint(run, "latest", out)
    assert workdir.read_facts(out) == {"model": "resnet14_stem1", "num_classes": 10, "folded": True}
    with Checkpoints(out / "checkpoints", read_only=True) as checkpoints:
        step, saved = checkpoints.read_variables("latest")
    assert step == 7
    jax.tree.map(np.testing.assert_array_equal, saved, fold(variables))
    with pytest.raises(UserError, match="holds a run or weights already; choose another --out"):
        fold_checkpoint(run, "latest", out)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("abcdefghiX", "label 9, after i, was j and is X (gone: j; new: X)"),
        ("bacdefghij", "label 0 was a and is b (the order changed)"),
        ("abcdefghij", ""), ("abc", ""), (None, ""),
    ],
)  # fmt: skip
def test_a_head_that_is_taken_over_should_have_the_same_classes(tmp_path, capsys, monkeypatch, classes, message):
    """Other classes are no mistake, and for three there is a fresh head."""
    workdir.write_facts(tmp_path, {"model": "resnet14_stem1", "num_classes": 10, "classes": [*"abcdefghij"]})
    monkeypatch.setattr("acmix_jax.weights.stored.read_trainable", lambda folder: (7, trained))
    monkeypatch.setattr("acmix_jax.weights.stored.merge", lambda fresh, trained: (fresh, "61 tensors"))
    fresh, trained = ({"params": {"head": {"bias": np.zeros(count)}}} for count in (len(classes or "abcdefghij"), 10))
    read_into(fresh, tmp_path, classes and [*classes])
    warning = f"warning: the head from {tmp_path} was trained on other classes: {message}\n"
    assert capsys.readouterr().err == (warning if message else "")


def test_a_head_that_is_not_taken_over_may_have_other_classes(tmp_path, capsys, monkeypatch):
    """A segmenter for as many classes as the classifier that it starts from."""
    workdir.write_facts(tmp_path, {"model": "resnet14_stem1", "num_classes": 5, "classes": [*"abcde"]})
    trained, fresh = (
        random_variables("resnet14_stem1", num_classes=5),
        draw(segmenter_shapes("resnet14_stem1", "upernet")),
    )
    monkeypatch.setattr("acmix_jax.weights.stored.read_trainable", lambda folder: (7, trained))
    _, summary = read_into(fresh, tmp_path, [*"vwxyz"])
    assert summary.endswith("dropped 2 of head")
    assert not capsys.readouterr().err


def test_folded_weights_cannot_be_trained(tmp_path):
    write("resnet14_stem1", 7, tmp_path / "run")
    fold_checkpoint(tmp_path / "run", "latest", tmp_path / "folded")
    with pytest.raises(UserError, match="folded weights, which only --mode=eval and predict can use"):
        read_trainable(tmp_path / "folded")


def test_plain_swin_has_nothing_to_fold(tmp_path):
    write("swin_micro_patch2", 0, tmp_path / "run")
    with pytest.raises(UserError, match="nothing to fold in swin_micro_patch2"):
        fold_checkpoint(tmp_path / "run", "latest", tmp_path / "folded")
    assert not (tmp_path / "folded").exists()


def test_weights_of_no_run_have_no_best_checkpoint(tmp_path):
    write("swin_micro_patch2", 3, tmp_path)
    with pytest.raises(UserError, match="no checkpoint 'best' in .*; set --checkpoint to one of its steps: 3"):
        read_trainable(tmp_path, "best")


def test_the_best_checkpoint_of_a_run_is_folded(tmp_path):
    config = default_config()
    config.model, config.data.num_classes = "resnet14_stem1", 10
    variables = write("resnet14_stem1", 0, tmp_path / "weights")
    workdir.prepare(tmp_path / "run", config, 1, {}, [*"abcdefghij"])
    state = {"params": variables["params"], "model_state": {"batch_stats": variables["batch_stats"]}}
    with Checkpoints(tmp_path / "run" / "checkpoints", "top1", keep=2) as checkpoints:
        for step, top1 in ((5, 2.0), (6, 1.0)):
            checkpoints.save(step, state, {"top1": top1})
    assert "resnet14_stem1 at step 5" in fold_checkpoint(tmp_path / "run", "best", tmp_path / "folded")
    assert workdir.read_facts(tmp_path / "folded")["classes"] == [*"abcdefghij"]
    with pytest.raises(UserError, match="folded' holds weights and no run; choose another --workdir"):
        workdir.prepare(tmp_path / "folded", config, 1, {})
    with pytest.raises(UserError, match="set --config.init_from=.* to train from them, and choose another"):
        workdir.prepare(tmp_path / "weights", config, 1, {})
