"""Where examples come from: readers of benchmark files, and rows in memory as a SeqIO source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

Row = dict[str, Any]


class RowsSource(seqio.DataSource):
    """Rows held in memory; see `rows_source`."""

    def __init__(
        self,
        load: Callable[[str], Sequence[Row]],
        splits: Iterable[str],
        dropped: Callable[[str], Mapping[str, int]],
        content: Callable[[str], Any] | None,
    ):
        super().__init__(splits=splits)
        self._load = load
        self.dropped = dropped
        self._content = content
        self._columns: dict[str, dict[str, tf.Tensor | tf.RaggedTensor]] = {}

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def num_input_examples(self, split: str) -> int:
        return len(self._load(split))

    def content(self, split: str) -> Any:
        """What a split's rows depend on, for `data.fingerprint`: unless told, the rows."""
        if self._content is None:
            return self._load(split)
        return self._load, self._content(split)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Returns this shard's rows; `sequence_length`, `use_cached`, `num_epochs` are unused."""
        if split not in self._columns:
            # Not inside whatever graph the caller may be tracing: the tensors are kept.
            with tf.init_scope():
                self._columns[split] = _columns(self._load(split), split)
        columns = self._columns[split]
        # Numbers are sharded and shuffled, rows fetched after: hosts never share a row, the
        # shuffle is complete, and a saved iterator holds numbers instead of texts.
        numbers = tf.data.Dataset.range(self.num_input_examples(split))
        if shard_info:
            numbers = numbers.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            numbers = numbers.shuffle(max(1, self.num_input_examples(split)), seed=seed)
        return numbers.map(
            lambda number: (
                {name: column[number] for name, column in columns.items()}
                | {"split": tf.constant(split)}
            )
        )


def _none_dropped(split: str) -> Mapping[str, int]:
    del split
    return {}


def rows_source(
    load: Callable[[str], Sequence[Row]],
    splits: Iterable[str],
    dropped: Callable[[str], Mapping[str, int]] = _none_dropped,
    content: Callable[[str], Any] | None = None,
) -> seqio.DataSource:
    """Makes a SeqIO source of rows in memory.

    Every row has the same fields; a value is a str, an int, a float, or a list of one of these.
    Examples carry them as string, int32, float32 or 1-d tensors, and besides `split`, the name of
    their split, which SeqIO does not tell preprocessors. With `shuffle` the order is a complete
    permutation, drawn from the seed and anew in each repetition; host i of n gets the rows
    i, i + n, i + 2n, ….

    Args:
      load: from the name of a split to its rows. Called when a split is asked for, more than
        once: it should keep what it has read.
      splits: the names of the splits.
      dropped: from the name of a split to how many rows were left out, by the reason.
      content: from the name of a split to what its rows depend on besides the code of `load`, such
        as its files by `fingerprint.of_file`, so that the token cache needn't read them; without
        it the rows are loaded and told themselves.
    """
    return RowsSource(load, splits, dropped, content)


def _columns(rows: Sequence[Row], split: str) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    if not rows:
        raise ValueError(f"The split {split!r} has no rows.")
    columns = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(first, list):
            item = next((item for value in values for item in value), "")
            columns[name] = tf.ragged.constant(values, dtype=_dtype(item), ragged_rank=1)
        else:
            columns[name] = tf.constant(values, dtype=_dtype(first))
    return columns


def _dtype(value: str | int | float) -> tf.DType:
    dtypes = {str: tf.string, int: tf.int32, float: tf.float32}
    if type(value) not in dtypes:
        raise ValueError(f"A row holds {value!r}; fields are str, int, float, or lists of these.")
    return dtypes[type(value)]


def train_or_validation(
    official_train: Sequence[Row], split: str, together: str | None = None
) -> Sequence[Row]:
    """Cuts an official train split: `train` is its first 95 %, `validation` the last 5 %.

    Args:
      official_train: its rows, in the official order.
      split: "train" or "validation".
      together: a field; neighbours that have it in common stay together, in `validation` where
        the cut would fall between them.
    """
    cut = len(official_train) * 95 // 100
    while together and cut and official_train[cut][together] == official_train[cut - 1][together]:
        cut -= 1
    if cut == 0:
        raise ValueError(
            f"{len(official_train)} training row(s) cannot be split into 95 % for training and "
            "5 % for validation: at least 2 are needed."
        )
    return official_train[:cut] if split == "train" else official_train[cut:]


def check_folder(data: str) -> None:
    """Raises FileNotFoundError where the setting DATA names neither a source nor a folder."""
    if data not in ("mini", "tfds") and not epath.Path(data).is_dir():
        raise FileNotFoundError(
            f"DATA is {data!r}, but there is no such folder. Write DATA = 'mini' (the embedded "
            "benchmark), 'tfds' (TensorFlow Datasets), or the path of a folder with the "
            "benchmark's official files."
        )


def read_lines(path: epath.Path) -> list[str]:
    """Reads a UTF-8 file's lines, without a byte order mark and without line ends.

    Only a line feed ends a line: benchmark texts hold other characters that Python splits at.

    Raises:
      FileNotFoundError: no such file; names the setting DATA.
      ValueError: the file is empty, or not UTF-8 (with the line and the byte's offset).
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. The setting DATA names a folder that must hold it, as in the "
            "benchmark's official download."
        )
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x} at offset "
            f"{error.start}). Convert the file, e.g. with `iconv -f LATIN1 -t UTF-8`."
        ) from error
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise ValueError(f"{path}: the file is empty; rows were expected.")
    return lines


def read_tsv(
    path: epath.Path, columns: Sequence[str], header: Sequence[str] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Reads some columns of a tab-separated file, found by the names in its header.

    Quotation marks are text: fields are what stands between tabs.

    Args:
      path: the file.
      columns: the names of the wanted columns.
      header: the names of all columns, for a file without a header line.

    Returns:
      For each row its line number (from 1) and its wanted columns.

    Raises:
      FileNotFoundError, ValueError: as `read_lines`; besides for an absent column, for rows with
        too few columns (all their lines are named), and for a file that has only a header.
    """
    lines = read_lines(path)
    first = 0
    if header is None:
        header, first = lines[0].split("\t"), 1
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(
            f"{path}:1: the header has no column {', '.join(map(repr, absent))}. Expected the "
            f"columns {', '.join(columns)}; found {', '.join(header)}."
        )
    if len(lines) == first:
        raise ValueError(f"{path}: the file has a header but no rows.")
    places = {name: header.index(name) for name in columns}
    needed = max(places.values()) + 1
    rows, short = [], []
    for number, line in enumerate(lines[first:], first + 1):
        cells = line.split("\t")
        if len(cells) < needed:
            short.append((number, len(cells)))
        else:
            rows.append((number, {name: cells[place] for name, place in places.items()}))
    if short:
        _raise_short(path, short, header, needed)
    return rows


def _raise_short(
    path: epath.Path, short: Sequence[tuple[int, int]], header: Sequence[str], needed: int
) -> None:
    number, found = short[0]
    others = ", ".join(str(line) for line, _ in short[1:101])
    more = ", …" if len(short) > 101 else ""
    raise ValueError(
        f"{path}:{number}: expected at least {needed} tab-separated columns "
        f"({', '.join(header[:needed])}), found {found}."
        + (f" So do {len(short) - 1} more lines: {others}{more}." if others else "")
        + " Often a line break inside a text has cut such a row in two: join or delete the lines."
    )


def parse_label(text: str, allowed: Sequence[str], path: epath.Path, number: int) -> int:
    """Returns the class index of a label as the file writes it.

    Raises:
      ValueError: it is not among `allowed`; names file, line, value and the allowed values.
    """
    try:
        return allowed.index(text.strip())
    except ValueError:
        raise ValueError(
            f"{path}:{number}: the label {text!r} is not one of {', '.join(map(repr, allowed))}."
        ) from None


def parse_score(text: str, low: float, high: float, path: epath.Path, number: int) -> float:
    """Returns a score as a float.

    Raises:
      ValueError: it is not a number in [low, high]; names file, line, value and the range.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(
            f"{path}:{number}: the score {text!r} is not a number from {low:g} to {high:g}."
        )
    return value


@functools.cache
def tfds_rows(name: str, split: str) -> list[Row]:
    """Loads one split of a TensorFlow Datasets config as Python rows; texts become str.

    Raises:
      ValueError: TensorFlow Datasets cannot give it; names the setting DATA.
    """
    import tensorflow_datasets as tfds  # slow to import, and asked for by DATA = 'tfds' alone

    try:
        dataset = tfds.load(name, split=split, shuffle_files=False)
    except Exception as error:  # whatever the download or the preparation raises
        raise _no_tfds(name, split, error) from error
    return [{key: _python(value) for key, value in row.items()} for row in tfds.as_numpy(dataset)]


def tfds_rows_by_idx(name: str, split: str) -> list[Row]:
    """The rows of `tfds_rows` in the order of the official file.

    TensorFlow Datasets stores them shuffled; their field `idx` is the number of the file's row.

    Raises:
      ValueError: as `tfds_rows`; besides where rows have no `idx`, or one of another row.
    """
    loaded = tfds_rows(name, split)
    numbers = {row.get("idx") for row in loaded}
    if len(numbers) < len(loaded) or numbers & {None, -1}:
        raise ValueError(
            f"DATA is 'tfds', but the rows of {name!r}, split {split!r}, aren't numbered by `idx`, "
            "so that their official order, by which training and validation are cut, is lost: set "
            "DATA to a folder with the official files."
        )
    return sorted(loaded, key=lambda row: row["idx"])


def tfds_content(name: str, split: str) -> Any:
    """What tells one version of a split of a TensorFlow Datasets config from another.

    Raises:
      ValueError: as `tfds_rows`.
    """
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder(name).info
        part = info.splits[split]
        return info.full_name, split, part.num_examples, part.num_bytes, part.shard_lengths
    except Exception as error:
        raise _no_tfds(name, split, error) from error


def _no_tfds(name: str, split: str, error: Exception) -> ValueError:
    return ValueError(
        f"DATA is 'tfds', but TensorFlow Datasets cannot load {name!r}, split {split!r}: "
        f"{error}. Prepare it where there is a network (`tfds build {name}`), or set DATA to "
        "'mini' or to a folder with the official files."
    )


def _python(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _python(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        plain = value.tolist()
        return [_python(item) for item in plain] if isinstance(plain, list) else _python(plain)
    return value
