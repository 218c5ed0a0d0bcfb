"""`python -m mtl_t5x.tasks`: the listing, and examples as the model sees them."""

import pytest

from mtl_t5x.tasks import __main__
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue


@pytest.fixture(autouse=True)
def defaults():
    yield
    glue.register()
    decanlp.register()


def run(capsys, *arguments):
    status = __main__.main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_listing(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    for benchmark in (glue, decanlp):
        name = benchmark.BENCHMARK
        expected = {*benchmark.TASKS, "null", "default", "semantic", f"{name}.default.semantic"}
        expected |= {f"{name}_{task}.null.semantic" for task in benchmark.TASKS}
        assert expected <= set(out.split())
    assert {"diverse", "glue.diverse.distinct_letters"} <= set(out.split())
    assert "decanlp_all.null.semantic" in out.split()


def test_decanlp_from_files(capsys, shared):
    data = shared / "data/decanlp"
    arguments = ("decanlp_schema.default.semantic", f"--data={data}", "--split=test", "--count=1")
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    count = len(decanlp.rows(str(data), "schema", "test"))
    assert out.splitlines()[0] == f"decanlp_schema.default.semantic, split test: {count} examples"


def test_examples_as_the_model_sees_them(capsys):
    name = "glue_cola.default.semantic"
    status, out, _ = run(
        capsys, name, "--vocabulary_path=bytes", "--split=test", "--count=2",
        "--inputs_length=20", "--targets_length=8",
    )  # fmt: skip
    assert status == 0
    count = len(glue.rows("mini", "cola", "test"))
    lines = out.splitlines()
    assert lines[0] == f"{name}, split test: {count} examples"
    assert [line for line in lines if line.startswith("example")] == ["example 0", "example 1"]
    sentence = glue.rows("mini", "cola", "test")[0]["sentence"]
    full = f"cola sentence: {sentence}"
    assert f"  inputs: {full}" in lines
    ids = [byte + 3 for byte in full.encode()[:19]] + [1]
    assert f"    ids: {' '.join(map(str, ids))}" in lines
    assert f"    length: 20, cut from {len(full.encode()) + 1}" in lines
    # "acceptable" and "unacceptable" are longer than 7 bytes.
    assert any(line.startswith(f"targets: {count} of {count} examples (100.0 %)") for line in lines)


def test_mixture_leaves_out_tasks_without_the_split(capsys):
    status, out, _ = run(capsys, "glue.diverse.distinct_letters", "--split=validation", "--count=1")
    assert status == 0
    assert out.count("split validation") == 8
    assert "mnli_mismatched" not in out
    assert "▁" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["glue_cola.defualt.semantic"], "Did you mean 'default'?"),
        (["glue_mnli_mismatched.null.semantic"], "Unknown split 'train' of 'glue_mnli_mism"),
        (["--data=gone"], "DATA is 'gone'"),
        (["--vocabulary_path=gone"], "VOCABULARY_PATH is 'gone'"),
    ],
)
def test_errors(capsys, arguments, message):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert message in err
