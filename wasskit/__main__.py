"""The entry point of ``wasskit`` and of ``python -m wasskit``: what must hold before anything else is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process."""
    # OpenMP threads that wait sleep instead of spinning. Spinning gains little on idle cores; on busy ones it takes
    # the time of the thread that is waited for: a small training then runs many times slower on two threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from wasskit.cli import main as command_line

        command_line()
    except KeyboardInterrupt:  # nothing has begun; later ones are answered where there is something to say
        sys.exit(130)


if __name__ == "__main__":
    main()
