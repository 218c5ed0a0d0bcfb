"""Hashes of a checkpoint's files, so that an altered or cut off one is found before it is used.

`manifest.json` lists the files with their sizes and SHA-256, and carries the hash of that list. It
is written into the checkpoint's temporary folder, before that gets its final name: a checkpoint
that is there has one. What orbax writes with the name (the time, and that it did) is added after.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
from collections.abc import Iterator

from etils import epath

from mtl_t5x.storage.files import write_atomically

FILE = "manifest.json"
_CHUNK = 1 << 22
# Orbax's own record of the checkpoint, which gets the time when the checkpoint gets its name.
_LATER = "_CHECKPOINT_METADATA"


def write(folder: epath.Path, *, committed: bool) -> None:
    """Lists every file below `folder` that isn't listed yet; `committed`: it has its final name."""
    files = json.loads((folder / FILE).read_text())["files"] if exists(folder) else {}
    skipped = files if committed else (*files, _LATER)
    new = {name: path for name, path in _files(folder) if name not in skipped}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hashes = pool.map(_hashed, new.values())
        files |= dict(zip(new, hashes, strict=True))
    write_atomically(folder / FILE, _text(files))


def damage(folder: epath.Path) -> str | None:
    """What is wrong with the files below `folder`, by the first one found; None: nothing is."""
    path = folder / FILE
    try:
        text = path.read_text()
        files = json.loads(text)["files"]
        intact = text == _text(files)
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        return f"{path} is damaged"
    for name, expected in files.items():
        found = folder / name
        if not found.exists():
            return f"{found} is missing"
        if found.stat().length != expected["bytes"]:
            return f"{found} has {found.stat().length} bytes instead of {expected['bytes']}"
        if _hashed(found) != expected:
            return f"{found} was altered: its SHA-256 is another"
    return None


def exists(folder: epath.Path) -> bool:
    """Whether the checkpoint has a manifest; those of versions before there were any don't."""
    return (folder / FILE).exists()


def _files(folder: epath.Path, prefix: str = "") -> Iterator[tuple[str, epath.Path]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
        elif prefix + path.name != FILE:
            yield prefix + path.name, path


def _hashed(path: epath.Path) -> dict[str, int | str]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _text(files: dict) -> str:
    listed = json.dumps(files, sort_keys=True)
    return json.dumps(
        {"sha256": hashlib.sha256(listed.encode()).hexdigest(), "files": files},
        indent=1,
        sort_keys=True,
    )
