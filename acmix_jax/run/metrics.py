"""Metrics of a run by step: metrics.jsonl, TensorBoard events and, optionally, Weights & Biases."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from acmix_jax.errors import UserError


class StepLog:
    """JSON-lines file of one object with "step" a line; lines after `start_step` are dropped, as they will come again.

    Args:
      start_step: the step that training resumes from.
    """

    def __init__(self, path: Path, start_step: int):
        kept = [row for row in _read(path) if row["step"] <= start_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(path)
        self._file = path.open("a")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Raises a UserError if it cannot be written, for example because the disk is full."""
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self._file.name} ({error.strerror}); free some space there and start again"
            ) from error

    def __enter__(self) -> "StepLog":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


class MetricsWriter:
    """Appends scalars by step to metrics.jsonl, to TensorBoard events and to Weights & Biases.

    Args:
      workdir: also the log directory of TensorBoard.
      start_step: the step that training resumes from.
      config: of the run; its `wandb_project` is a project of Weights & Biases, or empty.

    Raises:
      UserError: the package wandb is missing.
    """

    def __init__(self, workdir: Path, start_step: int, config: Any):
        self._wandb = _start_wandb(workdir, config) if config.wandb_project else None
        self._log = StepLog(workdir / "metrics.jsonl", start_step)
        self._tensorboard = SummaryWriter(str(workdir), purge_step=start_step + 1, flush_secs=10)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        self._log.write(step, scalars)
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(scalars, step=step)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self._log.__exit__()
        self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl, without an incomplete last line (of a run killed while writing)."""
    return _read(workdir / "metrics.jsonl")


def _read(path):
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def _start_wandb(workdir, config):
    """Starts the run of Weights & Biases that belongs to this workdir, or resumes it."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"--config.wandb_project={config.wandb_project} needs wandb: pip install wandb, or leave it empty"
        ) from error
    name = hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]
    return wandb.init(
        project=config.wandb_project, id=name, name=workdir.name, dir=workdir, resume="allow", config=config.to_dict()
    )
