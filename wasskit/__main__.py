"""The entry point of ``wasskit`` and of ``python -m wasskit``: what must hold before anything else is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process."""
    # OpenMP threads that wait soon go to sleep. Spinning for milliseconds, as they do by default, takes the time of the
    # thread that is waited for where cores are shared: a small training then runs many times slower on two threads.
    # Sleeping at once would cost the small operations of an idle machine a third of their speed.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        from wasskit.cli import main as command_line

        command_line()
    except KeyboardInterrupt:  # nothing has started; later ones are handled by the command
        sys.exit(130)


if __name__ == "__main__":
    main()
