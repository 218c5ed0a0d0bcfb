r"""What weighting the tasks costs: the time and the temporary memory of weighted over plain steps.

python tests/benchmarks/balance.py [--size=mini|small] [--tasks=8] [--batch=4] [--rounds=40] \
    [--topology=v5e:2x4]

All steps are `step.train_step` with AdamW, compiled ahead and run in turn in one process: without
weights; with a method that acts by the Gram matrix, lagged, and exact by two passes and by keeping
the tasks' gradients; with a method that acts by the losses. With `--topology` nothing is run: the
TPU's compiler (the extra tpu-compiler) estimates each program's cycles. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile

import jax
import workbench

from mtl_t5x import main as mtl_t5x_main
from mtl_t5x import step
from mtl_t5x.balance import balance

EXAMPLE = "gin/examples/small_glue_text_to_text.gin"
METHOD, OF_LOSSES = balance.UPGrad(), balance.FAMO()
WAYS = {
    "plain": step.SUM,
    "lagged": balance.Balance(METHOD),
    "exact": balance.Balance(METHOD, applied="exact"),
    "exact_kept": balance.Balance(METHOD, applied="exact", keep_gradients=True),
    "losses": balance.Balance(OF_LOSSES),
}


def here(arguments: argparse.Namespace) -> dict[str, float]:
    """Time and memory over a plain step's on this machine."""
    batch = workbench.random_batch(arguments.size, arguments.tasks, arguments.batch)
    batch = jax.device_put(batch)
    runs, memory = {}, {}
    for name, chosen in WAYS.items():
        state = step.init_state(
            jax.random.key(0),
            batch,
            model=workbench.model(arguments.size),
            optimizer=step.adamw(1e-3, 10, 10_000),
            balance=chosen,
        )
        compiled = step.train_step.lower(state, batch, jax.random.key(1), balance=chosen).compile()
        memory[name] = workbench.temporary_mebibytes(compiled)
        runs[name] = workbench.feeding_back(compiled, state, batch, jax.random.key(1))
    seconds = workbench.interleaved(runs, arguments.rounds, arguments.budget)
    print(
        f"{arguments.size}: {arguments.tasks} tasks of {arguments.batch} examples, "
        f"{len(seconds['plain'])} rounds, {jax.devices()[0].device_kind}"
    )
    for name in WAYS:
        print(f"{name:10} {sorted(seconds[name])[len(seconds[name]) // 2] * 1e3:9.1f} ms (median) "
              f"{memory[name]:9.1f} MiB temporary")  # fmt: skip
    ratios = {
        name: workbench.median_ratio(seconds[name], seconds["plain"])
        for name in WAYS
        if name != "plain"
    }
    of_memory = {f"memory_{name}": memory[name] / memory["plain"] for name in ratios}
    return ratios | of_memory


def on_tpu(topology: str) -> dict[str, float]:
    """Cycles over a plain step's, by the TPU's compiler."""
    cycles = {}
    for name, chosen in WAYS.items():
        bindings = ["CONFLICT_PERIOD = 0"]
        if chosen.method is not None:
            bindings += [
                f"BALANCE = @{chosen.name}()",
                f"balance.Balance.applied = {chosen.applied!r}",
                f"balance.Balance.keep_gradients = {chosen.keep_gradients}",
            ]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "numbers.json"
            mtl_t5x_main.run(
                [EXAMPLE], bindings, "dry_run", topology_name=topology, json_file=str(path)
            )
            cycles[name] = json.loads(path.read_text())["plain"]["cycles"]
    return {name: count / cycles["plain"] for name, count in cycles.items() if name != "plain"}


def main():
    parser = workbench.parser(__doc__, rounds=40)
    parser.add_argument("--topology", default=None, help="TPUs that needn't be there, as v5e:2x4")
    arguments = parser.parse_args()
    ratios = here(arguments) if arguments.topology is None else on_tpu(arguments.topology)
    print(json.dumps({f"{name}_over_plain": round(ratio, 4) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
