"""Notices that the run shall end early, so that the loop can save first."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class StopRequested(SystemExit):
    """The run was asked to stop, has saved its state, and continues when started again; ends the program."""


class StopSignal:
    """Catches SIGTERM and SIGINT while it is open; of several processes, one that gets either tells all through JAX."""

    def __init__(self):
        self._signal = None
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        catchers = {signal.SIGTERM: self._catch, signal.SIGINT: self._catch}
        if jax.distributed.is_initialized():  # it takes SIGTERM for a notice; a handler of ours would hide that
            catchers = {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)}
        for number, catcher in catchers.items():
            self._previous[number] = signal.signal(number, catcher)
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
