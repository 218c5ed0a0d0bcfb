"""What a task's tokens and scores depend on, as a fingerprint: data, code, vocabulary, lengths.

Code is told twice: as it runs in this process, with what it refers to, and as its files are now. So
neither a file that is edited while a process runs, nor what is only found at run time, gives two
codes one fingerprint. What can't be told raises, and nothing is kept of such a task.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tensorflow_text as tf_text
from etils import epath

PACKAGE = __name__.split(".")[0]
PLAIN = (type(None), bool, int, float, complex, str, bytes, tf.DType, pathlib.PurePath)
# A larger or remote file is told by its size and time of change: reading it takes too long.
READ_BYTES = 2**28


class UntellableError(ValueError):
    """Something that a fingerprint can't be made of."""


def of_split(task: seqio.Task, split: str, lengths: Mapping[str, int], code: Any) -> str:
    """A fingerprint, in hexadecimal digits, of all that a split's tokens depend on, and of `code`:
    the functions that get them, or that make something of them.

    Raises:
      UntellableError: what the source holds, or what a function does, can't be told.
    """
    try:
        identity = _identity(task, split, lengths, code)
    except UntellableError:
        raise
    except Exception as error:  # whatever telling somebody's objects and files raises
        raise UntellableError(str(error) or repr(error)) from error
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:32]


def _identity(task: seqio.Task, split: str, lengths: Mapping[str, int], code: Any) -> Any:
    telling = _Telling()
    return (
        [library.__version__ for library in (seqio, tf, tf_text, np)],
        split,
        sorted(lengths.items()),
        telling.tell(dict(task.output_features)),
        telling.tell(list(task.preprocessors)),
        telling.tell(getattr(task.postprocessor, "head", None)),
        telling.tell(code),
        telling.tell(_content(task.source, split)),
    )


def of_file(path: epath.PathLike) -> tuple[str, str | int, float]:
    """(name, content's SHA-256, 0), or of a large or remote file (name, bytes, time of change)."""
    path = epath.Path(path)
    status = path.stat()
    if "://" in str(path) or status.length > READ_BYTES:
        return (str(path), status.length, status.mtime)
    return (str(path), hashlib.sha256(path.read_bytes()).hexdigest(), 0.0)


def _content(source: seqio.DataSource, split: str) -> Any:
    """What a source's rows depend on: by its own method `content(split)`, or by its files."""
    if hasattr(source, "content"):
        return source.content(split)
    if isinstance(source, seqio.TfdsDataSource):
        dataset = source.tfds_dataset
        return dataset.info.full_name, split, dataset.size(split), source.list_shards(split)
    if isinstance(source, seqio.FileDataSource):
        return vars(source), [of_file(path) for path in source.list_shards(split)]
    raise UntellableError(f"what a {type(source).__name__} holds can't be told")


class _Telling:
    """Turns plain values into themselves with their types, all others into digests."""

    def __init__(self):
        # By id, with the value, whose id must stay its own.
        self._told: dict[int, tuple[str, Any]] = {}
        self._sources: set[str] = set()

    def tell(self, value: Any) -> Any:
        if isinstance(value, PLAIN):
            return (type(value).__name__, str(value) if isinstance(value, tf.DType) else value)
        if id(value) not in self._told:
            self._told[id(value)] = ("itself", value)
            digest = hashlib.sha256(repr(self._tell_new(value)).encode()).hexdigest()
            self._told[id(value)] = (digest, value)
        return self._told[id(value)][0]

    def _tell_new(self, value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            return (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest())
        if isinstance(value, Mapping):
            return [(self.tell(key), self.tell(item)) for key, item in value.items()]
        if isinstance(value, Set):
            return sorted(repr(self.tell(item)) for item in value)
        if isinstance(value, list | tuple | np.ndarray):
            return [self.tell(item) for item in value]
        if isinstance(value, enum.Enum):
            return (type(value).__qualname__, value.name)
        if isinstance(value, re.Pattern):
            return (value.pattern, value.flags)
        if isinstance(value, logging.Logger):
            return value.name
        if isinstance(value, functools.partial):
            return [self.tell(part) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, seqio.SentencePieceVocabulary):
            fast = vars(value).get("_use_fast_tokenizer")
            model = hashlib.sha256(value.sp_model).hexdigest()
            return (type(value).__qualname__, model, value.extra_ids, value.vocab_size, fast)
        if isinstance(value, types.ModuleType):
            return self._source(value.__name__)
        return self._tell_code(value)

    def _tell_code(self, value: Any) -> Any:
        """Functions and classes, and objects of these."""
        if isinstance(value, types.MethodType):
            return (self.tell(value.__func__), self.tell(value.__self__))
        if isinstance(value, staticmethod | classmethod):
            return self.tell(value.__func__)
        if isinstance(value, property):
            return self.tell((value.fget, value.fset))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if hasattr(value, "__wrapped__"):  # functools.cache, for one
            return (type(value).__qualname__, self.tell(value.__wrapped__))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.BuiltinFunctionType | np.ufunc) or inspect.isbuiltin(value):
            return (getattr(value, "__module__", ""), value.__name__)
        if isinstance(value, tf.Tensor) and value.dtype not in (tf.resource, tf.variant):
            return self.tell(np.asarray(value.numpy()))
        if not hasattr(value, "__dict__"):
            raise UntellableError(f"what a {type(value).__qualname__} is can't be told")
        return (self.tell(type(value)), self.tell(vars(value)))

    def _class(self, value: type) -> Any:
        named = (value.__module__, value.__qualname__, self._source(value.__module__))
        if _is_library(value.__module__):
            return named
        members = {
            name: member
            for name, member in vars(value).items()
            if name not in ("__dict__", "__weakref__", "__doc__", "__annotations__")
            and not isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)
            and not name.startswith(("__dataclass", "_abc_", "__abstract"))
        }
        return (named, self.tell(value.__bases__), self.tell(members))

    def _function(self, value: types.FunctionType) -> Any:
        module = value.__globals__.get("__name__", "")
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        told = [
            (module, value.__qualname__, self._source(module)),
            self.tell(cells),
            self.tell((value.__defaults__, value.__kwdefaults__)),
        ]
        if not _is_library(module):
            told += [self._code(value.__code__), self._used(value)]
        return told

    def _code(self, code: types.CodeType) -> Any:
        inner = [
            self._code(constant)
            if isinstance(constant, types.CodeType)
            else repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
            for constant in code.co_consts
        ]
        return (code.co_code, code.co_names, code.co_varnames, code.co_freevars, inner)

    def _used(self, function: types.FunctionType) -> Any:
        """The values behind the names that a function's code uses, of modules and their members."""
        names = sorted(_names(function.__code__))
        found = {}
        for name in names:
            if name in function.__globals__:
                found[name] = function.__globals__[name]
        found |= _imported_within(function.__code__)
        for name, value in list(found.items()):
            if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                members = {f"{name}.{n}": vars(value)[n] for n in names if n in vars(value)}
                found |= members
        return self.tell(found)

    def _source(self, name: str) -> Any:
        """The source of a module, and of those that it refers to."""
        if _is_library(name):
            return name
        if name in self._sources:
            return name
        module = sys.modules[name]
        self._sources.add(name)
        path = getattr(module, "__file__", None)
        content = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest() if path else None
        return (name, content, [self._source(other) for other in sorted(_referred(module))])


def _is_library(name: str) -> bool:
    """Whether a module comes with Python or was installed; its version stands for its code."""
    if name.split(".")[0] == PACKAGE:
        return False
    module = sys.modules.get(name)
    if module is None or module is builtins:
        return True
    path = getattr(module, "__file__", None)
    if path is None:
        return name != "__main__"
    return path.startswith(_library_folders())


@functools.cache
def _library_folders() -> tuple[str, ...]:
    """Where Python's modules are, and those that were installed, by `pip install --target` too: an
    installer leaves its name there, but not where somebody's own code is installed as editable."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    for distribution in importlib.metadata.distributions():
        if distribution.read_text("INSTALLER") is not None:
            folders.add(os.path.abspath(distribution.locate_file("")))
    return tuple(f"{folder}{os.sep}" for folder in sorted(folders))


def _names(code: types.CodeType) -> Iterable[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= set(_names(constant))
    return found


def _imported_within(code: types.CodeType) -> dict[str, types.ModuleType]:
    """Modules that a function's code imports, by their names, but for libraries."""
    imports = [one for one in dis.get_instructions(code) if one.opname.startswith("IMPORT_")]
    members = [one.argval for one in imports if one.opname == "IMPORT_FROM"]
    found = {}
    for one in imports:
        if one.opname == "IMPORT_NAME":
            try:
                specification = importlib.util.find_spec(one.argval.split(".")[0])
            except (ImportError, ValueError):  # it will fail by itself, if it is ever run
                continue
            if specification is not None and not _is_library_file(specification.origin):
                __import__(one.argval, fromlist=members)
                found[one.argval] = sys.modules[one.argval]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _imported_within(constant)
    return found


def _is_library_file(path: str | None) -> bool:
    return path is None or (path.startswith(_library_folders()) and f"/{PACKAGE}/" not in path)


def _referred(module: types.ModuleType) -> set[str]:
    """Names of the modules that a module's globals come from, but for libraries."""
    found = set()
    for value in list(vars(module).values()):
        if isinstance(value, types.ModuleType):
            found.add(value.__name__)
        elif isinstance(value, types.FunctionType | type):
            found.add(value.__module__)
    found.discard(module.__name__)
    # What a package holds depends on what was imported so far.
    found = {name for name in found if not name.startswith(f"{module.__name__}.")}
    return {name for name in found if name in sys.modules and not _is_library(name)}
