"""What measuring costs: the time and the temporary memory of a measuring over a plain train step.

python tests/benchmarks/step.py [--size=mini|small] [--tasks=8] [--batch=4] [--rounds=40]

Both steps are `step.train_step` with AdamW, compiled ahead and run in turn in one process. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json

import jax
import workbench

from mtl_t5x import step


def compiled_steps(size: str, tasks: int, examples: int):
    """The plain and the measuring step, compiled, and what they take: state and batch."""
    state, batch = workbench.new_state(size), workbench.random_batch(size, tasks, examples)
    batch = jax.device_put(batch)
    compiled = {
        name: step.train_step.lower(state, batch, jax.random.key(1), groups=groups).compile()
        for name, groups in (("plain", ()), ("measuring", workbench.ENCODER_GROUPS))
    }
    return compiled, state, batch


def runner(compiled: jax.stages.Compiled, state, batch):
    """Runs the step on its own state, which it feeds back: the step reuses its buffers."""
    key = jax.random.key(1)
    states = [jax.tree.map(lambda leaf: leaf.copy(), state)]

    def run():
        state, metrics = compiled(states.pop(), batch, key)
        states.append(state)
        jax.block_until_ready((state, metrics))

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(workbench.CONFIGS), default="mini")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="examples per task")
    parser.add_argument("--rounds", type=int, default=None, help="pairs of steps")
    parser.add_argument("--budget", type=float, default=400.0, help="seconds at most")
    arguments = parser.parse_args()
    rounds = arguments.rounds or {"mini": 200, "small": 40}[arguments.size]

    compiled, state, batch = compiled_steps(arguments.size, arguments.tasks, arguments.batch)
    runs = {name: runner(program, state, batch) for name, program in compiled.items()}
    del state
    seconds = workbench.interleaved(runs, rounds, arguments.budget)
    ratio = workbench.median_ratio(seconds["measuring"], seconds["plain"])
    memory = {name: workbench.temporary_mebibytes(program) for name, program in compiled.items()}
    print(
        f"{arguments.size}: {arguments.tasks} tasks of {arguments.batch} examples, "
        f"{len(seconds['plain'])} pairs, {jax.devices()[0].device_kind}"
    )
    for name in compiled:
        print(f"{name:10} {sorted(seconds[name])[len(seconds[name]) // 2] * 1e3:9.1f} ms (median) "
              f"{memory[name]:9.1f} MiB temporary")  # fmt: skip
    print(
        json.dumps(
            {
                "size": arguments.size,
                "measuring_over_plain": round(ratio, 4),
                "memory_over_plain": round(memory["measuring"] / memory["plain"], 4),
            }
        )
    )


if __name__ == "__main__":
    main()
