"""Checkpoints written while training goes on: it waits for a copy into memory, not for hashes and disks."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from pipeline.learning.checkpoint import Checkpoints, moment
from pipeline.learning.state import State


class Background:
    """Saves to `kept` from a thread, one checkpoint at a time; what went wrong is raised by the next call or the end.

    The state is in the computer's memory twice while it is written.
    """

    def __init__(self, kept: Checkpoints):
        self.kept = kept
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def save(self, state: State, extra: dict[str, Any] | None = None) -> None:
        """Copy the state and begin to write it, after the one before it is written."""
        self.wait()
        self.thread = threading.Thread(target=self._write, args=moment(state, extra), daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Return once everything is written; raises what writing raised."""
        if self.thread is not None:
            self.thread.join()
        self.thread, error, self.error = None, self.error, None
        if error is not None:
            raise error

    def _write(self, *given: Any) -> None:
        try:
            self.kept.put(*given)
        except BaseException as error:  # it belongs to whoever trains
            self.error = error

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as lost:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint could not be written: {lost}")
