"""``wasskit data verify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasskit.candidates import complete_local_paths
from wasskit.config import Command, CommandOptions, Invocation, argument


@dataclass(frozen=True, kw_only=True)
class DataVerify(CommandOptions):
    """Options of ``wasskit data verify``."""

    folder: Path = argument(help="Folder of packs.", complete=complete_local_paths, metavar="FOLDER")


def body(config: DataVerify, invocation: Invocation) -> Mapping[str, Any]:
    from wasskit import console
    from wasskit.data.formats.pack import SUFFIX, read_pack
    from wasskit.errors import UserError

    if config.folder.is_file():
        raise UserError(f"{config.folder} is a file: name the folder that `wasskit data pack` has made.")
    paths = sorted(path for path in config.folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    if not paths:
        raise UserError(f"{config.folder} holds no pack: make one by `wasskit data pack SOURCE {config.folder}`")
    found = []
    for path in paths:
        pack = read_pack(path)
        bad = [end for end, right in pack.damaged() if not right]
        if bad:
            raise UserError(
                f"{path} is damaged: {len(bad):,} of its {pack.header.chunks:,} chunks do not have their checksum, the "
                f"first before image {bad[0]:,}; make it again by `wasskit data pack` with --overwrite"
            )
        header = pack.header
        found.append({"path": str(path), "source": header.source, "split": header.split, "images": header.count,
                      "side": header.side, "classes": len(header.classes)})  # fmt: skip
    if not config.json:
        rows = [(one["split"], one["source"], f"{one['images']:,}", one["side"], one["path"]) for one in found]
        console.table("Every checksum is right", ["Split", "Source", "Images", "Side", "File"], rows)
    return {"packs": found}


command = Command(
    "data verify", DataVerify, body, "Compare packs with their checksums.", ("wasskit data verify packs/photos",)
)
