"""The token cache against what SeqIO itself gives, and against everything that can go wrong."""

import multiprocessing
import os
import re
import time

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mtl_t5x.data import batching, building, counting, lookup, tokens
from mtl_t5x.tasks import __main__ as tasks_main
from mtl_t5x.tasks import vocabularies
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue

LENGTHS = {"inputs": 24, "targets": 4}
FEATURE = seqio.Feature(vocabularies.load("bytes"), add_eos=True)
STEPS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]


def a_task(name="a", rows=("one", "two", "three"), preprocessors=(), source=None):
    """Rows that are their own targets; counts how often they are read, as `task.source.reads`."""
    reads = []

    def dataset(split, shuffle_files, seed=None):
        reads.append(split)
        return tf.data.Dataset.from_tensor_slices({"inputs": list(rows), "targets": list(rows)})

    source = source or seqio.FunctionDataSource(dataset, splits=["train"])
    source.reads = reads
    return seqio.Task(
        name, source, {"inputs": FEATURE, "targets": FEATURE}, [*preprocessors, *STEPS]
    )


def a_file_task(path, name="lines", preprocessors=()):
    to_text = seqio.map_over_dataset(lambda line: {"inputs": line, "targets": line})
    source = seqio.TextLineDataSource({"train": str(path)})
    return a_task(name, preprocessors=[to_text, *preprocessors], source=source)


def assert_as_seqio_gives_it(task, split, lengths, cache):
    stored = tokens.examples(task, split, lengths, cache)
    count = 0
    for count, expected in enumerate(  # noqa: B007
        task.get_dataset(lengths, split, shuffle=False).as_numpy_iterator(), 1
    ):
        found = stored[count - 1]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert type(found[name]) is type(value)
            assert np.asarray(found[name]).dtype == np.asarray(value).dtype
            np.testing.assert_array_equal(found[name], value)
    assert count == len(stored)
    return stored


def build_again(*arguments):
    """As another process would see it."""
    tokens.forget()
    return tokens.examples(*arguments)


@pytest.fixture
def cache(tmp_path):
    tokens.forget()
    return tokens.Cache(str(tmp_path / "tokens"))


def files_of(cache):
    return sorted(tokens.entries(cache.folder)[0])


MINI = [*(f"glue_{name}" for name in glue.TASKS), *(f"decanlp_{name}" for name in decanlp.TASKS)]
FAST = {"glue_rte", "glue_stsb", "decanlp_squad", "decanlp_woz"}  # a class, a number, texts


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in MINI]
)
def test_an_entry_is_what_seqio_gives(name, cache):
    (task,) = lookup.find_tasks(f"{name}.default.semantic")
    split = "validation" if "validation" in task.splits else "test"
    tokens.examples(task, split, LENGTHS, cache)
    tokens.forget()
    stored = assert_as_seqio_gives_it(task, split, LENGTHS, cache)
    assert isinstance(stored.features["inputs"].values.base, np.memmap)
    untrimmed = task.get_dataset(None, split, shuffle=False).as_numpy_iterator()
    expected = [(len(one["inputs"]), len(one["targets"])) for one in untrimmed]
    found = zip(stored.untrimmed["inputs"], stored.untrimmed["targets"])
    assert list(found) == expected


def test_shapes_types_and_empty_values(cache):
    def widen(example):
        return example | {
            "table": tf.reshape(tf.range(6.0), [2, 3])[:, : tf.strings.length(example["inputs"])],
            "words": tf.strings.bytes_split(example["inputs"]),
            "flag": tf.equal(example["inputs"], "one"),
            "none": tf.zeros([0], tf.int64),
        }

    task = a_task(rows=("one", "", "ü a"), preprocessors=[seqio.map_over_dataset(widen)])
    assert_as_seqio_gives_it(task, "train", LENGTHS, tokens.IN_MEMORY)


def test_every_row_is_read_and_tokenized_once(cache, tmp_path):
    path, tokenized = tmp_path / "lines.txt", []
    path.write_text("one\ntwo\nthree\n")

    def note(example):
        tokenized_now = tf.numpy_function(
            lambda line: (tokenized.append(line), line)[1], [example["inputs"]], tf.string
        )
        return example | {"inputs": tf.ensure_shape(tokenized_now, [])}

    task = a_file_task(path, preprocessors=[seqio.map_over_dataset(note)])
    building.build(task, "train", LENGTHS, progress=False)
    # Once for the entry; once more the first ones, which must be the same.
    assert len(tokenized) == 6
    next(batching.train_batches([task], LENGTHS, 2, seed=0))
    counting.count(task, "train", LENGTHS)
    assert len(tokenized) == 12


def test_another_run_reads_no_rows(cache, tmp_path, monkeypatch):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\nthree\n")
    task = a_file_task(path)
    first = [stored["inputs"].tolist() for stored in tokens.examples(task, "train", LENGTHS, cache)]
    monkeypatch.setattr(seqio.Task, "get_dataset", None)
    monkeypatch.setattr(seqio.TextLineDataSource, "get_dataset", None)
    again = build_again(a_file_task(path), "train", LENGTHS, cache)
    assert [stored["inputs"].tolist() for stored in again] == first
    assert len(files_of(cache)) == 1


def test_changed_data_are_read_anew(cache, tmp_path):
    path = tmp_path / "lines.txt"
    for text in ("one\ntwo\n", "one\nsix\n"):  # of one size
        path.write_text(text)
        os.utime(path, (0, 0))
        stored = build_again(a_file_task(path), "train", LENGTHS, cache)
        assert stored[1]["inputs_pretokenized"].decode() == text.split()[1]
    assert len(files_of(cache)) == 2


def test_the_lengths_count(cache, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one two three\n")
    for length in (4, 8):
        stored = build_again(a_file_task(path), "train", LENGTHS | {"inputs": length}, cache)
        assert len(stored[0]["inputs"]) == length
        assert stored.untrimmed["inputs"].tolist() == [14]


def test_a_source_that_cannot_be_told_stays_in_memory(cache, caplog):
    task = a_task()
    with caplog.at_level("INFO", logger="mtl_t5x"):
        for _ in range(2):
            assert_as_seqio_gives_it(task, "train", LENGTHS, cache)
    (line,) = [record.message for record in caplog.records if "aren't kept" in record.message]
    assert "what a FunctionDataSource holds can't be told" in line
    assert not files_of(cache)


def test_what_cannot_be_told_for_an_error_of_its_own_stays_in_memory(cache, caplog):
    class Odd:
        """A preprocessor that can't be looked into."""

        @property
        def __dict__(self):
            raise RuntimeError("odd")

        def __call__(self, dataset):
            return dataset

    path = cache.folder + ".txt"
    with open(path, "w") as file:
        file.write("one\ntwo\n")
    with caplog.at_level("INFO", logger="mtl_t5x"):
        assert_as_seqio_gives_it(a_file_task(path, preprocessors=[Odd()]), "train", LENGTHS, cache)
    assert "tokens aren't kept for other runs: odd" in caplog.text
    assert not files_of(cache)


# Streams


def upper_or_lower(example, seed):
    lower = tf.random.stateless_uniform([], seed) < 0.5
    text = example["inputs"]
    return example | {"inputs": tf.where(lower, tf.strings.lower(text), tf.strings.upper(text))}


def stateful(example):
    number = tf.strings.as_string(tf.random.uniform([], 0, 10**9, tf.int32))
    return example | {"inputs": example["inputs"] + number}


GENERATOR = np.random.default_rng(0)


def in_python(example):
    number = tf.numpy_function(lambda: str(GENERATOR.integers(10**9)), [], tf.string)
    return example | {"inputs": tf.ensure_shape(example["inputs"] + number, [])}


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([seqio.map_over_dataset(upper_or_lower, num_seeds=1)], "it draws at random"),
        ([seqio.map_over_dataset(stateful)], r"it draws at random \(RandomUniformInt\)"),
        ([lambda dataset: dataset.shuffle(9)], "it draws at random"),
        ([seqio.map_over_dataset(in_python)], "its examples are others each time"),
        ([lambda dataset: dataset.repeat()], "it has no end"),
    ],
)
def test_what_must_be_streamed_is_told(cache, caplog, steps, reason):
    task = a_task(rows=[f"row {i}" for i in range(20)], preprocessors=steps)
    with caplog.at_level("INFO", logger="mtl_t5x"):
        for _ in range(2):
            assert tokens.examples(task, "train", LENGTHS, cache) is None
    (line,) = [record.message for record in caplog.records if "streamed" in record.message]
    assert re.search(f"a train: streamed by SeqIO, not cached: {reason}", line)
    batches = batching.train_batches([task], LENGTHS, 4, seed=0, cache=cache)
    assert next(batches)["encoder_input_tokens"].shape == (1, 4, 24)


def test_a_stream_of_seqios_goes_on_where_it_was(cache):
    steps = [seqio.map_over_dataset(upper_or_lower, num_seeds=1)]
    task = a_task(rows=[f"row {i}" for i in range(20)], preprocessors=steps)
    batches = batching.train_batches([task], LENGTHS, 4, seed=0, cache=cache)
    whole = [next(batches)["encoder_input_tokens"] for _ in range(8)]
    later = batching.train_batches([task], LENGTHS, 4, seed=0, start_step=6, cache=cache)
    np.testing.assert_array_equal(next(later)["encoder_input_tokens"], whole[6])


# Prompts


@pytest.mark.slow
def test_every_prompt_is_stored_and_drawn_anew(cache):
    name = "glue_cola.diverse.semantic"
    (task,) = lookup.find_tasks(name)
    stored = tokens.examples(task, "train", LENGTHS, cache)
    assert stored.variants > 1
    expected = {
        (int(one["idx"]), int(one["template"])): one["inputs_pretokenized"]
        for seed in range(3)
        for one in task.get_dataset(LENGTHS, "train", shuffle=False, seed=seed).as_numpy_iterator()
    }
    for number in range(len(stored) * stored.variants):
        one = stored[number]
        variant, example = divmod(number, len(stored))
        assert (one["template"], one["idx"]) == (variant, example)
        text = expected.get((example, variant))
        assert text in (None, one["inputs_pretokenized"])
    assert len(expected) > len(stored)
    assert tokens.examples(task, "validation", LENGTHS, cache).variants == 1


# Bad input


def damaged(cache, tmp_path, caplog, change):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\nthree\n")
    # Not as views of what is about to be changed.
    stored = tokens.examples(a_file_task(path), "train", LENGTHS, cache)
    expected = [one["inputs"].tolist() for one in stored]
    (entry,) = files_of(cache)
    change(entry)
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        found = build_again(a_file_task(path), "train", LENGTHS, cache)
    assert [one["inputs"].tolist() for one in found] == expected
    return [record.message for record in caplog.records]


@pytest.mark.parametrize("place", [0, 20, 40, 200, -200, -1])
def test_a_changed_byte_is_found(cache, tmp_path, caplog, place):
    def change(entry):
        content = bytearray(entry.read_bytes())
        content[place] ^= 1
        entry.write_bytes(bytes(content))

    (message,) = damaged(cache, tmp_path, caplog, change)
    assert "is passed over and computed anew" in message
    # It is mended: another process finds nothing wrong.
    caplog.clear()
    build_again(a_file_task(tmp_path / "lines.txt"), "train", LENGTHS, cache)
    assert not caplog.records


@pytest.mark.parametrize("left", [0, 10, 100, 0.5])
def test_a_file_that_was_cut_off_is_found(cache, tmp_path, caplog, left):
    def change(entry):
        content = entry.read_bytes()
        entry.write_bytes(content[: left if left != 0.5 else len(content) // 2])

    (message,) = damaged(cache, tmp_path, caplog, change)
    assert "is passed over and computed anew" in message


def test_another_version_and_parts_of_a_killed_process_are_passed_over(cache, tmp_path, caplog):
    def change(entry):
        entry.rename(entry.with_name(entry.name.replace(tokens.VERSION, "v0")))
        for part, age in (("old", 2 * tokens.FORGOTTEN_AFTER), ("new", 0)):
            half = entry.with_name(f".{entry.name}.{part}")
            half.write_bytes(b"half")
            os.utime(half, (time.time() - age,) * 2)

    assert not damaged(cache, tmp_path, caplog, change)
    names = [path.name for path in files_of(cache)]
    assert len(names) == 3 and not any(name.endswith(".old") for name in names)


def test_a_folder_that_cannot_be_written(cache, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    nowhere = tokens.Cache(str(tmp_path / "file" / "tokens"))
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        assert_as_seqio_gives_it(a_file_task(path), "train", LENGTHS, nowhere)
    assert "the token cache can't be" in caplog.text and "CACHE_DIR" in caplog.text


def test_a_full_disk(cache, tmp_path, caplog, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mtl_t5x.storage.files.write_atomically", full)
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        assert_as_seqio_gives_it(a_file_task(path), "train", LENGTHS, cache)
    (record,) = caplog.records
    assert "No space left on device" in record.message


def _start(folder, path, barrier, answers):
    task = a_file_task(path)
    barrier.wait()
    stored = tokens.examples(task, "train", LENGTHS, tokens.Cache(folder))
    answers.put([one["inputs"].tolist() for one in stored])


@pytest.mark.slow
def test_processes_that_start_together_end_with_one_entry(cache, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"line {i}\n" for i in range(50)))
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_start, args=(cache.folder, path, barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    one, other = answers.get(timeout=120), answers.get(timeout=120)
    for process in processes:
        process.join()
    assert one == other and len(one) == 50
    (entry,) = files_of(cache)
    assert tokens.SUFFIX in entry.name
    found = list(tokens.examples(a_file_task(path), "train", LENGTHS, cache))
    assert [stored["inputs"].tolist() for stored in found] == one


def test_the_cache_is_cleared_and_nothing_else(cache, tmp_path, capsys):
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    tokens.examples(a_file_task(path), "train", LENGTHS, cache)
    other = files_of(cache)[0].with_name("thesis.txt")
    other.write_text("mine")
    assert tasks_main.main(["--clear_cache", f"--cache_dir={cache.folder}"]) == 0
    assert "removed 1 entries, 0.0 MB" in capsys.readouterr().out
    assert not files_of(cache) and other.exists()
    assert tasks_main.main(["--clear_cache", f"--cache_dir={tmp_path}/none"]) == 0


def test_progress_is_shown_once_it_takes_long(capsys, monkeypatch):
    monkeypatch.setattr(building, "SHOWN_AFTER", 0.0)
    task = a_task(rows=[f"row {i}" for i in range(3000)])
    building.build(task, "train", LENGTHS, progress=True)
    assert "tokens of a train" in capsys.readouterr().err
    building.build(task, "train", LENGTHS, progress=False)
    assert not capsys.readouterr().err


def test_it_is_said_how_big_the_cache_is(cache, caplog):
    with caplog.at_level("INFO", logger="mtl_t5x"):
        tokens.tell_size(tokens.Cache(cache.folder, progress=True))
        tokens.tell_size(cache)
        tokens.tell_size(tokens.IN_MEMORY)
    (record,) = caplog.records
    assert "holds 0 entries, 0.0 MB" in record.message and "--clear_cache" in record.message
