"""What measuring costs: the time and the temporary memory of a measuring over a plain train step.

python tests/benchmarks/step.py [--size=mini|small] [--tasks=8] [--batch=4] [--rounds=40]

Both steps are `step.train_step` with AdamW, compiled ahead and run in turn in one process. The last
line is JSON.
"""

from __future__ import annotations

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


def main():
    arguments = workbench.parser(__doc__, rounds=None).parse_args()
    rounds = arguments.rounds or {"mini": 200, "small": 40}[arguments.size]

    compiled, state, batch = compiled_steps(arguments.size, arguments.tasks, arguments.batch)
    runs = {
        name: workbench.feeding_back(program, state, batch, jax.random.key(1))
        for name, program in compiled.items()
    }
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
