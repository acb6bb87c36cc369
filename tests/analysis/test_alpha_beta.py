import csv
import math

import jax
import jax.numpy as jnp

import acmix_jax
from acmix_jax.analysis import alpha_beta


def test_layers_come_in_the_order_of_the_network():
    model = acmix_jax.create_model("acmix_resnet50")
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))["params"]
    params = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), params)
    wanted = [f"stage{s + 1}_block{b + 1}" for s, depth in enumerate((3, 4, 6, 3)) for b in range(depth)]
    assert [layer.name for layer in alpha_beta.read(params)] == wanted
    assert alpha_beta.read({"stage1_block10": {"alpha": 1, "beta": 1}, "stage1_block9": {"alpha": 1, "beta": 1}})[
        0
    ].name.endswith("block9")


def test_writes_a_table_and_a_picture(tmp_path):
    layers = [alpha_beta.Layer("stage1_block1", 0.5, 0.25), alpha_beta.Layer("stage2_block1", -0.5, 0.25)]
    table, picture = alpha_beta.write(layers, "a run", tmp_path)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["layer"] for row in rows] == ["stage1_block1", "stage2_block1"]
    assert float(rows[0]["log_alpha_over_beta"]) == math.log(2)
    assert rows[1]["log_alpha_over_beta"] == ""  # of two signs: there is no logarithm
    assert picture.read_bytes().startswith(b"\x89PNG")
