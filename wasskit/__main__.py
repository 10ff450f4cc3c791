"""The entry point of ``wasskit`` and of ``python -m wasskit``: what must hold before anything else is imported."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """Run the command line of this process."""
    # OpenMP threads that wait soon go to sleep. Spinning for milliseconds, as they do by default, takes the time of the
    # thread that is waited for where cores are shared: a small training then runs many times slower on two threads.
    # Sleeping at once would cost the small operations of an idle machine a third of their speed.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from wasskit.cli import main as command_line

    command_line()


def _leave(number: int, frame: object) -> None:
    """End at a Ctrl-C while the command is imported: nothing has begun. Later ones are handled by the command.

    An exception would come out wherever an import is, as a traceback of Python's or of compiled code's.
    """
    os.write(2, b"Stopped by SIGINT.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
