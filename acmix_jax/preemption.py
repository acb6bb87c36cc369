"""Notices that the run shall end early, so that the loop can save first."""

import signal

import jax
from jax.experimental import multihost_utils


class StopRequested(SystemExit):
    """The run was asked to stop, has saved its state, and continues when started again; ends the program."""


class StopSignal:
    """Catches SIGTERM and SIGINT while it is open; with several processes, JAX's own preemption notice counts."""

    def __init__(self):
        self._signal = None
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        if not jax.distributed.is_initialized():  # an own handler would hide the notice from JAX
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that a signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
        return 128 + self._signal

    def _catch(self, number, _):
        self._signal = number
        signal.signal(number, self._previous[number])  # a second signal ends the process at once
