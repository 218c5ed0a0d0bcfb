"""One process at a time in a folder, by a lock that outlives neither its process nor its host.

The lock is a file that says who holds it and that the holder writes anew every few seconds. Who
finds one watches it: while it changes the folder is taken, and one that doesn't change any more is
taken over, so no host's clock is compared with another's. Of a process of the same machine it is
seen at once whether it still runs. The file is only replaced if it still is what was read, which
TensorStore sees to on a disk and on object storage alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator

import tensorstore
from etils import epath

from mtl_t5x.storage import files

logger = logging.getLogger(__name__)

FILE = ".lock"
BEAT = 10.0  # seconds between two writes of the holder
DEAD_AFTER = 40.0  # seconds without one
_LOOKS = 0.2  # seconds between two looks at a disk; object storage takes each as a request
_LOOKS_AFAR = 2.0


class TakenError(OSError):
    """Another process holds the folder."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
      host: its name.
      process: the process's number there.
      since: when it took the lock, by that host's clock.
      machine: whose process numbers these are: this start of that host, and its container.
      started: when the process began, in the machine's own count, as numbers are given again.
      token: this holder's, and nobody else's.
      beat: counts the writes.
    """

    host: str
    process: int
    since: str
    machine: str | None
    started: str | None
    token: str
    beat: int = 0

    @classmethod
    def this(cls) -> Holder:
        now = datetime.datetime.now(datetime.UTC)
        process = os.getpid()
        return cls(
            host=socket.gethostname(),
            process=process,
            since=now.strftime("%Y-%m-%d %H:%M:%S UTC"),
            machine=_machine(),
            started=_started(process),
            token=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, text: bytes) -> Holder | None:
        """None where nobody's name stands there."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def text(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode()

    def runs(self) -> bool | None:
        """Whether its process still does; None: that can't be seen from here."""
        if self.machine is None or self.machine != _machine():
            return None
        return _started(self.process) == self.started


def _machine() -> str | None:
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return None


def _started(process: int) -> str | None:
    """None: there is no such process, or one that has ended and only waits to be cleared away."""
    try:
        text = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    state, *_, started = text.rpartition(")")[2].split()[:20]
    return None if state in "ZX" else started


@contextlib.contextmanager
def hold(folder: epath.PathLike, wait: float = 0.0) -> Iterator[None]:
    """Holds the lock of a folder while the context lasts; within one that holds it, does nothing.

    Args:
      folder: of this machine's disks or of object storage.
      wait: seconds that a live holder is waited for.

    Raises:
      TakenError: another process holds it, and stays.
    """
    path = str(files.absolute(folder))
    if path in _held:
        yield
        return
    lock = _Lock(path)
    lock.take(wait)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        lock.release()


_held: set[str] = set()


class _Lock:
    def __init__(self, path: str):
        self._path = path
        local = "://" not in path
        self._looks = _LOOKS if local else _LOOKS_AFAR
        spec = {"driver": "file", "path": f"{path}/"} if local else f"{path}/"
        self._store = tensorstore.KvStore.open(spec).result()
        self._mine = Holder.this()
        self._released = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lock")

    def take(self, wait: float) -> None:
        deadline, seen, changed = time.monotonic() + wait, None, time.monotonic()
        while True:
            there = self._read()
            holder = None if there is None else Holder.read(there)
            runs = None if holder is None else holder.runs()
            now = time.monotonic()
            alive = runs is True or (seen is not None and there != seen)
            if seen is None:
                self._tell(holder, runs, wait)
            if there != seen:
                seen, changed = there, now
            if holder is None or runs is False or now - changed > DEAD_AFTER:
                if self._swap(there, self._mine.text()):
                    break
                continue
            if alive and now >= deadline:
                raise TakenError(
                    f"{self._path} is taken: process {holder.process} on {holder.host} has been at "
                    f"work in it since {holder.since}. Wait for it or end it (the folder is free "
                    "again a minute later at most), or give another MODEL_DIR"
                )
            time.sleep(self._looks)
        self._beating.start()

    def _tell(self, holder: Holder | None, runs: bool | None, wait: float) -> None:
        if holder is None or runs is False:
            return
        who = f"process {holder.process} on {holder.host} holds {self._path}"
        if runs and wait:
            logger.warning("%s: waiting until it leaves", who)
        elif not runs:
            logger.warning("%s: looking for up to %.0f s whether it lives", who, DEAD_AFTER)

    def release(self) -> None:
        self._released.set()
        self._beating.join()
        self._swap(self._mine.text(), None)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            following = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
            try:
                if self._swap(self._mine.text(), following.text()):
                    self._mine = following
                    continue
                there = self._read()
            except Exception as error:  # a network that is away for a while, of any kind
                logger.warning("the lock of %s can't be written: %s", self._path, error)
                continue
            self._mine = self._mine if there == self._mine.text() else following
            if there != self._mine.text():
                self._leave(None if there is None else Holder.read(there))

    def _leave(self, other: Holder | None) -> None:
        """As the watchdog does: what this process went on to write would spoil the other's run."""
        who = f"process {other.process} on {other.host}" if other else "somebody"
        print(
            f"\n{who} has taken {self._path} over, as this process said nothing for "
            f"{DEAD_AFTER:g} s: it leaves",
            file=sys.__stderr__,
            flush=True,
        )
        os._exit(1)

    def _read(self) -> bytes | None:
        found = self._store.read(FILE).result()
        return found.value if found.state == "value" else None

    def _swap(self, expected: bytes | None, new: bytes | None) -> bool:
        """Replaces the file if it still is `expected`; None: no file."""
        transaction = tensorstore.Transaction(repeatable_read=True)
        store = self._store.with_transaction(transaction)
        found = store.read(FILE).result()
        if (found.value if found.state == "value" else None) != expected:
            transaction.abort()
            return False
        store.write(FILE, new).result()
        try:
            transaction.commit_sync()
        except ValueError as error:
            if "ABORTED" not in str(error):
                raise
            return False
        return True
