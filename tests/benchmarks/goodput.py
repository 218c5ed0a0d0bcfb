"""What saving costs: useful step time over wall time, with a save every 50 steps.

python tests/benchmarks/goodput.py [--size=small] [--tasks=8] [--batch=2] [--steps=100]
    [--period=50] [--ways=waiting,async]

Trains a T5 1.1 as `train.train` does, from gin, on the embedded benchmark. Wall time is that of the
training loop, from the end of the first step, which compiles, to the end of the last save. Useful
is, for every step, the mean time of the steps that no save ran beside: so neither the saves, the
waits for data and the logs count as useful, nor what a save in the background takes from the steps.
`waiting` saves before the next step, as is the default; `async` trains on while the checkpoint is
written. The last line is JSON: the goodput of each way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections import defaultdict
from unittest import mock

import jax

from mtl_t5x import evaluate, main, step
from mtl_t5x.data import batching
from mtl_t5x.storage import checkpoints

GLUE = ("cola", "rte", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb")


class Clock:
    """Seconds of every outermost call, by its name; from `begun` to `ended` the loop runs."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.begun = self.ended = 0.0
        self._inside = False
        self._checkpoints = None

    @contextlib.contextmanager
    def time(self, name: str):
        if self._inside:
            yield
            return
        self._inside, start = True, time.perf_counter()
        yield
        self._inside, self.ended = False, time.perf_counter()
        self.seconds[name].append(self.ended - start)

    def timed(self, name: str, function):
        def call(*args, **kwargs):
            with self.time(name):
                return jax.block_until_ready(function(*args, **kwargs))

        return call

    def train_step(self, *args, **kwargs):
        saving = self._checkpoints is not None and self._checkpoints.is_saving_in_progress()
        result = self.timed(BESIDE if saving else "step", _TRAIN_STEP)(*args, **kwargs)
        if not self.begun:
            self.begun = self.ended
            self.seconds.clear()
        return result

    def save(self, manager, state):
        self._checkpoints = manager
        with self.time("save"):
            _SAVE(manager, state)

    def train_batches(self, *args, **kwargs):
        batches = _TRAIN_BATCHES(*args, **kwargs)
        while True:
            with self.time("data"):
                batch = next(batches)
            yield batch


BESIDE = "step beside a save"
_TRAIN_STEP, _TRAIN_BATCHES, _SAVE = step.train_step, batching.train_batches, checkpoints.save


def run(size: str, way: str, tasks: int, batch: int, steps: int, period: int) -> float:
    """The goodput of one run; prints where the time went."""
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(step, "train_step", clock.train_step),
        mock.patch.object(batching, "train_batches", clock.train_batches),
        mock.patch.object(checkpoints, "save", clock.save),
        mock.patch.object(checkpoints, "finish", clock.timed("wait", checkpoints.finish)),
        mock.patch.object(evaluate, "evaluate", lambda *args, **kwargs: {}),
    ):
        bindings = {
            "MODEL_DIR": folder,
            "MIXTURE_OR_TASK_NAME": [f"glue_{name}.default.semantic" for name in GLUE[:tasks]],
            "TASK_FEATURE_LENGTHS": {"inputs": 128, "targets": 16},
            "DATA": "mini",
            "VOCABULARY_PATH": "mini",
            "INITIAL_CHECKPOINT_PATH": None,
            "TRAIN_STEPS": steps,
            "BATCH_SIZE": batch,
            "CHECKPOINT_PERIOD": period,
            "CONFLICT_PERIOD": 0,
            "t5.T5Config.dtype": "float32",
            "step.adamw.warmup_steps": 1,
            "checkpoints.Settings.asynchronous": way == "async",
            "checkpoints.Settings.keep": 1,
        }
        gin_file = f"gin/examples/{size}_glue_text_to_text.gin"
        main.run([gin_file], [f"{name}={value!r}" for name, value in bindings.items()])
    wall = clock.ended - clock.begun
    steps = clock.seconds["step"]
    mean, number = statistics.mean(steps), len(steps) + len(clock.seconds[BESIDE])
    spent = {name: sum(values) for name, values in clock.seconds.items()}
    spent["rest"] = wall - sum(spent.values())
    print(
        f"{size}, {way}: {number} steps of {mean:.3f} s (median {statistics.median(steps):.3f}) in "
        f"{wall:.1f} s; " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items()),
        flush=True,
    )
    return mean * number / wall


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("mini", "small"), default="small")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2, help="examples per task")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--period", type=int, default=50, help="steps between saves")
    parser.add_argument("--ways", default="waiting,async")
    arguments = parser.parse_args()
    settings = {name: value for name, value in vars(arguments).items() if name != "ways"}
    goodput = {way: round(run(way=way, **settings), 4) for way in arguments.ways.split(",")}
    print(json.dumps({"size": arguments.size, "period": arguments.period, **goodput}))


if __name__ == "__main__":
    _main()
