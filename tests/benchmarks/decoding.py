r"""What decoding costs beside transformers' generation: greedy, with a cache, the same weights.

python tests/benchmarks/decoding.py [--size=mini|small] [--rows=16] [--tokens=64] [--rounds=5]

Random weights end no answer by chance soon, so every row is decoded to its last token by both, and
both choose the same ones: the benchmark stops where they don't. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np
import torch_ways
import workbench

from mtl_t5x.models import decoding


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(workbench.CONFIGS), default="mini")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of every answer")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    model = workbench.model(arguments.size)
    params = workbench.new_state(arguments.size).params
    inputs = workbench.random_batch(arguments.size, 1, arguments.rows)["encoder_input_tokens"][0]
    compiled = decoding.greedy.lower(
        params, inputs, model=model, max_length=arguments.tokens
    ).compile()
    generate = torch_ways.generation(model.config, params, inputs, arguments.tokens)
    runs = {
        "ours": lambda: np.asarray(compiled(params, inputs)),
        "transformers": generate,
    }
    np.testing.assert_array_equal(runs["ours"](), runs["transformers"]())
    seconds = workbench.interleaved(runs, arguments.rounds, warm_up=False)  # just done
    rows, length = inputs.shape
    print(
        f"{arguments.size}: {rows} rows of {length} + {arguments.tokens} tokens, "
        f"{arguments.rounds} rounds, {jax.devices()[0].device_kind}"
    )
    for name, values in seconds.items():
        print(f"{name:14} {np.median(values) / arguments.tokens * 1e3:8.2f} ms a token (median)")
    ratio = workbench.median_ratio(seconds["ours"], seconds["transformers"])
    print(json.dumps({"ours_over_transformers": round(ratio, 4)}))


if __name__ == "__main__":
    main()
