"""Each field of the config by itself, and the rules between them."""

import argparse
import math
from pathlib import Path

import pytest

from acmix_jax import list_models
from acmix_jax.config import (
    FIELDS,
    check_config,
    default_config,
    expand_path,
    expand_paths,
    flatten,
    local_path,
    may_change,
    restore_config,
)
from acmix_jax.config.fields import NAME, PATH, TEXT  # fmt: skip
from acmix_jax.errors import UserError
from acmix_jax.layers import weights
from acmix_jax.run import workdir
from configs import ade20k, digits, fashion_mnist, imagenet, scenes, stamps, sweep_digits

ANY_TEXT = {  # strings without a check here, and the reason
    "task": NAME, "model": NAME, "data.source": NAME, "best_metric": NAME,  # checked where they are looked up
    "init_from": PATH, "data.dir": PATH,  # checked when they are read
    "distributed.coordinator": TEXT, "wandb_project": TEXT,  # checked by JAX and by Weights & Biases
    "optimizer.lr_factors": TEXT,  # checked where it is parsed, in training/optim.py
}  # fmt: skip
NUMBERS = [name for name, field in FIELDS.items() if any(map(field.valid.accepts, (0.5, 3)))]
LISTS = [name for name, field in FIELDS.items() if isinstance(field.default, tuple)]
BAD = {
    "num_epochs": [0.0, -1.0],
    "seed": [-1, 2**32],
    "batch_size": [0, 2**31],
    "keep_checkpoints": [1],
    "random_erasing": [-0.1, 25.0],
    "drop_path": [1.0, 15, "much"],
    "ema": [1.0],
    "acmix.num_heads": [0, 2.5],
    "optimizer.momentum": [1.0, 1.5],
    "optimizer.weight_decay": [-1.0],
    "optimizer.warmup_start": [-3.0, 1.5],
    "data.mean": [(), (0.5, 0.5), (77.8,), (-0.1,), ("abc",)],
    "data.std": [(0.0,), (95.9,), (0.2, 0.2)],
    "data.crop_scale": [(1.0, 0.08), (0.0, 1.0), (0.08, 1.5), (0.5,)],
    "data.scale_range": [(2.0, 0.5), (0.0, 1.0), (0.5, 200.0), (0.5,)],
    "data.max_class_share": [0.0, 1.5],
    "data.ignore_label": [-1, 256],
    "profile_steps": ["ten", "20:10", "-1:5"],
    "optimizer.no_decay": ["("],
}


def with_value(name, value):
    config = digits.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({name: value})
    return config


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_has_a_meaning_and_a_valid_default(name):
    field = FIELDS[name]
    assert len(field.meaning) > 1
    assert field.default is None or field.valid.accepts(field.default)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_refuses_another_type(name):
    with pytest.raises(UserError, match=f"--config.{name}=.* is not valid; use "):
        check_config(with_value(name, 1j))


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if isinstance(field.default, str)])
def test_a_text_is_checked_unless_there_is_a_reason(name):
    if name in ANY_TEXT:
        assert FIELDS[name].valid is ANY_TEXT[name]
    else:
        with pytest.raises(UserError, match=rf"--config.{name}=\( is not valid"):
            check_config(with_value(name, "("))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*NUMBERS, *LISTS])
def test_numbers_are_finite(name, value):
    with pytest.raises(UserError, match=f"--config.{name}="):
        check_config(with_value(name, (value,) if name in LISTS else value))


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_an_upper_limit(name):
    assert not FIELDS[name].valid.accepts(2**32)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_values_outside_the_range_are_refused(name, value):
    with pytest.raises(UserError, match=f"--config.{name}=.* is not valid.*; use ") as error:
        check_config(with_value(name, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.default is not None])
def test_only_a_field_with_that_default_may_be_none(name):
    with pytest.raises(UserError, match=f"--config.{name}=None is not valid"):
        check_config(with_value(name, None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 64, "accumulate": 3}, "accumulate=3 does not divide batch_size=64; use a divisor"),
        ({"accumulate": 4, "batch_norm_groups": 32}, "batch_norm_groups=32 does not divide the 16 images of a pass"),
        ({"data.source": "label_maps"}, "data.image_size=0 leaves images of several sizes"),
        ({"data.random_crop": True}, "data.image_size=0 leaves images of several sizes"),
        ({"data.image_size": 384, "data.eval_resize": 256}, "eval_resize=256 is less than image_size=384"),
        ({"distributed.process_id": 1}, "process_id=1 counts from 0; use a number below num_processes=1"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_refused(changes, message):
    config = digits.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("recipe", "name", "value", "message"),
    [
        (scenes, "mixup", 0.8, "mixup=0.8 is of classification; leave it at 0.0 with task=segmentation"),
        (scenes, "data.shift", 1, "data.shift=1 is of classification; leave it at 0 with task=segmentation"),
        (digits, "head", "upernet", "head=upernet is of segmentation; leave it at None with task=classification"),
        (digits, "test_scales", (0.5, 1.0), r"test_scales=\(0.5, 1.0\) is of segmentation; leave it at \(1.0,\) with"),
    ],
)  # fmt: skip
def test_a_field_of_another_task_is_refused(recipe, name, value, message):
    config = recipe.get_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(UserError, match=f"^--config.{message}"):
        check_config(config)


def test_a_misspelt_field_of_a_recipe_is_refused():
    config = digits.get_config()
    config.optimizer.momentun = 0.5
    with pytest.raises(UserError, match=r"'optimizer.momentun'; did you mean optimizer.momentum"):
        check_config(config)


def test_a_missing_field_is_named():
    config = digits.get_config()
    del config.optimizer.momentum
    with pytest.raises(UserError, match="no field optimizer.momentum"):
        check_config(config)


@pytest.mark.parametrize(
    "config",
    [digits.get_config(), sweep_digits.get_config(), scenes.get_config(), stamps.get_config(),
     *map(fashion_mnist.get_config, list_models("*micro*")), *map(imagenet.get_config, list_models()),
     *map(ade20k.get_config, list_models())],
    ids=lambda config: f"{config.data.source} {config.model}",
)  # fmt: skip
def test_recipes_are_valid(config):
    check_config(config)


def test_choices_are_those_of_the_layer():
    for name, choices in (("paths", weights.PATHS), ("combination", weights.COMBINATIONS)):
        assert FIELDS[f"acmix.{name}"].valid.hint == " or ".join(choices)


def test_fields_that_may_change_on_resume():
    assert {name for name in FIELDS if may_change(name)} == {
        "log_every", "log_examples", "wandb_project", "eval_every", "checkpoint_every", "keep_checkpoints",
        "best_metric", "data.damaged", "data.dir", "data.threads", "data.workers", "acmix.shift_form",
        "acmix.attention_form",
        "profile_steps", "fsdp", "remat", "distributed.coordinator", "distributed.num_processes",
        "distributed.process_id",
    }  # fmt: skip


def test_an_unknown_field_may_not_change():
    assert not may_change("optimizer.momentun")


@pytest.fixture
def old_run(tmp_path):
    """A workdir whose config.json has lists, and lacks a field that was added after it."""
    config = digits.get_config()
    with config.ignore_type():
        config.data.mean, config.data.std, config.data.crop_scale = [0.305], [0.376], [0.08, 1.0]
    del config.data.repeats
    workdir.prepare(tmp_path, config, 1437, {})
    return tmp_path


def test_an_old_run_resumes(old_run):
    workdir.prepare(old_run, digits.get_config(), 1437, {})


def test_an_old_run_is_evaluated_with_its_config(old_run):
    config = workdir.config_to_look_with(old_run, None)
    check_config(config)
    assert flatten(config.to_dict()) == flatten(digits.get_config().to_dict())


@pytest.mark.parametrize(("name", "value"), [("data.mean", (0.5,)), ("data.repeats", 2), ("seed", 1)])
def test_another_value_is_no_resume(old_run, name, value):
    with pytest.raises(UserError, match=rf"another config \({name}: .* -> "):
        workdir.prepare(old_run, with_value(name, value), 1437, {})


def test_a_config_of_another_recipe_is_told_in_short(old_run):
    with pytest.raises(UserError, match=r" and \d+ more\); choose another --workdir or that run's config$") as error:
        workdir.prepare(old_run, imagenet.get_config("acmix_resnet50"), 1437, {})
    assert len(str(error.value)) < 350 + len(str(old_run))


def test_a_value_of_another_type_is_a_corrupt_config():
    with pytest.raises(UserError, match="old/config.json is corrupt or of another version .*batch_size"):
        restore_config({"batch_size": "many"}, Path("old"))


def test_configs_do_not_share_values():
    first, second = default_config(), default_config()
    first.drop_path = 0.1
    assert second.drop_path is None


@pytest.mark.parametrize("path", ["~/runs", "$HOME/runs", "${HOME}/runs", "/home/me/runs"])
def test_a_path_is_expanded(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_path(path) == "/home/me/runs"


@pytest.mark.parametrize("path", ["runs/x~", "a/~/b", "gs://bucket/run", "", "5$"])
def test_other_paths_stay(path):
    assert expand_path(path) == path


@pytest.mark.parametrize("path", ["~nobody-here/x", "$NO_SUCH_NAME/x", "a/${NO_SUCH_NAME}"])
def test_a_path_that_cannot_be_expanded_is_refused(path):
    message = "names a user or a variable that does not exist"
    with pytest.raises(UserError, match=message):
        expand_path(path)
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        local_path(path)


def test_all_paths_of_a_config_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = with_value("data.dir", "~/images")
    config.init_from = "$HOME/weights"
    expand_paths(config)
    assert (config.data.dir, config.init_from) == ("/home/me/images", "/home/me/weights")
