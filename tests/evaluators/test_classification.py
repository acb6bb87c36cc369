import numpy as np
import pytest

from acmix_jax.errors import UserError
from acmix_jax.evaluators import best_metric
from acmix_jax.evaluators.classification import ClassificationEvaluator


def test_counts_top1_and_top5_of_real_rows():
    evaluator = ClassificationEvaluator(None, [])
    ranks = [0, 4, 5, 0]  # how many classes each row ranks above the right one, class 7; the last row is padding
    logits = np.zeros((4, 10), np.float32)
    for row, rank in enumerate(ranks):
        logits[row, 7] = 1
        logits[row, :rank] = 2
    evaluator.add(logits, {"label": np.full(4, 7), "mask": np.array([1, 1, 1, 0])})
    assert evaluator.result() == {"top1": pytest.approx(100 / 3), "top5": pytest.approx(200 / 3), "examples": 3}
    evaluator.reset()
    evaluator.add(logits[:1], {"label": np.array([7]), "mask": np.array([1])})
    assert evaluator.result() == {"top1": 100, "top5": 100, "examples": 1}
    assert evaluator.summary() == "top-1 100.00 %, top-5 100.00 % of 1 images"


def test_equal_logits_are_not_a_right_answer():
    evaluator = ClassificationEvaluator(None, [])
    evaluator.add(np.zeros((1, 10)), {"label": np.array([9]), "mask": np.array([1])})
    assert evaluator.result()["top5"] == 0


def test_the_main_metric_marks_the_best_checkpoint_by_default(config):
    assert best_metric(config) == "top1"
    config.best_metric = ""
    assert best_metric(config) == "top1"
    config.best_metric = "top5"
    assert best_metric(config) == "top5"
    config.best_metric = "top3"
    with pytest.raises(UserError, match="unknown best_metric 'top3'; did you mean top"):
        best_metric(config)
