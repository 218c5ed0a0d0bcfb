"""Readers of benchmark files, and rows in memory as a SeqIO source."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from mtl_t5x.tasks import sources
from mtl_t5x.tasks.glue import glue


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def numbers(dataset):
    return [int(example["idx"]) for example in dataset.as_numpy_iterator()]


@pytest.fixture
def source():
    rows = {
        "train": [{"idx": i, "text": f"row {i}", "score": i / 2} for i in range(500)],
        "test": [{"idx": 0, "text": "ü", "score": 1.0}],
    }
    return sources.rows_source(rows.__getitem__, ("train", "test"))


def test_rows_keep_order_types_and_split(source):
    examples = list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    assert [example["idx"] for example in examples] == list(range(500))
    assert examples[3]["text"] == b"row 3"
    assert examples[3]["idx"].dtype == np.int32
    assert examples[3]["score"].dtype == np.float32 and examples[3]["score"] == 1.5
    assert {example["split"] for example in examples} == {b"train"}
    assert source.num_input_examples("train") == 500
    assert source.splits == ("train", "test")


def test_lists_become_one_dimensional():
    rows = [{"answers": []}, {"answers": ["a", "b"]}, {"answers": ["c"]}]
    source = sources.rows_source(lambda split: rows, ("test",))
    got = [
        e["answers"].tolist() for e in source.get_dataset("test", shuffle=False).as_numpy_iterator()
    ]
    assert got == [[], [b"a", b"b"], [b"c"]]


def test_shuffle_is_complete_seeded_and_new_in_each_repetition(source):
    def order(seed):
        return numbers(source.get_dataset("train", shuffle=True, seed=seed).repeat(2))

    one = order(1)
    assert sorted(one[:500]) == sorted(one[500:]) == list(range(500))
    assert one == order(1)
    assert one != order(2)
    assert one[:500] != one[500:]
    # Rows travel far: with a small buffer the first row could not be late.
    assert abs(np.corrcoef(one[:500], range(500))[0, 1]) < 0.2


@pytest.mark.parametrize("shuffle", [False, True])
def test_hosts_share_no_row_and_leave_none_out(source, shuffle):
    shards = [
        numbers(source.get_dataset("train", shuffle, seed=0, shard_info=seqio.ShardInfo(i, 3)))
        for i in range(3)
    ]
    assert sorted(sum(shards, [])) == list(range(500))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_source_can_be_first_used_in_a_graph(source):
    @tf.function
    def first():
        return next(iter(source.get_dataset("test", shuffle=False)))["text"]

    assert first().numpy().decode() == "ü"
    assert numbers(source.get_dataset("test", shuffle=False)) == [0]


@pytest.mark.parametrize("count", [2, 19, 20, 39, 60, 1000])
def test_first_95_percent_train(count):
    rows = list(range(count))
    train = sources.train_or_validation(rows, "train")
    assert len(train) == int(np.floor(95 * count / 100))
    assert [*train, *sources.train_or_validation(rows, "validation")] == rows


def test_too_few_rows_to_split():
    with pytest.raises(ValueError, match=r"1 training row\(s\) cannot be split.*at least 2"):
        sources.train_or_validation([{"idx": 0}], "train")


def test_tsv_takes_columns_by_name_and_quotes_as_text(tmp_path):
    path = write(
        tmp_path / "a.tsv", '\ufeffid\ttext\tlabel\r\n7\t"lone\u2028quote\t1\r\n8\ta "" b\t0'
    )
    rows = sources.read_tsv(path, ("label", "text"))
    assert rows == [
        (2, {"label": "1", "text": '"lone\u2028quote'}),
        (3, {"label": "0", "text": 'a "" b'}),
    ]


def test_tsv_without_header(tmp_path):
    path = write(tmp_path / "a.tsv", "x\t1\ty\n")
    assert sources.read_tsv(path, ("c",), header=("a", "b", "c")) == [(1, {"c": "y"})]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"a\.tsv: the file is empty"),
        ("\ufeff", r"a\.tsv: the file is empty"),
        ("id\ttext\tlabel\n", r"a\.tsv: the file has a header but no rows"),
        (
            "id\ttext\n1\tx\n",
            r"a\.tsv:1: the header has no column 'label'. Expected .*text, label; found id, text",
        ),
        (
            "id\ttext\tlabel\n1\tx\t0\n2\ty\n",
            r"a\.tsv:3: expected at least 3 tab-separated columns \(id, text, label\), found 2\.",
        ),
        (
            "id\ttext\tlabel\n1\tx\n\n2\ty\n",
            r"a\.tsv:2: .*found 2\. So do 2 more lines: 3, 4\..*join or delete the lines",
        ),
    ],
)
def test_bad_tsv(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        sources.read_tsv(write(tmp_path / "a.tsv", text), ("text", "label"))


def test_not_utf8_names_line_and_offset(tmp_path):
    path = write(tmp_path / "a.tsv", "id\ttext\n1\tcafé\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"a\.tsv:2: not UTF-8 \(byte 0xe9 at offset 13\).*iconv"):
        sources.read_tsv(path, ("text",))


def test_absent_file_names_setting_and_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CoLA/dev\.tsv: no such file.*DATA"):
        sources.read_lines(tmp_path / "CoLA" / "dev.tsv")


def test_absent_folder_names_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"DATA is '.*gone'.*'mini'.*'tfds'"):
        sources.check_folder(str(tmp_path / "gone"))
    for data in ("mini", "tfds", str(tmp_path)):
        sources.check_folder(data)


def test_labels_and_scores(tmp_path):
    path = tmp_path / "a.tsv"
    assert sources.parse_label(" b ", ("a", "b"), path, 3) == 1
    assert sources.parse_score("2.5", 0, 5, path, 3) == 2.5
    with pytest.raises(ValueError, match=r"a\.tsv:3: the label 'c' is not one of 'a', 'b'\."):
        sources.parse_label("c", ("a", "b"), path, 3)
    for text in ("six", "5.1", "-1", "nan"):
        with pytest.raises(ValueError, match=rf"a\.tsv:3: the score '{text}' is not .* 0 to 5"):
            sources.parse_score(text, 0, 5, path, 3)


def test_tfds_rows_are_plain_python(monkeypatch):
    data = {"sentence": ["ä", "b"], "label": [0, 1], "idx": [0, 1]}
    loaded = []

    def load(name, split, shuffle_files):
        loaded.append((name, split, shuffle_files))
        return tf.data.Dataset.from_tensor_slices(data)

    monkeypatch.setattr(tfds, "load", load)
    sources.tfds_rows.cache_clear()
    rows = sources.tfds_rows("glue/cola", "train")
    assert rows == [
        {"sentence": "ä", "label": 0, "idx": 0},
        {"sentence": "b", "label": 1, "idx": 1},
    ]
    assert sources.tfds_rows("glue/cola", "train") is rows
    assert loaded == [("glue/cola", "train", False)]
    sources.tfds_rows.cache_clear()


def test_shuffled_tfds_rows_are_put_in_the_official_order(monkeypatch):
    order = np.random.default_rng(0).permutation(100)

    def shuffled(name, split):
        assert (name, split) == ("glue/cola", "train")
        return [{"sentence": f"line {i}", "label": int(i) % 2, "idx": int(i)} for i in order]

    monkeypatch.setattr(sources, "tfds_rows", shuffled)
    glue.official_rows.cache_clear()
    train, validation = (glue.rows("tfds", "cola", split) for split in ("train", "validation"))
    glue.official_rows.cache_clear()
    assert [row["sentence"] for row in train] == [f"line {i}" for i in range(95)]
    assert [row["idx"] for row in validation] == [95, 96, 97, 98, 99]
    for lost in ({}, {"idx": -1}, {"idx": 7}):
        rows = [{"label": 0} | lost] * 2
        monkeypatch.setattr(sources, "tfds_rows", lambda name, split, rows=rows: rows)
        with pytest.raises(ValueError, match="aren't numbered by `idx`.*set DATA to a folder"):
            sources.tfds_rows_by_idx("glue/cola", "train")


def test_a_cut_can_keep_neighbours_together():
    rows = [{"context": f"{i // 3}", "idx": i} for i in range(30)]
    train, validation = (
        sources.train_or_validation(rows, split, "context") for split in ("train", "validation")
    )
    # 95 % are 28 rows: the last paragraph begins with row 27.
    assert (len(train), len(validation)) == (27, 3)
    with pytest.raises(ValueError, match="cannot be split"):
        sources.train_or_validation(rows[:3], "train", "context")


def test_tfds_failure_names_setting(monkeypatch):
    def load(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds, "load", load)
    sources.tfds_rows.cache_clear()
    with pytest.raises(ValueError, match="DATA is 'tfds'.*'glue/cola', split 'train': no network"):
        sources.tfds_rows("glue/cola", "train")
