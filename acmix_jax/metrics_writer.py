"""metrics.jsonl and TensorBoard events in the workdir."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricsWriter:
    """Appends scalars by step; what an earlier run wrote after `start_step` is dropped, as it will come again.

    Args:
      workdir: metrics.jsonl gets one JSON object a line, with "step"; TensorBoard reads the folder itself.
      start_step: the step that training continues from.
    """

    def __init__(self, workdir: Path, start_step: int):
        path = workdir / "metrics.jsonl"
        kept = [row for row in read_metrics(workdir) if row["step"] <= start_step]
        rewritten = path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        rewritten.replace(path)
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(str(workdir), purge_step=start_step + 1, flush_secs=10)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()
        self._tensorboard.close()


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; without the half line that a run killed while writing leaves at the end."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]
