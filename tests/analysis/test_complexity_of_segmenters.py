import csv
import sys

import pytest

from acmix_jax.analysis import complexity as module
from acmix_jax.analysis.complexity import complexity

SEGMENTERS = {  # with 150 classes: parameters; billions of multiply-adds as counted in the released modules
    ("pvt_tiny", "semantic_fpn"): (16_981_398, 33.19),
    ("pvt_small", "semantic_fpn"): (28_237_974, 44.47),
    ("swin_tiny", "upernet"): (59_941_862, 944.39),  # the README of Swin's code says 60 M and 945 G
    ("swin_small", "upernet"): (81_259_766, 1037.42),  # 81 M and 1038 G
    ("acmix_pvt_tiny", "semantic_fpn"): (17_148_166, None),  # by addition: no code of these was released
    ("acmix_pvt_small", "semantic_fpn"): (28_576_721, None),
    ("acmix_swin_tiny", "upernet"): (60_303_416, None),
    ("acmix_swin_small", "upernet"): (81_998_588, None),
}
HEADS = {  # parameters of the neck and of all heads; billions of multiply-adds, without the auxiliary head; image size
    "semantic_fpn": (2_623_488 + 1_643_158, 13.355 + 8.091, 512),
    "upernet": (31_497_366 + 923_798, 845.390, (512, 2048)),
}


@pytest.mark.parametrize(("name", "head"), SEGMENTERS)
def test_parameters_and_multiply_adds_of_segmenters(name, head):
    (params, macs), (head_params, head_macs, size) = SEGMENTERS[name, head], HEADS[head]
    cost = complexity(name, size, head=head)
    assert sum(cost.params.values()) == params
    assert cost.params["head"] == head_params
    assert cost.macs["head"] == pytest.approx(head_macs * 1e9, rel=1e-4)
    if macs is not None:  # ours has the interpolation of PVT's positions in it, too
        assert sum(cost.macs.values()) == pytest.approx(macs * 1e9, rel=4e-3)


def test_the_table_of_segmenters_has_their_heads(monkeypatch, capsys, tmp_path):
    file = tmp_path / "complexity.csv"
    arguments = ["--model=resnet26", "--head=upernet", "--image-size=32x64", f"--csv={file}"]
    monkeypatch.setattr(sys, "argv", ["complexity", *arguments])
    module.main()
    caption, *_, row = capsys.readouterr().out.splitlines()
    assert caption == "One image of 32x64 pixels, 150 classes, upernet."
    (saved,) = csv.DictReader(file.read_text().splitlines())
    assert (saved["head"], saved["image_size"]) == ("upernet", "32x64")
    assert row.split()[6] == f"{int(saved['params_head']) / 1e6:.3f}"
