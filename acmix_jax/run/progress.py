"""Progress on stderr: one line that is updated in place on a terminal, plain lines in a log."""

import datetime
import sys
import time


class Progress:
    """Reports the progress of a run.

    Args:
      total: number of steps.
      start: step that the run starts from.
      batch_size: images per step.
      stream: written to; stderr by default.
      unit: name of a step.
    """

    def __init__(self, total: int, start: int, batch_size: int, stream=None, unit: str = "step"):
        self._total, self._batch_size, self._unit = total, batch_size, unit
        self._stream = stream or sys.stderr
        self._last_step, self._last_time = start, time.monotonic()
        self._width = 0

    def rate(self, step: int) -> float:
        """Images/s since the last call; call it after an evaluation too, to exclude the time of that."""
        now = time.monotonic()
        rate = (step - self._last_step) * self._batch_size / max(now - self._last_time, 1e-9)
        self._last_step, self._last_time = step, now
        return rate

    def update(self, step: int, rate: float, text: str) -> None:
        """Shows the step, `text`, the rate in images/s, and the time left at this rate."""
        seconds = (self._total - step) * self._batch_size / max(rate, 1e-9)
        left = datetime.timedelta(seconds=round(seconds))
        line = f"{self._unit} {step}/{self._total}  {text}  {rate:,.0f} images/s  {left} left"
        if self._stream.isatty():
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Writes a line that is not overwritten."""
        self._stream.write(("\n" if self._width else "") + text + "\n")
        self._stream.flush()
        self._width = 0
