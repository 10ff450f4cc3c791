"""``python -m wasskit``."""

from __future__ import annotations

from wasskit.cli import main

if __name__ == "__main__":
    main()
