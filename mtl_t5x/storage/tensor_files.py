"""Tensors in files of the format safetensors, read one by one: never more than one at a time.

The package safetensors maps whole files into memory, whose pages then count as the process's, and
opens no file of object storage; writing is left to it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype(jnp.bfloat16),
}
_PIECE = 1 << 20  # numbers that are read at once
SHARD_BYTES = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A float32 array that is read each time `np.asarray` asks for it.

    Args:
      read: into an array of the shape, which may be a view: what a device takes over has to be in
        order, and a transposed array would be copied for that.
    """

    shape: tuple[int, ...]
    read: Callable[[np.ndarray], None]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = np.empty(self.shape, np.float32)
        self.read(array)
        return np.asarray(array, dtype, copy=copy)

    @property
    def transposed(self) -> Lazy:
        """Of a matrix."""
        return Lazy(self.shape[::-1], lambda array: self.read(array.T))


def tensors(folder: epath.Path) -> dict[str, Lazy] | None:
    """What the folder's model.safetensors, or the shards that its index names, hold; None: there
    is neither.

    Raises:
      FileNotFoundError: a shard that the index names isn't there.
      ValueError: a file that is cut off, no safetensors file, without a tensor that the index says
        it holds, or of numbers that are no floats.
    """
    if (folder / INDEX).is_file():
        return _sharded(folder)
    single = folder / SINGLE
    return _in_file(single) if single.is_file() else None


def _sharded(folder: epath.Path) -> dict[str, Lazy]:
    index = folder / INDEX
    try:
        where = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is no index of safetensors files: get it again") from error
    files = dict.fromkeys(where.values())
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{index} names {', '.join(absent)}, which {folder} doesn't hold: get the missing files"
        )
    found = {name: _in_file(folder / name) for name in files}
    if lost := [name for name, file in where.items() if name not in found[file]]:
        raise ValueError(
            f"{index} says that {where[lost[0]]} holds {lost[0]}, and it doesn't: get both again"
        )
    return {name: found[file][name] for name, file in where.items()}


def _in_file(file: epath.Path) -> dict[str, Lazy]:
    """8 bytes with the length of a JSON text, that text, which has the place of every tensor
    behind it, and the tensors."""
    length = file.stat().length
    try:
        with file.open("rb") as opened:
            begin = 8 + int.from_bytes(opened.read(8), "little")
            listed = json.loads(opened.read(min(begin - 8, length)))
        listed.pop("__metadata__", None)
        ends = [of["data_offsets"][1] for of in listed.values()]
        tensors = {name: _lazy(file, name, of, begin) for name, of in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is no safetensors file, or cut off: get it again") from error
    expected = begin + max(ends, default=0)
    if length != expected:
        raise ValueError(f"{file} has {length} bytes instead of {expected}: get it again")
    return tensors


def _lazy(file: epath.Path, name: str, of: Mapping[str, Any], begin: int) -> Lazy:
    shape, (start, end) = tuple(of["shape"]), of["data_offsets"]
    dtype = _DTYPES.get(of["dtype"])
    size = math.prod(shape)
    if dtype is not None and end - start != size * dtype.itemsize:
        raise ValueError(f"{name} takes other bytes than its shape")

    def read(array: np.ndarray) -> None:
        if dtype is None:
            raise ValueError(
                f"{file} holds {name} as {of['dtype']}: read are {', '.join(_DTYPES)}, so get the "
                "weights as they were before they were quantised"
            )
        rows = max(1, _PIECE * math.prod(shape[:1]) // max(1, size))
        with file.open("rb") as opened:
            opened.seek(begin + start)
            for first in range(0, len(array), rows):
                part = array[first : first + rows]
                content = opened.read(part.size * dtype.itemsize)
                part[...] = np.frombuffer(content, dtype).reshape(part.shape)

    return Lazy(shape, read)


def write(folder: epath.Path, arrays: Mapping[str, np.ndarray | Lazy]) -> None:
    """Writes float32 tensors as transformers reads them: in shards, where they are large."""
    shards = list(_shards(arrays))
    if len(shards) == 1:
        write_file(folder / SINGLE, {name: arrays[name] for name in shards[0]})
        return
    where = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_file(folder / file, {name: arrays[name] for name in names})
        where |= dict.fromkeys(names, file)
    size = sum(4 * math.prod(array.shape) for array in arrays.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(arrays: Mapping[str, np.ndarray | Lazy]) -> Iterator[list[str]]:
    names, size = [], 0
    for name, array in arrays.items():
        more = 4 * math.prod(array.shape)
        if names and size + more > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def write_file(file: epath.Path, arrays: Mapping[str, np.ndarray | Lazy]) -> None:
    """Writes float32 tensors to one file."""
    whole = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    file.write_bytes(safetensors.numpy.save(whole, metadata={"format": "pt"}))
