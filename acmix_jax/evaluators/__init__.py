"""Metrics over whole data sets: the evaluators by the name of their task, one file each."""

from acmix_jax.errors import check_choice
from acmix_jax.evaluators.classification import ClassificationEvaluator
from acmix_jax.evaluators.segmentation import SegmentationEvaluator

EVALUATORS = {"classification": ClassificationEvaluator, "segmentation": SegmentationEvaluator}


def best_metric(config) -> str:
    """The metric that marks the best checkpoint: `config.best_metric`, or if that is empty the evaluator's main one.

    Raises:
      UserError: the evaluator has no such metric.
    """
    evaluator = EVALUATORS[config.task]
    if config.best_metric:
        check_choice("best_metric", config.best_metric, evaluator.metrics)
    return config.best_metric or evaluator.main_metric
