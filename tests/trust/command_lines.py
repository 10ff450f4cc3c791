"""Random command lines over the declared commands, and the folder that they are run in."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasskit.cli import GENERAL, GROUPS, load_command
from wasskit.config import Command, Field, display, fields_of
from wasskit.plugins import BUILT_IN, load_plugin
from wasskit.recipes import recipe_names

NASTY = [
    "nan", "inf", "-inf", "1e400", "-0", "0", "-1", "", " ", "none", "None", "9" * 30, "-" + "9" * 30, str(2**63),
    "0x10", "1_000", "1e-320", "٣", "½", "ü", "名前", "a\nb", "\t", "\x1b[31m", "[red]", ":smile:", "%s", "{0}", "--",
    ",", ",,", "1,,2", "1,2,", "1;2", "true", "yes", "../..", "~", "~nobody/x", "$HOME", "*", "a" * 5000, "'", '"',
    "-", "\\", "\udcff", "2,2", "8,4", "0.5,nan",
]  # fmt: skip
"""Values at the edge of every type."""
BROKEN = {
    "empty.toml": "",
    "no-command.toml": "[options]\nepochs = 3\n",
    "bad-command.toml": 'command = "mrl trian"\n',
    "list-command.toml": "command = [1]\n",
    "no-toml.toml": "command = \n[",
    "unknown-key.toml": 'command = "mrl train"\n[options]\nepohcs = 3\n',
    "wrong-type.toml": 'command = "mrl train"\n[options]\nepochs = {a = 1}\ndims = [[1], "x"]\n',
    "huge.toml": f'command = "mrl train"\n[options]\nepochs = {"9" * 40}\nlr = 1e999\n',
    "nan.toml": 'command = "ssl byol"\n[options]\nlr = nan\nw2_weight = inf\n',
    "date.toml": 'command = "w2gn toy"\n[options]\nsteps = 2020-01-01\n',
    "paper.toml": 'command = "mrl train"\n[paper]\nmetrics = {"test/top1" = "high"}\n',
    "transient.toml": 'command = "mrl train"\n[options]\nrun_dir = "x"\njson = true\n',
    "former.toml": 'command = "ssl byol"\n[options]\ncrop_min = 0.2\nbatch_norm = "local"\n',
    "both.toml": 'command = "ssl byol"\n[options]\ncrop_min = 0.2\nmin-crop = 0.3\n',
    "good.toml": 'command = "mrl train"\n[options]\nepochs = 3\n',
}


def declared() -> list[Command[Any]]:
    """Every command, its path being what is typed after ``wasskit``."""
    plugins = [GENERAL, *GROUPS, *map(load_plugin, BUILT_IN.values())]
    return [load_command(plugin, name) for plugin in plugins for name in plugin.commands]


def make_folder(folder: Path) -> None:
    """Files and folders of all kinds that a command line may name, from inside ``folder``."""
    import numpy as np
    from PIL import Image

    (folder / "photos").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i, 10, 0)).save(folder / "photos" / f"{i}.png")
    (folder / "photos" / "broken.png").write_bytes(b"no image")
    np.save(folder / "points.npy", np.arange(24.0).reshape(12, 2))
    np.save(folder / "flat.npy", np.arange(3))
    for name in (
        "weights.safetensors",
        "model.pt",
        "text.txt",
        "table.csv",
        "notes.md",
        "figure.png",
        "embeddings.npy",
    ):
        (folder / name).write_text("mine\n")
    (folder / "empty").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "evaluation.json").write_text("{}")
    (folder / "damaged").mkdir()
    (folder / "damaged" / "config.toml").write_text("command = ")
    for method, command in (("mrl", "mrl train"), ("ssl", "ssl byol"), ("w2gn", "w2gn toy"), ("other", "x y")):
        run = folder / "runs" / method / "a"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.toml").write_text(f'command = "{command}"\n[options]\nepochs = 2\n')
        (run / "checkpoints" / "last.pt").write_bytes(b"broken")
    (folder / "runs" / "mrl" / "a" / "metrics.csv").write_text(
        "epoch,step,split,metric,value\n1,5,train,loss,0.5\n1,5,test,top1,50\n2,10,test,top1,nan\n"
    )
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "missing" / "x")
    (folder / "null").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.png")
    recipes = folder / "recipes"
    recipes.mkdir()
    for name, text in BROKEN.items():
        (recipes / name).write_text(text)
    (recipes / "bytes.toml").write_bytes(b"\xff\xfe\x00")


@dataclass
class Generator:
    """Draws command lines; the same seed draws the same ones."""

    seed: int
    folder: Path
    commands: list[Command[Any]] = field(default_factory=declared)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.flags = sorted({f.flag for c in self.commands for f in fields_of(c.options) if not f.option.positional})
        found = sorted(self.folder.rglob("*"))
        self.paths = [str(p.relative_to(self.folder)) for p in found] + [
            "missing", "missing/x.npy", "missing.png", ".", "..", "empty/", "new/deep/file.png", "text.txt/x", "o.csv",
            "o.safetensors", "o.html", "photos/0.png", "a" * 300, "/dev/null", "/dev/zero", "/proc/self/mem", "\n",
        ]  # fmt: skip

    def line(self, number: int) -> list[str]:
        """The ``number``-th command line, whatever was drawn before it."""
        self.random.seed(f"{self.seed} {number}")
        command = self.random.choice(self.commands)
        words = command.path.split()
        if self._happens(0.04):
            words = self._wrong_words(words)
        rest: list[str] = []
        fields = fields_of(command.options)
        for f in fields:
            if f.option.positional and self._happens(0.9):
                rest += [self._value(f) for _ in range(self.random.randint(1, 3) if f.kind.sequence else 1)]
        for f in self.random.sample(fields, min(len(fields), self.random.choice((0, 1, 1, 2, 2, 3, 6)))):
            if not f.option.positional:
                rest += self._option(f)
        extras: list[tuple[float, Callable[[], list[str]]]] = [
            (0.06, lambda: [self.random.choice(self.flags)]),
            (0.04, lambda: [self.random.choice(self.flags)[:-1], "3"]),
            (0.04, lambda: [self.random.choice(NASTY)]),
            (0.03, lambda: rest[:2]),
            (0.02, lambda: ["--help"]),
            (0.05, lambda: ["--json"]),
        ]
        for chance, more in extras:
            if self._happens(chance):
                place = self.random.randint(0, len(rest))
                rest[place:place] = more()
        return [*words, *rest]

    def _happens(self, chance: float) -> bool:
        return self.random.random() < chance

    def _wrong_words(self, words: list[str]) -> list[str]:
        return self.random.choice(
            [words[:1], [], [words[0][::-1], *words[1:]], [*words[:-1], words[-1] + "x"], words[::-1],
             [self.random.choice(NASTY), *words[1:]], [*words[:1], self.random.choice(NASTY)]]
        )  # fmt: skip

    def _option(self, f: Field) -> list[str]:
        flag = f.option.short if f.option.short and self._happens(0.3) else f.flag
        if self._happens(0.03) and f.option.former:
            flag = "--" + next(iter(f.option.former)).replace("_", "-")
        if f.kind.base is bool and not f.kind.sequence:
            if self._happens(0.1):
                return [f"{f.flag}={self.random.choice(NASTY)}"]
            return [f"--no-{f.flag[2:]}" if f.option.flag is None and self._happens(0.5) else flag]
        if self._happens(0.03):
            return [flag]
        value = self._value(f)
        words = [f"{f.flag}={value}"] if self._happens(0.2) else [flag, value]
        return words + (self._option(f) if self._happens(0.05) else [])

    def _value(self, f: Field) -> str:
        """A right value, one that is out of range, or anything."""
        if self._happens(0.25):
            return self.random.choice(NASTY)
        if f.flag == "--recipe" or f.name in ("recipe", "recipes"):
            return self.random.choice([*recipe_names(), *(f"recipes/{name}" for name in BROKEN), "recipes/bytes.toml",
                                       *self.paths])  # fmt: skip
        if f.name == "axes" or f.name == "grid":
            return self.random.choice(["seed=0,1", "epochs=1,x", "=", "seed=", "dims=2:4,8", "method=mwrl", "a=b"])
        if f.name == "words":
            return self.random.choice(["mrl", "train", "ssl", "byol", "seed=0,1", "epochs=1,x", "=", "--", "--lr"])
        if f.kind.base is Path or f.flag in ("--resume", "--images") or f.name in ("inputs", "images", "image"):
            return self.random.choice(self.paths)
        if f.choices:
            return self.random.choice([*f.choices, self.random.choice(f.choices)[:-1]])
        return self._scalars(f)

    def _scalars(self, f: Field) -> str:
        makers: dict[type, Callable[[], str]] = {
            int: lambda: str(self.random.choice([0, 1, 2, 3, 7, 64, -3, 10**6, 2**31, 2**62])),
            float: lambda: str(self.random.choice([0.0, 0.1, 0.5, 1.0, 2.5, -0.5, 1e-9, 1e30, 3e38])),
            str: lambda: self.random.choice(["digits", "cpu", "test", "train", "mwrl", "x", "test/top1", "0"]),
            bool: lambda: "true",
        }
        if self._happens(0.2) and f.default not in (None, ()) and not f.required:
            return display(f.default)
        count = self.random.randint(1, 4) if f.kind.sequence else 1
        return ",".join(makers[f.kind.base]() for _ in range(count))


@dataclass(frozen=True)
class Snapshot:
    """The files of a folder as they are, and how to tell that one was touched."""

    folder: Path
    state: dict[Path, tuple[int, ...]]

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        return cls(folder, {path: _state(path) for path in _walk(folder)})

    def restore(self) -> list[str]:
        """Remove what is new; return what was changed or is gone."""
        now = {path: _state(path) for path in _walk(self.folder)}
        for path in now.keys() - self.state.keys():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return [str(path) for path, state in self.state.items() if now.get(path) != state]


def _walk(folder: Path) -> Iterator[Path]:
    for base, folders, files in os.walk(folder):
        yield from (Path(base) / name for name in (*folders, *files))


def _state(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mode, found.st_ino)
    return (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns)
