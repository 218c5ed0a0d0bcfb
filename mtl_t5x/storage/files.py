"""Files and folders by name: of this machine, or of object storage as gs://BUCKET/FOLDER."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath


def absolute(path: epath.PathLike) -> epath.Path:
    """As orbax and TensorStore want paths; epath's own `absolute` makes gs:// a local folder."""
    path = epath.Path(path)
    return path if path.is_absolute() else path.resolve()


def user_cache(name: str) -> pathlib.Path:
    """A folder of the user's cache, `~/.cache/mtl_t5x/NAME` where XDG_CACHE_HOME isn't set."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "mtl_t5x" / name


def write_atomically(path: epath.PathLike, data: bytes | str) -> None:
    """Writes a file in one go: other processes see the old file or the new one, never a part."""
    path = epath.Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: epath.PathLike) -> Iterator[epath.Path]:
    """A folder to write in, which is `path` when the block ends, and gone where it raises."""
    path = absolute(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(path)
    finally:
        if part.exists():
            part.rmtree()


def read_steps(path: epath.Path) -> tuple[list[dict[str, Any]], list[int]]:
    """(lines of a file such as metrics.jsonl, numbers of the lines that are no such line).

    A line is a JSON object that names its `step`. A crash may leave one that is cut off.
    """
    if not path.exists():
        return [], []
    lines, broken = [], []
    for number, text in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, KeyError, TypeError):
            broken.append(number)
    return lines, broken


def keep_steps(path: epath.Path, keep: Callable[[int], bool]) -> list[dict[str, Any]]:
    """Rewrites such a file with the lines whose step is to be kept, and returns these.

    A line that is cut off goes; a file that isn't there stays away.
    """
    if not path.exists():
        return []
    kept = [line for line in read_steps(path)[0] if keep(line["step"])]
    write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in kept))
    return kept
