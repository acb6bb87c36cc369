import json

import jax
import numpy as np
import pytest

from acmix_jax.analysis.inspection import inspect_checkpoint
from acmix_jax.errors import UserError
from acmix_jax.run.checkpoint import Checkpoints
from acmix_jax.tasks import create_task
from configs import digits
from tests.networks import draw


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Config, folder and variables of a run with drawn weights and one logged step."""
    folder, config = tmp_path_factory.mktemp("run"), digits.get_config()
    image = {"image": np.zeros((1, 8, 8, 1), np.uint8)}
    variables = draw(jax.eval_shape(create_task(config).init, jax.random.key(0), image))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save_variables(7, variables)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 7, "loss": 1.0}) + "\n")
    return config, folder, variables


def test_the_learned_values_are_shown(run):
    config, folder, variables = run
    assert "at step 7, 4 ACmix layers" in inspect_checkpoint(config, folder, "latest")
    alpha = float(variables["params"]["backbone"]["stage1_block1"]["mixer"]["alpha"])
    rows = (folder / "alpha_beta.csv").read_text().splitlines()
    assert rows[1].startswith(f"1,stage1_block1,{alpha},")
    for picture in ("alpha_beta.png", "curves.png"):
        assert (folder / picture).stat().st_size > 10_000


def test_pictures_are_written_elsewhere_and_nothing_into_the_run(run, tmp_path):
    config, folder, _ = run
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    out = tmp_path / "new" / "pictures"
    assert "at step 7, 4 ACmix layers" in inspect_checkpoint(config, folder, "latest", out)
    assert {path.name for path in out.iterdir()} == {"curves.png", "alpha_beta.csv", "alpha_beta.png"}
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["curves.png", "alpha_beta.csv", "alpha_beta.png"])
def test_what_cannot_be_written_is_told(run, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"cannot write to '{tmp_path}' .*{name}.*; set another --out=DIR"):
        inspect_checkpoint(*run[:2], "latest", tmp_path)
