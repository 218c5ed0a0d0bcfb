"""Run by sharding_test.py in a process of its own, with eight CPU devices: steps on every mesh.

python tests/parallel/eight_devices.py FOLDER [wide]
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import sys

if __name__ == "__main__":  # before JAX starts; what imports this file keeps its own devices
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from mtl_t5x import measure, step
from mtl_t5x.balance import balance
from mtl_t5x.data import heads
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures, decoding
from mtl_t5x.parallel import hlo, sharding
from mtl_t5x.runtime import compiled
from mtl_t5x.storage import checkpoints
from tests import random_t5

STEPS = 10
TASKS = tuple("abcdefgh")
KEY = jax.random.key(1)
CONFIG = dataclasses.replace(random_t5.CONFIG, num_encoder_layers=1, num_decoder_layers=1)
ADAMW = step.adamw(1e-2, 2, 20)
# AdamW takes full steps along gradients that are nothing but rounding, and of these there are many
# where every task has a decoder of its own.
SGD = optax.sgd(0.01, momentum=0.9)
ENCODER = (("encoder", one_pass.ENCODER),)
BOTH = (*ENCODER, ("decoder", "decoder/.*(kernel|rel_embedding)"))

TEXT = architectures.TextToText(CONFIG)
# Several layers, for loops over them.
LAYERS = architectures.TextToText(
    dataclasses.replace(CONFIG, num_encoder_layers=3, num_decoder_layers=2)
)
ONE_LAYER = (*BOTH, ("encoder/layers_1", "encoder/layers_1/.*kernel"))
KINDS = (
    heads.Classification(3),
    heads.Span(None),
    heads.Decoder(),
    heads.Regression(0.0, 5.0),
    heads.Span("none"),
    heads.Decoder(),
    heads.Classification(2),
    heads.Decoder(),
)
# By kind and name: the mesh and its devices, microbatches. `WIDE` runs with the slow tests.
RUNS = {
    "text": {
        "one device": {"mesh": None},
        "data 8": {"mesh": sharding.Mesh()},
        "fsdp 8": {"mesh": sharding.Mesh(fsdp=True)},
        "data 4 x model 2": {"mesh": sharding.Mesh(4, 2)},
    },
}
WIDE = {
    "text": {
        "one device": {"mesh": None},
        "one device, 4 microbatches": {"mesh": None, "microbatches": 4},
        "data 2 x model 4, remat": {"mesh": sharding.Mesh(2, 4), "remat": True},
        "fsdp 4 x model 2": {"mesh": sharding.Mesh(4, 2, fsdp=True)},
    },
    "text, 6 tasks": {
        "one device": {"mesh": None},
        "data 4, 2 microbatches": {"mesh": sharding.Mesh(), "devices": 4, "microbatches": 2},
    },
    "text, 2 tasks": {
        "one device": {"mesh": None},
        "fsdp 8, 2 microbatches": {"mesh": sharding.Mesh(fsdp=True), "microbatches": 2},
    },
    "text, layers": {
        "one device": {"mesh": None},
        "data 8, loop": {"mesh": sharding.Mesh(), "loop": True},
        "fsdp 8, loop": {"mesh": sharding.Mesh(fsdp=True), "loop": True, "remat": True},
        "fsdp 4, loop, 2 microbatches": {
            "mesh": sharding.Mesh(fsdp=True),
            "devices": 4,
            "loop": True,
            "microbatches": 2,
        },
        "fsdp 4 x model 2, loop": {"mesh": sharding.Mesh(4, 2, fsdp=True), "loop": True},
    },
    "text, 2 tasks, layers": {
        "one device": {"mesh": None},
        "fsdp 8, loop": {"mesh": sharding.Mesh(fsdp=True), "loop": True},
    },
    "id": {
        "one device": {"mesh": None},
        "data 8": {"mesh": sharding.Mesh()},
        "fsdp 4 x model 2": {"mesh": sharding.Mesh(4, 2, fsdp=True)},
    },
    "id, own embeddings": {
        "one device": {"mesh": None},
        "fsdp 4 x model 2": {"mesh": sharding.Mesh(4, 2, fsdp=True)},
    },
    "canonical": {
        "one device": {"mesh": None},
        "data 8": {"mesh": sharding.Mesh()},
        "data 4 x model 2, 2 microbatches": {"mesh": sharding.Mesh(4, 2), "microbatches": 2},
        "fsdp 8, loop": {"mesh": sharding.Mesh(fsdp=True), "loop": True},
    },
}
MODELS = {
    "text": (TEXT, 8, BOTH),
    "text, 6 tasks": (TEXT, 6, BOTH),
    "text, 2 tasks": (TEXT, 2, BOTH),
    "text, layers": (LAYERS, 8, ONE_LAYER),
    "text, 2 tasks, layers": (LAYERS, 2, ONE_LAYER),
    "id": (architectures.TextToTextID(CONFIG), 8, ENCODER),
    "id, own embeddings": (architectures.TextToTextID(CONFIG, own_embeddings=True), 8, ENCODER),
    "canonical": (architectures.Canonical(CONFIG, heads=KINDS), 8, ENCODER),
}


def a_batch(tasks: int) -> dict[str, np.ndarray]:
    batch = {name: np.asarray(value) for name, value in random_t5.batch(0, tasks, 8).items()}
    rng = np.random.default_rng(1)
    first = rng.integers(-1, 3, (tasks, 8))
    label = rng.integers(0, 2, (tasks, 8))
    batch[heads.FEATURE] = np.stack([label, first, first], axis=-1).astype(np.float32)
    return batch


def on_mesh(model, batch, mesh, devices=8, optimizer=ADAMW, chosen=step.SUM):
    """A fresh state, the placed batch and the layout."""
    made_of = {"model": model, "optimizer": optimizer, "balance": chosen}
    layout = mesh and step.state_layout(mesh, batch, 8, devices=jax.devices()[:devices], **made_of)
    state = step.init_state(jax.random.key(0), batch, layout=layout, **made_of)
    return (
        state,
        batch if layout is None else layout.place(batch, *batch["encoder_input_tokens"].shape[:2]),
        layout,
    )


def in_a_loop(model, remat=False):
    return model.clone(config=dataclasses.replace(model.config, scan_layers=True, remat=remat))


def train(
    model, tasks, groups, *, mesh, devices=8, microbatches=1, remat=False, loop=False,
    optimizer=ADAMW,
):  # fmt: skip
    config = dataclasses.replace(model.config, remat=remat, scan_layers=loop)
    model = model.clone(config=config)
    state, batch, layout = on_mesh(model, a_batch(tasks), mesh, devices, optimizer)
    step_fn = functools.partial(
        step.train_step, groups=groups, layout=layout, microbatches=microbatches
    )
    seen = {"loss": [], "gram": [], "directional": [], "magnitude": []}
    for _ in range(STEPS):
        state, metrics = step_fn(state, batch, KEY)
        seen["loss"].append(metrics["loss"])
        numbers = list(metrics["conflict"].values())
        for name in ("directional", "magnitude"):
            seen[name].append([group[name] for group in numbers])
        norms = np.stack([group["norms"] for group in numbers])
        cosine = np.stack([group["cosine"] for group in numbers])
        seen["gram"].append(cosine * norms[:, :, None] * norms[:, None, :])
    return state, {name: np.array(values) for name, values in seen.items()}


def traffic(mesh: sharding.Mesh, tasks: int, model=TEXT) -> dict[str, dict[str, float]]:
    """Bytes on the wire per device of the plain and the measuring step, by kind."""
    state, batch, layout = on_mesh(model, a_batch(tasks), mesh)
    sent = {}
    for name, groups in (("plain", ()), ("measuring", BOTH)):
        lowered = step.train_step.lower(state, batch, KEY, groups=groups, layout=layout)
        sent[name] = dict(hlo.traffic(lowered.compile().as_text(), 8).bytes)
    sent["parameters"] = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return sent


def restore(folder: pathlib.Path) -> dict[str, bool]:
    """Saves on eight devices, restores on fewer and on another mesh: are all leaves equal?"""
    model, tasks, groups = MODELS["text"]
    saved, _ = train(model, tasks, groups, mesh=sharding.Mesh(fsdp=True))
    with checkpoints.manager(str(folder / "run")) as manager:
        checkpoints.save(manager, saved)
        manager.wait_until_finished()
        equal = {}
        for name, mesh, devices in (
            ("4", sharding.Mesh(fsdp=True), 4),
            ("2 x 2", sharding.Mesh(2, 2), 4),
            ("2", sharding.Mesh(), 2),
            ("1", None, 1),
        ):
            state, _, layout = on_mesh(model, a_batch(tasks), mesh, devices)
            state = checkpoints.restore_latest(manager, state)
            pairs = zip(jax.tree.leaves(saved), jax.tree.leaves(state), strict=True)
            equal[name] = all(np.array_equal(a, b) for a, b in pairs)
            if layout is not None:
                expected = jax.tree.leaves(layout.shardings(state))
                found = [leaf.sharding for leaf in jax.tree.leaves(state)]
                equal[name] &= all(
                    a.is_equivalent_to(b, leaf.ndim)
                    for a, b, leaf in zip(expected, found, jax.tree.leaves(state))
                )
    return equal


def fixed_points() -> dict[str, dict]:
    """`measure.measure_batches` of two microbatches, by mesh and kind."""
    points = {}
    meshes = {"one device": None, "fsdp 8": sharding.Mesh(fsdp=True), "4 x 2": sharding.Mesh(4, 2)}
    for name, mesh in meshes.items():
        state, batch, layout = on_mesh(TEXT, a_batch(8), mesh)
        turned = {feature: value[:, ::-1] for feature, value in a_batch(8).items()}
        turned["encoder_input_tokens"] = np.roll(turned["encoder_input_tokens"], 1, axis=0)
        batches = [batch, turned if layout is None else layout.place(turned, 8, 8)]
        for kind, width in (("exact", None), ("sketched", 512)):
            settings = measure.Settings(examples=16, microbatch_size=8, sketch_width=width)
            points[f"{name}, {kind}"] = measure.measure_batches(
                state.params,
                random_t5.drawn(batches),
                model=TEXT,
                tasks=TASKS,
                settings=settings,
                layout=layout,
            )
    return points


def halves() -> dict[str, list]:
    """The Gram matrix of the halves of two tasks of eight examples: four devices share a task, and
    each has a half of its two. One device finds the same with the examples in that order."""
    batch, order = a_batch(2), [0, 2, 4, 6, 1, 3, 5, 7]
    ordered = {name: value[:, order] for name, value in batch.items()}
    found = {}
    for name, mesh, given in (("one device", None, ordered), ("data 8", sharding.Mesh(), batch)):
        state, placed, layout = on_mesh(TEXT, given, mesh)
        _, metrics = step.train_step(state, placed, KEY, groups=BOTH, layout=layout, halves=True)
        found[name] = [group["halves"].tolist() for group in metrics["conflict"].values()]
    return found


def weights() -> dict[str, list]:
    """The weights of five lagged steps of a method with a state, by mesh: `canonical` has heads,
    whose gradients aren't weighted."""
    chosen = balance.Balance(balance.GradNorm(learning_rate=0.1))
    model, tasks, _ = MODELS["canonical"]
    found = {}
    for name, mesh in (("one device", None), ("fsdp 4 x 2", sharding.Mesh(4, 2, fsdp=True))):
        state, batch, layout = on_mesh(model, a_batch(tasks), mesh, optimizer=SGD, chosen=chosen)
        found[name] = []
        for _ in range(5):
            state, metrics = step.train_step(state, batch, KEY, layout=layout, balance=chosen)
            found[name].append(metrics["balance"]["weights"].tolist())
    return found


def exact_updates() -> dict[str, dict[str, float]]:
    """The largest difference of any parameter after an exact step from one device's, whose second
    backward pass makes it, by the mesh that keeps the tasks' gradients and by the one that doesn't;
    of decoders of each task's own, and of heads."""
    meshes = {"data 8": sharding.Mesh(), "fsdp 4 x 2": sharding.Mesh(4, 2, fsdp=True)}
    exact = balance.Balance(balance.UPGrad(), applied="exact")
    kept = dataclasses.replace(exact, keep_gradients=True)
    found = {}
    for kind in ("id", "canonical"):
        model, tasks, _ = MODELS[kind]
        runs = {"one device": (None, exact), "one device, kept": (None, kept)}
        runs |= {f"{name}, kept": (mesh, kept) for name, mesh in meshes.items()}
        runs["data 8"] = (meshes["data 8"], exact)
        runs["fsdp 4 x 2, kept, loop"] = runs["fsdp 4 x 2, kept"]
        after = {}
        for name, (mesh, chosen) in runs.items():
            state, batch, layout = on_mesh(
                in_a_loop(model) if "loop" in name else model,
                a_batch(tasks), mesh, optimizer=SGD, chosen=chosen,
            )  # fmt: skip
            state, _ = step.train_step(state, batch, KEY, layout=layout, balance=chosen)
            after[name] = jax.device_get(state.params)
        one = after.pop("one device")
        found[kind] = {
            name: max(
                float(np.max(np.abs(a - b)))
                for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(one))
            )
            for name, params in after.items()
        }
    return found


def decoded() -> dict[str, float]:
    """Greedy decoding by eight devices against one: the same tokens, and a device's share."""
    state, _, layout = on_mesh(TEXT, a_batch(8), sharding.Mesh())
    inputs = np.asarray(a_batch(8)["encoder_input_tokens"]).reshape(64, -1)
    params, rows = layout.for_this_process(state.params)
    options = {"model": TEXT, "max_length": 6}

    def compiled(params, inputs):
        program = decoding.greedy.lower(params, inputs, None, **options).compile()
        return np.asarray(program(params, inputs, None)), program.cost_analysis()["flops"]

    several, each = compiled(params, jax.device_put(inputs, rows))
    one, whole = compiled(jax.device_get(state.params), inputs)
    return {"equal": bool(np.array_equal(several, one)), "flops_per_device": each / whole}


def main(folder: pathlib.Path, wide: bool) -> None:
    facts = {"shards": {}, "compilations": {}}
    for kind, runs in (WIDE if wide else RUNS).items():
        model, tasks, groups = MODELS[kind]
        optimizer = SGD if wide else ADAMW
        for name, settings in runs.items():
            compiled.make_room()
            before = step.train_step._cache_size()
            state, seen = train(model, tasks, groups, optimizer=optimizer, **settings)
            facts["compilations"][f"{kind}/{name}"] = step.train_step._cache_size() - before
            flat = flatten_dict(state.params, sep="/")
            np.savez(folder / f"{kind}-{name}.npz", **seen, **flat)
            facts["shards"][f"{kind}/{name}"] = [
                sum(leaf.addressable_shards[0].data.size for leaf in leaves)
                / sum(leaf.size for leaf in leaves)
                for leaves in (list(flat.values()), jax.tree.leaves(state.opt_state))
            ]
    facts["traffic"] = traffic(sharding.Mesh(fsdp=wide), 8)
    if wide:
        model = in_a_loop(LAYERS, remat=True)
        facts["traffic of a loop"] = traffic(sharding.Mesh(fsdp=True), 8, model)
        others = {
            "points": fixed_points,
            "halves": halves,
            "weights": weights,
            "exact updates": exact_updates,
        }
    else:
        others = {"restored": functools.partial(restore, folder), "decoded": decoded}
    for name, find in others.items():
        compiled.make_room()
        facts[name] = find()
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), wide=sys.argv[2:] == ["wide"])
