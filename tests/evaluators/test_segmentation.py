"""Mean IoU: the value of mmseg's mean_iou, images one by one and in batches, and absent classes."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from acmix_jax.errors import UserError
from acmix_jax.evaluators.segmentation import SegmentationEvaluator
from acmix_jax.tasks.segmentation import count_pixels

NUMBERS = np.arange(1800)
LABELS = (((13 * NUMBERS // 17) % 6) - 1).astype(np.uint8).reshape(3, 20, 30)  # 255 where it was 0
PREDICTED = ((11 * NUMBERS // 16) % 5).reshape(3, 20, 30)


def evaluator(classes="abcde"):
    return SegmentationEvaluator(SimpleNamespace(classes=list(classes)), [])


def counts(predicted, labels, num_classes=5):
    count = [
        count_pixels(jnp.asarray(p), jnp.asarray(x, jnp.int32), num_classes)
        for p, x in zip(predicted, labels, strict=True)
    ]
    return np.stack(count)


@pytest.mark.parametrize("batches", [[[0, 1, 2]], [[2], [0], [1]]])
def test_mean_iou_is_that_of_mmseg(batches):
    found = evaluator()
    for batch in batches:
        found.add(counts(PREDICTED[batch], LABELS[batch]), {"index": np.array(batch), "mask": np.ones(len(batch))})
    result = found.result()
    expected = {"aacc": 0.195594125500668, "macc": 0.195601751130568, "miou": 0.108439798026967}
    iou = [0.10575139146567718, 0.09944751381215469, 0.10603290676416818, 0.11254612546125461, 0.11842105263157894]
    expected |= {f"iou/{name}": value for name, value in zip("abcde", iou, strict=True)}
    np.testing.assert_allclose([result[name] for name in expected], [100 * x for x in expected.values()], rtol=1e-12)
    assert result["images"] == 3


def test_padding_rows_do_not_count():
    found = evaluator()
    rows = counts(PREDICTED, LABELS)
    found.add(rows, {"index": np.array([0, 1, 1]), "mask": np.array([1.0, 1.0, 0.0])})
    alone = evaluator()
    alone.add(rows[:2], {"index": np.array([0, 1]), "mask": np.ones(2)})
    assert found.result() == alone.result()


def test_a_class_that_is_nowhere_is_left_out_of_the_means():
    found = evaluator("abcdef")
    found.add(counts([[[0, 1]]], [[[0, 0]]], 6), {"index": np.array([0]), "mask": np.ones(1)})
    result = found.result()
    assert result["miou"] == 25.0 and result["macc"] == 50.0  # b is predicted, and labelled nowhere
    assert [name for name in result if name.startswith("iou/")] == ["iou/a", "iou/b"]


def test_images_are_ranked_the_worst_first_and_unlabelled_ones_left_out():
    found = evaluator("ab")
    rows = counts([[[0, 0]], [[0, 1]], [[1, 1]]], [[[0, 0]], [[0, 0]], [[255, 255]]], 2)
    found.add(rows, {"index": np.array([4, 7, 9]), "mask": np.ones(3)})
    assert found.ranking() == [(7, 0.25), (4, 1.0)]


def test_labels_that_are_all_ignored_are_told():
    found = evaluator("ab")
    found.add(counts([[[0, 1]]], [[[255, 255]]], 2), {"index": np.array([0]), "mask": np.ones(1)})
    with pytest.raises(UserError, match="no pixel of the evaluation set has a label; see --config.data.ignore_label"):
        found.result()


def test_the_report_names_every_class():
    found = evaluator("ab")
    found.add(counts([[[0, 1]]], [[[0, 0]]], 2), {"index": np.array([0]), "mask": np.ones(1)})
    assert found.report() == (
        "mIoU 25.00 %, mAcc 50.00 %, aAcc 50.00 % of 1 images; IoU of each class:\n    0.00 %  b\n   50.00 %  a"
    )
