"""Reads mutated files in a process of bounded memory: ``files_child SEED FIRST LAST FOLDER``.

Says on stdout which trial begins, and of each that goes wrong what happened; the files of those stay in the folder. A
file that takes longer than ``HANG`` ends the process, with the stack of where it was on stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from tests.trust.memory import peak_memory

MEMORY = 3 << 30
"""Bytes of address space that a trial may add to those of the libraries."""
RESIDENT = 1 << 30
"""Bytes of memory that a trial may really use."""
HANG = 20.0
"""Seconds after which a file counts as one that is never read to its end."""
IMPORTS = 300.0
"""Seconds in which everything is imported and the sound files are made."""


def main() -> None:
    seed, first, last, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    faulthandler.enable()
    faulthandler.dump_traceback_later(IMPORTS, exit=True)
    warnings.simplefilter("ignore")
    from tests.trust.corpus import cases
    from tests.trust.mutations import mutate

    made = folder / f"made{first}"
    made.mkdir(parents=True)
    found = cases(made)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 21
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(first, last):
        rng = Random(f"{seed} {number}")
        case = found[number % len(found)]
        content = mutate(rng.choice(case.seeds), case.kind, rng)
        place = folder / f"trial{number}"
        place.mkdir()
        target = place / case.name
        target.write_bytes(content)
        print(f"TRIAL {number} {case.label}", flush=True)
        before, began = peak_memory(restart=True), time.monotonic()
        # In every process that reads, however it was started.
        faulthandler.dump_traceback_later(HANG, exit=True)
        wrong = _read(case.read, target)
        faulthandler.cancel_dump_traceback_later()
        taken = peak_memory() - before
        if wrong is None and taken > RESIDENT:
            wrong = f"took {taken >> 20} MiB of memory"
        if taken > RESIDENT // 4 or time.monotonic() - began > HANG / 4:
            print(f"NOTE {number} {case.label}: {taken >> 20} MiB, {time.monotonic() - began:.1f} s", flush=True)
        if wrong is None and (list(place.iterdir()) != [target] or target.read_bytes() != content):
            wrong = f"changed files: {sorted(path.name for path in place.iterdir())}"
        if wrong is None:
            target.unlink()
            place.rmdir()
        else:
            print(f"WRONG {number} {case.label}: {wrong!r}", flush=True)
    print("DONE", flush=True)


def _read(read: object, target: Path) -> str | None:
    """What went wrong; None where the file was read, or refused in one sentence that names it."""
    from wasskit.errors import UserError

    assert callable(read)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read(target)
    except UserError as error:
        sentence = str(error)
        if str(target.parent) not in sentence and target.name not in sentence:
            return f"names no file: {sentence}"
        if "weights_only" in sentence or "\n" in sentence or len(sentence) > 1000:
            return f"is no one sentence of ours: {sentence[:300]}"
        return None
    except BaseException:
        return traceback.format_exc(limit=-6)
    return None


if __name__ == "__main__":
    main()
