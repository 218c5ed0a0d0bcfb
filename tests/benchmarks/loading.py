r"""The memory that it takes to load a sharded checkpoint, over that of the model itself.

python tests/benchmarks/loading.py [--gigabytes=3] [--dtype=float32]

Writes a random Hugging Face checkpoint in shards to a temporary folder and reads it, as a run that
starts from it does, into a state without an optimizer. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import pathlib
import tempfile
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.flax import save_file

from mtl_t5x.models import architectures, huggingface, pretrained, t5
from mtl_t5x.storage import tensor_files

LAYER = {"emb_dim": 1024, "num_heads": 16, "head_dim": 64, "mlp_dim": 4096}


def resident() -> int:
    """Bytes of this process, mapped files too."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


class Peak:
    """The most that is resident while the block runs, looked at every millisecond."""

    def __enter__(self) -> Peak:
        self.before = self.most = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.most = max(self.most, resident())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def shapes_of(config: t5.T5Config) -> dict[str, jax.ShapeDtypeStruct]:
    ids = jnp.ones((1, 2), jnp.int32)
    model = architectures.TextToText(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, method="logits"))
    return flatten_dict(nn.meta.unbox(boxed)["params"], sep="/")


def of_size(size: int) -> t5.T5Config:
    """A T5 1.1 of as many layers as make its float32 parameters that many bytes."""
    layers = 1
    while True:
        config = t5.T5Config(
            vocab_size=32128, num_encoder_layers=layers, num_decoder_layers=layers, **LAYER
        )
        if bytes_of(shapes_of(config)) >= size:
            return config
        layers += 1


def bytes_of(shapes: dict[str, jax.ShapeDtypeStruct]) -> int:
    return sum(4 * shape.size for shape in shapes.values())


def write(folder: pathlib.Path, config: t5.T5Config, dtype: str) -> None:
    """Writes random shards of some 500 MB."""
    huggingface.write_config(config, folder, "T5ForConditionalGeneration")
    rng, where, shard, size, files = np.random.default_rng(0), {}, {}, 0, 0
    remaining = list(shapes_of(config).items())
    for i, (name, shape) in enumerate(remaining):
        array = rng.standard_normal(shape.shape[::-1], np.float32)
        if not name.endswith(("/kernel", "/rel_embedding")):
            array = array.reshape(shape.shape)
        shard[huggingface.name_of(name)] = jnp.asarray(array, dtype)
        size += array.nbytes
        if size > 5e8 or i == len(remaining) - 1:
            files += 1
            file = f"model-{files:05}.safetensors"
            save_file(shard, folder / file)
            where |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / tensor_files.INDEX).write_text(json.dumps({"weight_map": where}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    config = of_size(int(arguments.gigabytes * 1e9))
    shapes = shapes_of(config)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
        for name, leaf in shapes.items()
    }
    model, largest = bytes_of(shapes), max(4 * shape.size for shape in shapes.values())
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own: what it frees would hide what the loading takes.
        writing = multiprocessing.get_context("spawn").Process(
            target=write, args=(pathlib.Path(name), config, arguments.dtype)
        )
        writing.start()
        writing.join()
        shards = len(list(pathlib.Path(name).glob("*.safetensors")))
        begin = time.perf_counter()
        with Peak() as peak:
            params = pretrained.initial_params(name, unflatten_dict(shapes, sep="/"))
            jax.block_until_ready(params)
        seconds = time.perf_counter() - begin
    above = peak.most - peak.before
    found = {
        "model_bytes": model, "largest_tensor_bytes": largest, "shards": shards,
        "stored_as": arguments.dtype, "peak_bytes": above, "seconds": round(seconds, 1),
        "over_the_model_in_largest_tensors": round((above - model) / largest, 3),
    }  # fmt: skip
    print(f"peak {above / 1e9:.2f} GB for a model of {model / 1e9:.2f} GB in {seconds:.0f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
