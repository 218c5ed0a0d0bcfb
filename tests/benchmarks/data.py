"""What a step's data takes: from the token cache against streamed by SeqIO, near and far.

python tests/benchmarks/data.py [--steps=200] [--rounds=9] [--qqp=GLUE_FOLDER]

Batches of the embedded benchmark's eight GLUE tasks, 16 examples of each. CPU seconds are the whole
process's. A start is all from the settings to the first batch: fingerprints, entries opened and
checked, examples counted. With --qqp, a folder of GLUE's TSVs, the training part of QQP is repeated
to 360,000 rows, and the start is timed of a first run, which computes its tokens, and of a second
one, in a process of its own, without the imports that every run has. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from unittest import mock

import numpy as np
import workbench  # noqa: F401, finds the package

from mtl_t5x.data import batching, counting, lookup, tokens
from mtl_t5x.tasks.glue import glue

LENGTHS = {"inputs": 128, "targets": 16}
BATCH = 16
FAR = 10_000
QQP_ROWS = 360_000


def start(tasks, cache: tokens.Cache, step: int) -> tuple[float, Iterator[Mapping]]:
    """(seconds to the first batch, the batches after it), as in a process that starts."""
    tokens.forget()
    began = time.perf_counter()
    counting.check(dict(zip(lookup.short_names(tasks), tasks, strict=True)), "train", LENGTHS,
                   BATCH, cache)  # fmt: skip
    batches = batching.train_batches(tasks, LENGTHS, BATCH, seed=0, start_step=step, cache=cache)
    next(batches)
    return time.perf_counter() - began, batches


def throughput(batches: Iterator[Mapping], steps: int, tasks: int) -> tuple[float, float]:
    """(examples per second, CPU seconds per 1,000 examples)."""
    next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(batches)
    examples = steps * tasks * BATCH
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return examples / wall, 1000 * cpu / examples


def streamed(tasks) -> Iterator[Mapping]:
    """As SeqIO gives them."""
    with mock.patch.object(tokens, "examples", return_value=None):
        return batching.train_batches(tasks, LENGTHS, BATCH, seed=0)


def start_of_qqp(folder: str, cache: str) -> float:
    """Seconds to the first batch of a process that starts, after its imports."""
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; import data\n"
        "data.glue.register(sys.argv[1])\n"
        "tasks = data.lookup.find_tasks('glue_qqp.default.semantic')\n"
        "print(data.start(tasks, data.tokens.Cache(sys.argv[2], progress=True), 0)[0])"
    )
    here = pathlib.Path(__file__).resolve()
    paths = [str(here.parent), str(here.parents[2])]
    command = [sys.executable, "-c", code, folder, cache, *paths]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def qqp_starts(folder: pathlib.Path) -> tuple[float, float]:
    """Of a first and of a second run on 360,000 rows."""
    header, *rows = (folder / "QQP" / "train.tsv").read_text().removesuffix("\n").split("\n")
    with tempfile.TemporaryDirectory() as name:
        repeated = pathlib.Path(name) / "QQP" / "train.tsv"
        repeated.parent.mkdir()
        wanted = -(-QQP_ROWS // len(rows)) * rows
        repeated.write_text("\n".join([header, *wanted[:QQP_ROWS]]) + "\n")
        first, second = (start_of_qqp(name, f"{name}/tokens") for _ in range(2))
    return first, second


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9, help="starts, near and far in turn")
    parser.add_argument("--qqp", type=pathlib.Path, help="a folder of GLUE's TSVs")
    arguments = parser.parse_args()

    glue.register()
    tasks = lookup.with_split(lookup.find_tasks("glue.default.semantic"), "train")
    with tempfile.TemporaryDirectory() as folder:
        cache = tokens.Cache(folder)
        built, _ = start(tasks, cache, 0)
        near, far = np.array(
            [[start(tasks, cache, step)[0] for step in (0, FAR)] for _ in range(arguments.rounds)]
        ).T
        _, batches = start(tasks, cache, 0)
        found = {"cached": throughput(batches, 10 * arguments.steps, len(tasks))}
        found["streamed"] = throughput(streamed(tasks), arguments.steps, len(tasks))
    for kind, (rate, cpu) in found.items():
        print(f"{kind:9} {rate:10,.0f} examples/s {cpu:8.4f} CPU s per 1,000 examples")
    print(f"start     {statistics.median(near):.3f} s at step 0, {statistics.median(far):.3f} s at "
          f"step {FAR:,}; {built:.1f} s where nothing is kept yet")  # fmt: skip
    result = {
        "cpu_cached_over_streamed": round(found["cached"][1] / found["streamed"][1], 4),
        "seek_over_start": round(statistics.median(far) / statistics.median(near), 3),
    }
    if arguments.qqp:
        first, second = qqp_starts(arguments.qqp)
        print(
            f"QQP       {QQP_ROWS:,} rows: {first:.1f} s the first start, {second:.1f} s the next"
        )
        result["qqp_second_start_seconds"] = round(second, 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
