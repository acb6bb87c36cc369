import matplotlib.figure

from acmix_jax.analysis import curves

ROWS = [
    {"step": 1, "loss": 2.0, "learning_rate": 0.1, "iou": 10.0},
    {"step": 2, "loss": 1.0, "iou": 20.0, "eval_iou": 15.0, "eval_examples": 360},
]


def test_the_loss_and_each_evaluated_metric_have_a_panel(tmp_path, monkeypatch):
    figures = []
    savefig = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: figures.append(self) or savefig(self, *a, **k)
    )
    assert curves.write(ROWS, "a run", tmp_path, "top1").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_ylabel() for axes in figures[0].axes] == ["loss", "iou"]
    labels = [text.get_text() for text in figures[0].axes[1].get_legend().get_texts()]
    assert labels == ["training batches, with augmentation", "test set, 15.00 at the end"]


def test_nothing_is_drawn_before_anything_is_logged(tmp_path):
    assert curves.write([], "a run", tmp_path, "top1") is None
