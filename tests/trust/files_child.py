"""Reads mutated files in a process of bounded memory: ``files_child SEED FIRST LAST FOLDER``.

Says on stdout which trial begins, and of each that goes wrong what happened; the files of those stay in the folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import sys
import traceback
import warnings
from pathlib import Path
from random import Random

MEMORY = 3 << 30
"""Bytes of address space that a trial may add to those of the libraries."""
RESIDENT = 1 << 30
"""Bytes of memory that a trial may really use."""


def main() -> None:
    seed, first, last, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    faulthandler.enable()
    warnings.simplefilter("ignore")
    from tests.trust.corpus import cases
    from tests.trust.mutations import mutate

    made = folder / f"made{first}"
    made.mkdir(parents=True)
    found = cases(made)
    pages = (
        int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 21
    )
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        rng = Random(f"{seed} {number}")
        case = found[number % len(found)]
        content = mutate(rng.choice(case.seeds), case.kind, rng)
        place = folder / f"trial{number}"
        place.mkdir()
        target = place / case.name
        target.write_bytes(content)
        print(f"TRIAL {number} {case.label}", flush=True)
        peak = max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        wrong = _read(case.read, target)
        before, peak = peak, max(peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if wrong is None and (peak - before) * 1024 > RESIDENT:
            wrong = f"took {(peak - before) >> 10} MiB of memory"
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
