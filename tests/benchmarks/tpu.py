r"""What steps take on TPUs, by their compiler's estimate: plain and measuring, of several sizes.

python tests/benchmarks/tpu.py [--sizes small base large] [--topologies v5e:2x4 v5e:4x4] \
    [--fsdp] [--replicated] [--halves]

Nothing is run, so no TPU is needed: the extra tpu-compiler is, and minutes for each program that
isn't known yet. Eight tasks of 16 examples, 256 + 16 tokens, in bf16. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pathlib
import tempfile

from mtl_t5x import main as mtl_t5x_main

EXAMPLE = "gin/examples/small_glue_text_to_text.gin"


def numbers(size: str, topology: str, bindings: list[str]) -> dict:
    """Of the plain and the measuring step, as `--dry_run_json` writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "numbers.json"
        with contextlib.redirect_stdout(io.StringIO()):
            mtl_t5x_main.run(
                [EXAMPLE, f"gin/models/t5_1_1_{size}.gin"],
                bindings,
                "dry_run",
                topology_name=topology,
                json_file=str(path),
            )
        return json.loads(path.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["small", "base", "large"])
    parser.add_argument(
        "--topologies", nargs="+", default=["v5e:2x4", "v5e:4x4", "v5p:2x2x2", "v6e:2x4"]
    )
    parser.add_argument("--fsdp", action="store_true", help="parameters in slices, too")
    parser.add_argument("--replicated", action="store_true", help="no state in slices")
    parser.add_argument("--halves", action="store_true", help="measures halves of batches")
    arguments = parser.parse_args()
    bindings = [
        f"sharding.Mesh.fsdp = {arguments.fsdp}",
        f"sharding.Mesh.shard_optimizer_state = {not arguments.replicated}",
        f"measure.InTraining.unbiased_window = {10 * arguments.halves}",
    ]
    found = []
    columns = ("plain", "measuring", "over plain", "sent", "memory")
    print(f"{'millions of cycles':24}" + "".join(f"{name:>12}" for name in columns), flush=True)
    for size in arguments.sizes:
        for topology in arguments.topologies:
            of_steps = numbers(size, topology, bindings)
            plain, measuring = of_steps["plain"], of_steps["measuring"]
            ratios = {name: measuring[name] / plain[name] for name in plain}
            values = [f"{step['cycles'] / 1e6:.2f}" for step in (plain, measuring)]
            values += [f"{ratios[name]:.3f}" for name in ("cycles", "sent_bytes", "hbm_bytes")]
            print(f"{size + ' ' + topology:24}" + "".join(f"{v:>12}" for v in values), flush=True)
            found.append({"size": size, **of_steps, "ratios": ratios})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
