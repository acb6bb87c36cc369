import csv
import functools
import sys

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from acmix_jax.analysis import complexity as module
from acmix_jax.analysis.complexity import PARTS, multiply_adds, operator_cost
from acmix_jax.backbones import resnet
from acmix_jax.models import list_models

complexity = functools.cache(module.complexity)

PARAMETERS = {  # with 1000 classes and RGB images; counted in the released code of each family where there is some
    "resnet26": 13_696_552,
    "resnet38": 19_626_792,
    "resnet50": 25_557_032,
    "acmix_resnet26": 10_487_816,
    "acmix_resnet38": 14_410_896,
    "acmix_resnet50": 18_333_976,
    "san10": 11_841_124,
    "san15": 16_181_310,
    "san19": 20_518_470,
    "san10_pairwise": 10_531_848,
    "san15_pairwise": 14_065_436,
    "san19_pairwise": 17_596_156,
    "acmix_san10": 11_994_612,  # derived, as all of SAN-ACmix and PVT-ACmix (see the backbones)
    "acmix_san15": 16_414_134,
    "acmix_san19": 20_829_278,
    "acmix_san10_pairwise": 10_685_336,
    "acmix_san15_pairwise": 14_298_260,
    "acmix_san19_pairwise": 17_906_964,
    "pvt_tiny": 13_229_288,
    "pvt_small": 24_485_864,
    "pvt_medium": 44_208_104,
    "pvt_large": 61_369_320,
    "acmix_pvt_tiny": 13_396_056,
    "acmix_pvt_small": 24_824_611,
    "acmix_pvt_medium": 44_859_535,
    "acmix_pvt_large": 62_296_960,
    "swin_tiny": 28_288_354,
    "swin_small": 49_606_258,
    "swin_base": 87_768_224,
    "acmix_swin_tiny": 28_649_908,
    "acmix_swin_small": 50_345_080,
    "acmix_swin_base": 88_753_232,
    "resnet14_stem1": 1_017_464,  # the small ones are ours
    "resnet20_stem2": 1_105_656,
    "san5_stem1": 970_602,
    "san5_stem1_pairwise": 914_831,
    "pvt_micro_patch2": 1_724_744,
    "swin_micro_patch2": 1_700_272,
    "acmix_resnet14_stem1": 907_684,
    "acmix_resnet20_stem2": 973_512,
    "acmix_san5_stem1": 990_970,
    "acmix_san5_stem1_pairwise": 935_199,
    "acmix_pvt_micro_patch2": 1_774_515,
    "acmix_swin_micro_patch2": 1_753_258,
}

MULTIPLY_ADDS = {  # billions; counted in the released code of each family (of SAN- and PVT-ACmix, derived from it)
    "resnet26": 2.342,
    "resnet38": 3.216,
    "resnet50": 4.089,
    "acmix_resnet26": 2.216,
    "acmix_resnet38": 2.859,
    "acmix_resnet50": 3.502,
    "san10": 1.791,
    "san15": 2.478,
    "san19": 3.130,
    "san10_pairwise": 2.044,
    "san15_pairwise": 2.859,
    "san19_pairwise": 3.636,
    "acmix_san10": 1.888,
    "acmix_san15": 2.630,
    "acmix_san19": 3.317,
    "pvt_tiny": 1.933,
    "pvt_small": 3.816,
    "pvt_medium": 6.659,
    "pvt_large": 9.814,
    "acmix_pvt_tiny": 2.005,
    "acmix_pvt_small": 3.950,
    "acmix_pvt_medium": 6.865,
    "acmix_pvt_large": 10.11,
    "swin_tiny": 4.494,
    "swin_small": 8.747,
    "swin_base": 15.438,
    "acmix_swin_tiny": 4.649,
    "acmix_swin_small": 8.999,
    "acmix_swin_base": 15.774,
}


def count(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return sum(macs for _, macs in multiply_adds(jax.make_jaxpr(function)(*arrays).jaxpr))


def grouped_convolution(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )


@jax.custom_vjp
def product(x, y):
    return x @ y


product.defvjp(lambda x, y: (x @ y, None), lambda _, g: (g, g))


def test_products_and_convolutions_are_counted():
    assert count(lambda x, kernel: x @ kernel + 1, (5, 3), (3, 7)) == 5 * 3 * 7
    assert count(lambda q, k: jnp.einsum("bqnd,bknd->bnqk", q, k), (2, 4, 3, 8), (2, 5, 3, 8)) == 2 * 3 * 4 * 5 * 8
    assert count(grouped_convolution, (1, 5, 6, 8), (3, 3, 2, 12)) == 3 * 3 * 12 * 9 * 2
    assert count(lambda x: jnp.tanh(x * x).sum(), (5, 3)) == 0


def test_products_inside_other_programs_are_counted():
    def square(x):
        return x @ x

    def twice(x):
        return lax.fori_loop(0, 2, lambda _, y: square(y), x)

    shape, once = (3, 3), 3**3
    assert count(jax.jit(jax.checkpoint(square)), shape) == once
    assert count(product, shape, shape) == once
    assert count(lambda x: lax.scan(lambda c, _: (jax.jit(square)(c), None), x, None, 5), shape) == 5 * once
    assert count(lambda x: lax.scan(lambda c, _: (twice(c), None), x, None, 5), shape) == 5 * 2 * once
    assert count(lambda x: lax.while_loop(lambda c: c.sum() < 1, square, x), shape) == once
    assert count(lambda x: lax.cond(x.sum() < 1, square, jnp.transpose, x), shape) == once


def test_scopes_reach_into_inner_programs():
    def outer(x):
        with jax.named_scope("outer"):
            return jax.jit(inner)(x)

    def inner(x):
        with jax.named_scope("inner"):
            return x @ x

    program = jax.make_jaxpr(outer)(jnp.ones((3, 3)))
    [(scope, _)] = multiply_adds(program.jaxpr)
    assert [part for part in scope.split("/") if part in ("outer", "inner")] == ["outer", "inner"]


def test_the_table_is_complete():
    assert sorted(PARAMETERS) == list_models()
    assert {name.removeprefix("acmix_") for name in PARAMETERS} == {n for n in PARAMETERS if not n.startswith("acmix_")}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_multiply_adds_of_the_networks(name):
    """Both from one trace, which is what takes the time."""
    cost = complexity(name)
    assert sum(cost.params.values()) == PARAMETERS[name]
    if name in MULTIPLY_ADDS:
        # The numbers are rounded, and those of Swin count the norms (see below): both are less than 0.1 %.
        assert sum(cost.macs.values()) == pytest.approx(MULTIPLY_ADDS[name] * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", [n for n in MULTIPLY_ADDS if n.startswith("acmix_")])
def test_acmix_adds_nothing_but_the_convolution(name):
    plain, mixed = complexity(name.removeprefix("acmix_")), complexity(name)
    if "resnet" not in name:  # whose convolution it replaces
        for part in ("stage1", "stage2_attention"):
            assert mixed.params[part] == plain.params[part]
            assert mixed.macs[part] == plain.macs[part]
    assert mixed.macs["rest"] == plain.macs["rest"]
    blocks, odd = divmod(mixed.params["rest"] - plain.params["rest"], 2)  # alpha and beta
    assert blocks > 0 and not odd
    assert plain.macs["stage2_convolution"] == plain.params["stage2_convolution"] == 0


def layers(name):
    """(channels, pixels of the input, pixels of the output) of a ResNet's 3x3 layers at 224x224 pixels."""
    for stage, depth in enumerate(resnet.VARIANTS[name].depths):
        for block in range(depth):
            size = 56 // 2**stage
            yield 64 * 2**stage, (size * (2 if stage and not block else 1)) ** 2, size**2


@pytest.mark.parametrize("name", ["resnet26", "resnet38", "resnet50"])
def test_resnets_equal_the_closed_formulas(name):
    plain, mixed = complexity(name), complexity("acmix_" + name)
    wanted = [operator_cost(c, 4, pixels=pixels, outputs=outputs) for c, pixels, outputs in layers(name)]
    for part in PARTS[:3]:
        assert mixed.params[part] == sum(cost.params[part] for cost in wanted)
        assert mixed.macs[part] == sum(cost.macs[part] for cost in wanted)
    assert mixed.params["rest"] == plain.params["rest"] + sum(cost.params["rest"] for cost in wanted)
    assert plain.params["stage1"] == sum(9 * c**2 for c, _, _ in layers(name))
    assert plain.macs["stage1"] == sum(9 * c**2 * outputs for c, _, outputs in layers(name))


def test_the_closed_formulas_are_those_of_the_paper():
    cost = operator_cost(features=64, num_heads=4, window_size=7, kernel_size=3)
    position = 2 * 64 // 4
    assert cost.macs == {
        "stage1": 3 * 64**2,
        "stage2_attention": 2 * 7**2 * 64 + position,
        "stage2_convolution": 3 * 3**2 * 64 + 3**4 * 64,
        "rest": 0,
    }


def test_parts_of_resnet50():
    cost = complexity("acmix_resnet50")
    assert cost.params == {
        "stage1": 3 * 1_261_248,
        "stage2_attention": 2_832,
        "stage2_convolution": 1_728 + 305_856,
        "rest": 18_333_976 - 3 * 1_261_248 - 2_832 - 1_728 - 305_856,
    }
    assert cost.macs["stage1"] == pytest.approx(0.9634e9, abs=5e4)
    assert cost.macs["stage2_attention"] == pytest.approx((0.1352 + 0.001) * 1e9, abs=1e5)
    assert cost.macs["stage2_convolution"] == pytest.approx((0.0515 + 0.1118) * 1e9, abs=1e5)


@pytest.mark.parametrize("name, released", [("acmix_swin_tiny", 4_648_846_848), ("acmix_swin_small", 8_998_503_936)])
def test_swin_equals_its_own_flops_but_for_the_norms(name, released):
    """The released `flops()` counts a norm as one multiply-add for each number, the last one at a false size."""
    depths = (2, 2, 6 if "tiny" in name else 18, 2)
    numbers = [96 * 2**stage * (56 // 2**stage) ** 2 for stage in range(4)]  # in the map of each stage
    blocks = sum(2 * depth * size for depth, size in zip(depths, numbers, strict=True))
    norms = blocks + numbers[0] + sum(numbers[:3]) + 768 * 56**2 // 16
    assert sum(complexity(name).macs.values()) == released - norms


def test_parts_of_swin():
    macs = complexity("acmix_swin_tiny").macs
    assert macs["stage1"] == pytest.approx(1.0404e9, abs=1e5)
    assert macs["stage2_attention"] == pytest.approx(0.1401e9, abs=1e5)
    assert macs["stage2_convolution"] == pytest.approx((0.0386 + 0.1158) * 1e9, abs=1e5)
    # The rest, with the linear map after the attention: C^2 a pixel, as each of the three of Stage I.
    pixels = [(96 * 2**stage, (56 // 2**stage) ** 2, depth) for stage, depth in enumerate((2, 2, 6, 2))]
    blocks = sum(depth * (1 + 8) * c**2 * n for c, n, depth in pixels)
    merging = sum(8 * c**2 * n // 4 for c, n, _ in pixels[:3])
    assert macs["rest"] == blocks + merging + 48 * 96 * 56**2 + 768 * 1000


@pytest.mark.parametrize("name, stage1, weights, sums", [("san10", 655, 242, 34), ("san19", 1291, 483, 73)])
def test_parts_of_san(name, stage1, weights, sums):
    macs = complexity(name).macs
    assert macs["stage1"] == pytest.approx(stage1 * 1e6, abs=1e6)
    assert macs["stage2_attention"] == pytest.approx((weights + sums) * 1e6, abs=1e6)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["complexity", *arguments])
    module.main()


def test_prints_and_writes_a_table(monkeypatch, capsys, tmp_path):
    file = tmp_path / "new" / "complexity.csv"
    run(monkeypatch, "--model=*resnet26", "--image-size=32", f"--csv={file}")
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["acmix_resnet26", "10.488"]
    assert second.split()[-2:] == ["13.7", "2.4"]
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["model"] for row in rows] == ["acmix_resnet26", "resnet26"]
    assert [int(row["params"]) for row in rows] == [10_487_816, 13_696_552]
    for row in rows:
        for what in ("params", "macs"):
            assert int(row[what]) == sum(int(row[f"{what}_{part}"]) for part in PARTS)


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--model=acmix_resnet5", "error: unknown model 'acmix_resnet5'; did you mean acmix_resnet50"),
        ("--image-size=16", "error: images of 16x16 pixels are too small for this ResNet"),
        ("--image-size=0", "error: image_size=0x0 is not valid; use whole numbers from 1"),
        ("--csv=/dev/null/x.csv", "error: "),
    ],
)
def test_mistakes_are_told_in_one_line(monkeypatch, capsys, argument, message):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--model=resnet26", argument)
    assert stop.value.code.startswith(message)
    assert "\n" not in stop.value.code
    assert not capsys.readouterr().out


def test_every_number_of_the_paper_belongs_to_a_model():
    assert set(module.PAPER) <= set(list_models())
