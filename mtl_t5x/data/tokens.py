"""The token cache: what a task gives for a split, computed once, then read by every run.

An entry holds all features of all examples of one task and split at one set of lengths, exactly as
`seqio.Task.get_dataset` gives them without shuffling; of a task that draws one of several prompts,
under every one of these. It is a file of the cache's folder (see `columns`), named by the task, the
split and a fingerprint of all that the tokens depend on: what has changed has another name, and is
computed anew. Files appear whole, so processes may build the same entry at once.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import time
from collections.abc import Mapping, Sequence

import seqio
from etils import epath

from mtl_t5x.data import building, columns, fingerprint
from mtl_t5x.storage import files

logger = logging.getLogger(__name__)

VERSION = "v1"
SUFFIX = f".{VERSION}.tokens"
FORGOTTEN_AFTER = 24 * 3600.0  # seconds


@dataclasses.dataclass(frozen=True)
class Cache:
    """Where tokens are kept.

    Attributes:
      folder: of the entries' files, gs:// too; None: they stay in this process's memory.
      progress: whether progress is shown where an entry takes over ten seconds.
    """

    folder: str | None = None
    progress: bool = False


IN_MEMORY = Cache()


def user_folder() -> str:
    """The user's own cache folder, `~/.cache/mtl_t5x/tokens` where XDG_CACHE_HOME isn't set."""
    return str(files.user_cache("tokens"))


def examples(
    task: seqio.Task, split: str, lengths: Mapping[str, int], cache: Cache = IN_MEMORY
) -> building.Examples | None:
    """A split's examples, from the cache where it has them, else computed and kept there.

    Args:
      task: whose.
      split: of the task.
      lengths: the most tokens of each feature.
      cache: where they are kept.

    Returns:
      None for a task that must be streamed, as its examples are drawn at random or never end.
    """
    return _examples(task, split, tuple(sorted(lengths.items())), cache)


@functools.cache
def _examples(
    task: seqio.Task, split: str, lengths: tuple[tuple[str, int], ...], cache: Cache
) -> building.Examples | None:
    path = None
    if cache.folder is not None:
        try:
            name = fingerprint.of_split(task, split, dict(lengths), building.build)
            # A split may be called train[:10%], or have a / in its name.
            plain = re.sub(r"[^\w.:-]", "_", split)
            path = epath.Path(cache.folder).expanduser() / f"{task.name}-{plain}-{name}{SUFFIX}"
        except fingerprint.UntellableError as error:
            logger.info("%s %s: tokens aren't kept for other runs: %s", task.name, split, error)
    if path is not None and (found := _read(path)) is not None:
        return found
    built = _build(task, split, dict(lengths), cache.progress)
    if built is None or path is None:
        return built
    return (_read(path) if _write(path, built) else None) or built


def _build(
    task: seqio.Task, split: str, lengths: Mapping[str, int], progress: bool
) -> building.Examples | None:
    """`building.build`, whose errors name the task.

    Raises:
      ValueError: what is wrong with somebody's files, source or preprocessors.
    """
    try:
        return building.build(task, split, lengths, progress)
    except Exception as error:  # TensorFlow's, or whatever their code raises
        # Where in TensorFlow's graph it was tells nobody anything.
        said = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]", "", str(error)).split("\n\n")[0]
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{task.name}: its {split} split can't be read: {kind}{said.strip()}"
        ) from error


def forget() -> None:
    """Lets go of what this process has opened or computed."""
    _examples.cache_clear()


def _read(path: epath.Path) -> building.Examples | None:
    try:
        features, facts = columns.read(path)
    except FileNotFoundError:
        return None
    except (columns.DamagedError, OSError) as error:
        logger.warning("%s is passed over and computed anew: %s", path, error)
        return None
    untrimmed = {name: features.pop(name).values for name in facts["untrimmed"]}
    untrimmed = {name.removeprefix(_UNTRIMMED): values for name, values in untrimmed.items()}
    return building.Examples(features, untrimmed, facts["variants"], facts["rows_dropped"])


_UNTRIMMED = "untrimmed/"


def _write(path: epath.Path, built: building.Examples) -> bool:
    untrimmed = {
        f"{_UNTRIMMED}{name}": columns.Column(values) for name, values in built.untrimmed.items()
    }
    facts = {
        "untrimmed": list(untrimmed),
        "variants": built.variants,
        "rows_dropped": built.rows_dropped,
    }
    try:
        _forget_parts(path)
        columns.write(path, {**built.features, **untrimmed}, facts)
    except OSError as error:
        logger.warning(
            "the token cache can't be written, so tokens stay in memory (CACHE_DIR): %s", error
        )
        return False
    return True


def _forget_parts(path: epath.Path) -> None:
    """Removes what processes that were killed while they wrote have left of an entry."""
    if not path.parent.exists():
        return
    for part in path.parent.glob(f".{path.name}.*"):
        if time.time() - part.stat().mtime > FORGOTTEN_AFTER:
            part.unlink(missing_ok=True)


def tell_size(cache: Cache) -> None:
    """Logs how big the cache is, in the process that shows progress."""
    if cache.folder is None or not cache.progress:
        return
    found, size = entries(cache.folder)
    logger.info(
        "the token cache %s (CACHE_DIR) holds %d entries, %.1f MB; "
        "`python -m mtl_t5x.tasks --clear_cache` empties it", cache.folder, len(found), size / 1e6
    )  # fmt: skip


def entries(folder: str) -> tuple[Sequence[epath.Path], int]:
    """(the cache's files in a folder, of any version and half-written ones too, their bytes)."""
    path = epath.Path(folder).expanduser()
    if not path.exists():
        return [], 0
    found = [one for one in path.iterdir() if ".tokens" in one.name and one.is_file()]
    return found, sum(one.stat().length for one in found)


def clear(folder: str) -> tuple[int, int]:
    """Removes the cache's files, and nothing else; returns how many there were, and their bytes."""
    found, size = entries(folder)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found), size
