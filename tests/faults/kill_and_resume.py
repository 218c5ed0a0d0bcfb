"""Kills a run at random moments, starts it again each time, and compares with one left in peace.

python tests/faults/kill_and_resume.py [--kills=50] [--seed=0] [--folder=DIR] [--gin.NAME=VALUE …]

SIGKILL falls anywhere in training, during saves as well, until the run has been killed so often;
then it ends by itself. The last line is JSON: kills, in_saves (those that left an unfinished
checkpoint), restarts, bit_equal (parameters, optimizer state, metrics, results and log of example
ids), lost_steps_max (steps that a restart did again), save_period and damaged (checkpoints that
were put aside).
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"
SAVE_PERIOD = 10
TASKS = ["glue_cola.default.semantic", "glue_rte.default.semantic"]


def command(folder: pathlib.Path, steps: int) -> list[str]:
    bindings = {
        "MODEL_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": TASKS,
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "TRAIN_STEPS": steps,
        "BATCH_SIZE": 2,
        "CONFLICT_PERIOD": 7,
        "LOG_PERIOD": 1,
        "CHECKPOINT_PERIOD": SAVE_PERIOD,
        "DROPOUT_RATE": 0.1,
        "step.adamw.warmup_steps": 2,
        "train.train.log_examples": True,
        "checkpoints.Settings.keep": 3,
        # A wide table makes the state large, and so a save as long as the steps between two.
        "t5.T5Config.vocab_size": 16384,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    return [sys.executable, "-m", "mtl_t5x.main", f"--gin_file={EXAMPLE}", *flags]


def start(
    folder: pathlib.Path, steps: int, *flags: str, messages: str = "output.txt", **environment: str
) -> subprocess.Popen:
    """The run as a process, with further flags and environment; its messages are in `messages`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Compiled programs are kept, so that a restart is quick.
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **environment,
    }
    with open(folder / messages, "ab") as output:
        return subprocess.Popen(
            [*command(folder, steps), *flags],
            cwd=ROOT, env=environment, stdout=output, stderr=output,
        )  # fmt: skip


def logged_steps(folder: pathlib.Path) -> int:
    """How many steps are in the log of examples: the last one's number, and one."""
    path = folder / "examples.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    whole = [line for line in lines[:-1] if line]
    return json.loads(whole[-1])["step"] + 1 if whole else 0


def wait_for_steps(process: subprocess.Popen, folder: pathlib.Path, steps: int) -> bool:
    """Waits until so many steps are logged; False where the process ended before."""
    while logged_steps(folder) < steps:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def kill_often(folder: pathlib.Path, steps: int, kills: int, seed: int, *flags: str) -> dict:
    """Runs to the end over so many kills; with further flags of the run."""
    draw = random.Random(seed)
    killed = in_saves = lost_most = 0
    while True:
        begun = logged_steps(folder)
        process = start(folder, steps, *flags)
        if killed < kills:
            # A restart does again what came after the last checkpoint: progress is by new steps,
            # as many as leave some for the kills to come.
            room = max(1, (steps - begun) // (kills - killed + 1))
            if wait_for_steps(process, folder, begun + draw.randint(1, 2 * room)):
                time.sleep(draw.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code == 0:
            return {
                "kills": killed,
                "in_saves": in_saves,
                "restarts": killed,
                "lost_steps_max": lost_most,
            }
        if code != -signal.SIGKILL:
            sys.exit(f"the run ended with {code}: {(folder / 'output.txt').read_text()[-3000:]}")
        killed += 1
        in_saves += any(folder.glob("checkpoint_*.orbax-checkpoint-tmp*"))
        lost_most = max(lost_most, logged_steps(folder) - newest_checkpoint(folder))


def newest_checkpoint(folder: pathlib.Path) -> int:
    return max((int(path.name.split("_")[1]) for path in whole_checkpoints(folder)), default=0)


def whole_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those that got their final name."""
    return [path for path in folder.glob("checkpoint_*") if path.name.split("_")[1].isdigit()]


def end_state(folder: pathlib.Path, steps: int) -> tuple:
    """Everything that must be equal: the arrays' bytes, the logs without times, the results."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    path = folder / f"checkpoint_{steps}" / "state"
    stored = dict(ocp.PyTreeCheckpointHandler().metadata(path))
    # Whatever processes and devices the run had.
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
    restored = ocp.PyTreeCheckpointer().restore(path, restore_args=args)
    arrays = {
        jax.tree_util.keystr(key): np.asarray(leaf).tobytes()
        for key, leaf in jax.tree_util.tree_leaves_with_path(restored)
    }
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        line.pop("examples_per_second", None)
    examples = (folder / "examples.jsonl").read_text()
    return arrays, metrics, examples, json.loads((folder / "results.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=None, help="of the run; enough by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=None)
    arguments, flags = parser.parse_known_args()  # those of the run
    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp())
    steps = arguments.steps or 20 * (arguments.kills + 1)

    peaceful = start(folder / "peaceful", steps, *flags)
    if code := peaceful.wait():
        output = (folder / "peaceful" / "output.txt").read_text()
        sys.exit(f"the undisturbed run ended with {code}: {output[-3000:]}")
    counts = kill_often(folder / "killed", steps, arguments.kills, arguments.seed, *flags)
    ends = [end_state(folder / name, steps) for name in ("peaceful", "killed")]
    names = ("state", "metrics", "examples", "results")
    differing = [name for name, a, b in zip(names, *ends, strict=True) if a != b]
    print(f"in {folder}; differing: {differing or 'nothing'}")
    damaged = len(list((folder / "killed").glob("damaged_*")))
    print(
        json.dumps(
            {**counts, "bit_equal": not differing, "save_period": SAVE_PERIOD, "damaged": damaged}
        )
    )


if __name__ == "__main__":
    main()
