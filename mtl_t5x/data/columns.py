"""Examples as columns: for each feature one array of values, in memory or mapped from a file.

A file is a line of text, the length of a header, the header (JSON: where each array begins, its
type and shape, the checksum of what follows), and the arrays. It is written whole or not at all,
and a file that is cut off or changed is found out when it is opened.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath

from mtl_t5x.storage import files

MAGIC = b"mtl_t5x tokens 1\n"
ALIGNMENT = 64
AT_ONCE = 1024  # examples that are taken from TensorFlow at once, as Python takes long for each


class DamagedError(ValueError):
    """A file that isn't what was written."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A feature of every example, each an array of any shape; texts are bytes.

    Attributes:
      values: the numbers of all examples, [total]; of texts their bytes, uint8.
      ends: where each example ends in `values`, or in `text_ends`, [examples]; None: each has one.
      text_ends: where each text ends in `values`, [texts]; None: they are numbers.
      shapes: [examples, rank] of features of rank 2 and more, else None.
    """

    values: np.ndarray
    ends: np.ndarray | None = None
    text_ends: np.ndarray | None = None
    shapes: np.ndarray | None = None

    def __len__(self) -> int:
        items = self.values if self.text_ends is None else self.text_ends
        return len(items if self.ends is None else self.ends)

    def __getitem__(self, example: int) -> np.ndarray | np.generic | bytes:
        """As a tf.data iterator gives it as NumPy."""
        if self.ends is None:
            return self._items(example, example + 1)[0]
        items = self._items(*_span(self.ends, example))
        return items if self.shapes is None else items.reshape(self.shapes[example])

    def _items(self, start: int, stop: int) -> np.ndarray:
        if self.text_ends is None:
            return self.values[start:stop]
        texts = np.empty(stop - start, object)
        for i in range(start, stop):
            begin, end = _span(self.text_ends, i)
            texts[i - start] = self.values[begin:end].tobytes()
        return texts

    def tensor(self) -> tf.Tensor | tf.RaggedTensor:
        """[examples, …]: what `flat_batches` gives of all of them."""
        items = self._items(0, len(self.values if self.text_ends is None else self.text_ends))
        if self.ends is None:
            return tf.constant(items)
        limits = np.concatenate([np.zeros(1, np.int64), self.ends])
        return tf.RaggedTensor.from_row_splits(tf.constant(items), limits, validate=False)

    def longest(self) -> int:
        """The most numbers that an example has, of examples of rank 1."""
        return int(np.diff(self.ends, prepend=0).max(initial=0))

    def padded(self, examples: np.ndarray, length: int) -> np.ndarray:
        """[example, length], cut or filled up with 0, of examples of rank 1."""
        stops = self.ends[examples]
        starts = np.where(examples > 0, self.ends[examples - 1], 0)
        places = starts[:, None] + np.arange(length)
        inside = places < stops[:, None]
        filled = np.zeros(inside.shape, self.values.dtype)
        filled[inside] = self.values[places[inside]]
        return filled


Columns = Mapping[str, Column]


def _span(ends: np.ndarray, i: int) -> tuple[int, int]:
    return (int(ends[i - 1]) if i else 0), int(ends[i])


def storable(dataset: tf.data.Dataset) -> bool:
    """Whether all features are tensors of known rank, of numbers or texts."""
    spec = dataset.element_spec
    return isinstance(spec, dict) and all(
        isinstance(one, tf.TensorSpec)
        and one.shape.rank is not None
        and (one.dtype == tf.string or one.dtype.as_numpy_dtype in _NUMBERS)
        for one in spec.values()
    )


_NUMBERS = {
    *(np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32, np.float64),
}


def collect(batches: Iterable[Mapping[str, Any]], spec: Mapping[str, tf.TensorSpec]) -> Columns:
    """The columns of a dataset `flat_batches(dataset)`, whose features are as in `spec`."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray | None]]] = {}
    for batch in batches:
        for name, value in batch.items():
            parts.setdefault(name, []).append(_flat(value))
    columns = {}
    for name, one in spec.items():
        dtype = object if one.dtype == tf.string else one.dtype.as_numpy_dtype
        values, lengths = _join(parts.get(name, []), dtype)
        text_ends = None
        if dtype is object:
            text_ends = np.cumsum([len(text) for text in values], dtype=np.int64)
            values = np.frombuffer(b"".join(values), np.uint8)
        ends = None if one.shape.rank == 0 else np.cumsum(lengths, dtype=np.int64)
        shapes = None
        if one.shape.rank > 1:
            shapes, _ = _join(parts.get(_shape_of(name), []), np.int64)
            shapes = shapes.reshape(-1, one.shape.rank)
        columns[name] = Column(values, ends, text_ends, shapes)
    return columns


def flat_batches(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """AT_ONCE examples at a time, their features as vectors; what had more axes tells its shape."""

    def flatten(example):
        flat = {}
        for name, value in example.items():
            flat[name] = value if value.shape.rank == 0 else tf.reshape(value, [-1])
            if value.shape.rank > 1:
                flat[_shape_of(name)] = tf.shape(value, out_type=tf.int64)
        return flat

    return dataset.map(flatten, num_parallel_calls=tf.data.AUTOTUNE).ragged_batch(AT_ONCE)


def dataset(columns: Columns) -> tf.data.Dataset:
    """The examples, one at a time, as they were before `flat_batches`."""
    flat = {name: column.tensor() for name, column in columns.items()}
    flat |= {
        _shape_of(name): column.shapes
        for name, column in columns.items()
        if column.shapes is not None
    }

    def restore(example):
        return {
            name: example[name]
            if column.shapes is None
            else tf.reshape(example[name], example[_shape_of(name)])
            for name, column in columns.items()
        }

    return tf.data.Dataset.from_tensor_slices(flat).map(restore)


def _shape_of(name: str) -> str:
    return f"{name}/shape"


def _flat(value: tf.Tensor | tf.RaggedTensor) -> tuple[np.ndarray, np.ndarray]:
    """(values one after the other, how many each example has)."""
    if isinstance(value, tf.RaggedTensor):
        return value.flat_values.numpy(), value.row_lengths().numpy()
    array = value.numpy()
    each = int(np.prod(array.shape[1:]))
    return array.reshape(-1), np.full(len(array), each)


def _join(parts: list[tuple[np.ndarray, np.ndarray]], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    values, lengths = zip(*parts, strict=True) if parts else ((), ())
    return (
        np.concatenate([np.zeros(0, dtype), *values]),
        np.concatenate([np.zeros(0, np.int64), *lengths]),
    )


def join(parts: Sequence[Columns]) -> Columns:
    """The examples of several, one after the other."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in parts[0]:
        ones = [part[name] for part in parts]
        items = [one.values if one.text_ends is None else one.text_ends for one in ones]
        joined[name] = Column(
            np.concatenate([one.values for one in ones]),
            _shifted([one.ends for one in ones], items),
            _shifted([one.text_ends for one in ones], [one.values for one in ones]),
            None if ones[0].shapes is None else np.concatenate([one.shapes for one in ones]),
        )
    return joined


def _shifted(ends: Sequence[np.ndarray | None], items: Sequence[np.ndarray]) -> np.ndarray | None:
    if ends[0] is None:
        return None
    before = np.cumsum([0, *map(len, items)])
    return np.concatenate([one + start for one, start in zip(ends, before, strict=False)])


def write(path: epath.Path, columns: Columns, facts: Mapping[str, Any]) -> None:
    """Writes columns, and facts that JSON can hold, as one file.

    Raises:
      OSError: it can't be written; nothing is left of it.
    """
    arrays = {
        (name, field.name): getattr(column, field.name)
        for name, column in columns.items()
        for field in dataclasses.fields(Column)
        if getattr(column, field.name) is not None
    }
    entries, pieces, place, checksum = [], [], 0, 0
    for (name, field), array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
        entries.append([name, field, array.dtype.str, array.shape, place])
        place, checksum = place + len(data), zlib.crc32(data, checksum)
        pieces.append(data)
    header = json.dumps(
        {"facts": facts, "arrays": entries, "bytes": place, "checksum": checksum}
    ).encode()
    header += b" " * (-(len(MAGIC) + 16 + len(header)) % ALIGNMENT)
    sizes = np.array([len(header), zlib.crc32(header)], "<u8").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, b"".join([MAGIC, sizes, header, *pieces]))


def read(path: epath.Path) -> tuple[Columns, dict[str, Any]]:
    """(columns, facts) of a file: mapped into memory, or of a remote file read whole.

    Raises:
      FileNotFoundError: there is none.
      DamagedError: it isn't what was written.
      OSError: it can't be read.
    """
    if "://" in str(path):
        raw = np.frombuffer(path.read_bytes(), np.uint8)
    else:
        if not path.stat().length:
            raise DamagedError("it is empty")
        raw = np.memmap(path, np.uint8, "r")
    start = len(MAGIC) + 16
    if raw[: len(MAGIC)].tobytes() != MAGIC or len(raw) < start:
        raise DamagedError("it doesn't begin as such a file does")
    length, checksum = (int(one) for one in raw[len(MAGIC) : start].view("<u8"))
    header, body = raw[start : start + length].tobytes(), raw[start + length :]
    if zlib.crc32(header) != checksum:
        raise DamagedError("its header was cut off or changed")
    header = json.loads(header)
    if len(body) != header["bytes"] or zlib.crc32(body) != header["checksum"]:
        raise DamagedError("its values were cut off or changed")
    fields: dict[str, dict[str, np.ndarray]] = {}
    for name, field, dtype, shape, place in header["arrays"]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        array = body[place : place + size].view(dtype).reshape(shape)
        fields.setdefault(name, {})[field] = np.asarray(array)
    return {name: Column(**arrays) for name, arrays in fields.items()}, header["facts"]
