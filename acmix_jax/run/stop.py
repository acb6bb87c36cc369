"""Signals that ask a run to stop, so that the loop can save first."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class StopRequested(SystemExit):
    """Ends the program after a signal; the state is saved, and the same command resumes the run."""


class StopSignal:
    """Catches SIGTERM and SIGINT inside a `with` block; if one of several processes gets either, JAX tells all."""

    def __init__(self):
        self._signal = None
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        handlers = {signal.SIGTERM: self._catch, signal.SIGINT: self._catch}
        if jax.distributed.is_initialized():  # JAX treats SIGTERM as a preemption notice; keep its handler
            handlers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        for number, handler in handlers.items():
            self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """True if the run should stop after `step`; the same in all processes, which must all call it."""
        if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """Exit code of a process ended by the signal: 143 for SIGTERM, 130 for SIGINT."""
        return 128 + self._signal

    def _catch(self, number, _):
        self._signal = number
        signal.signal(number, self._previous[number])  # a second signal ends the process at once
