"""Profiler trace of some steps, for TensorBoard's profile tab or xprof."""

import contextlib
from pathlib import Path
from typing import Any

import jax


class Trace(contextlib.AbstractContextManager):
    """Traces steps, such as "100:110", into a folder; none if `steps` is empty."""

    def __init__(self, folder: Path, steps: str):
        self._folder, self._running = folder, False
        self._first, self._after = (int(step) + i for i, step in enumerate(steps.split(":"))) if steps else (0, 0)

    def at(self, step: int, queued: Any) -> None:
        """Starts or ends the trace before step `step`, once the results `queued` are computed."""
        if step in (self._first, self._after):
            jax.block_until_ready(queued)
            self.__exit__()
            if step == self._first:
                jax.profiler.start_trace(self._folder)
                self._running = True

    def __exit__(self, *_) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
