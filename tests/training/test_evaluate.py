"""Evaluation of weights that a config does not fit."""

import pytest

from acmix_jax.errors import UserError
from acmix_jax.run import workdir
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.training.evaluate import evaluate_checkpoint
from tests.networks import random_variables


@pytest.mark.parametrize(("theirs", "asked", "said"), [(4, None, "the default"), (5, 7, "7")])
def test_another_window_is_named_with_what_to_set(theirs, asked, said, config, tmp_path):
    config.model, config.acmix.window_size = "swin_micro_patch2", asked
    workdir.prepare(tmp_path, config, 1437, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save_variables(0, random_variables(config.model, channels=1, window_size=theirs))
    with pytest.raises(UserError) as error:
        evaluate_checkpoint(config, tmp_path, "latest")
    assert str(error.value) == (
        f"the checkpoint in {tmp_path} does not fit swin_micro_patch2: "
        f"the attention windows of the weights are {theirs} pixels wide, not {said}: "
        f"set window_size={theirs} (--config.acmix.window_size={theirs} on the command line)"
    )
