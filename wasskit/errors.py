"""Errors that are shown to the user as one sentence instead of a traceback."""

from __future__ import annotations


class WasskitError(Exception):
    """An expected failure. Its message says what was wrong, where, and what to do."""

    exit_code = 1


class UserError(WasskitError):
    """The request was wrong, or cannot be carried out on this machine as it is."""

    exit_code = 2


class RunFailed(WasskitError):
    """A run that was rightly asked for did not succeed (a diverging loss, say)."""

    exit_code = 1


class Interrupted(WasskitError):
    """The run was asked to stop by a signal and has saved its state."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
