"""Measuring at a fixed point: against K jax.grad calls, and the original's way in PyTorch."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x import main, measure, step
from mtl_t5x.data import batching, lookup, padding
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures, pretrained
from mtl_t5x.tasks import vocabularies
from mtl_t5x.tasks.decanlp import decanlp
from tests import random_t5

TASKS = ("a", "b", "c")
CONFIG = dataclasses.replace(random_t5.CONFIG, num_encoder_layers=2, num_decoder_layers=1)
MODEL = architectures.TextToText(CONFIG)
SETTINGS = measure.Settings(examples=12, microbatch_size=4)
EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"


def microbatches(count=3):
    """Three of four examples are the same in every one: the gradient is more than its noise."""
    drawn = [random_t5.batch(seed, len(TASKS)) for seed in range(count)]
    return [
        {name: jnp.concatenate([drawn[0][name][:, :3], own[name][:, 3:]], axis=1) for name in own}
        for own in drawn
    ]


def at(params, settings=SETTINGS, **kwargs):
    drawn = random_t5.drawn(microbatches())
    return measure.measure_batches(
        params, drawn, model=MODEL, tasks=TASKS, settings=settings, **kwargs
    )


@pytest.fixture(scope="module")
def params():
    return random_t5.params(CONFIG)


def test_groups_have_one_order_in_every_process(params):
    """Processes that measured them in orders of their own would add up each other's groups."""
    layers = ["decoder/layers_0", "encoder/layers_0", "encoder/layers_1"]
    assert list(SETTINGS.names(MODEL, params)) == ["encoder", "decoder", *layers]
    of_decoder = SETTINGS.names(MODEL, params, "decoder/.*")
    assert list(of_decoder) == ["decoder", "decoder/layers_0"]


@pytest.fixture(scope="module")
def gradients(params):
    """Gradient of each microbatch and task by parameter: `[microbatch, task, *shape]`."""
    one = jax.jit(jax.grad(lambda p, batch: MODEL.apply({"params": p}, batch)[0]))
    by_microbatch = [
        [flatten_dict(one(params, {n: v[k : k + 1] for n, v in batch.items()}), sep="/")
         for k in range(len(TASKS))]
        for batch in microbatches()
    ]  # fmt: skip
    return {
        name: np.array([[task[name] for task in tasks] for tasks in by_microbatch], np.float64)
        for name in by_microbatch[0][0]
    }


def joined(gradients, names):
    flat = [gradients[name].reshape(*gradients[name].shape[:2], -1) for name in names]
    return np.concatenate(flat, -1)


def assert_figures(figures, means, small_squares, tolerance):
    """Each definition from the mean gradients [task, n] and the mean squared norms."""
    norms = np.linalg.norm(means, axis=1)
    units = means / norms[:, None]
    x = np.linalg.norm(units.mean(axis=0))
    by_task = {
        "norms": norms,
        "noise_trace": (small_squares - norms**2) / (1 / 4 - 1 / 12),
        "squared_norm": (12 * norms**2 - 4 * small_squares) / 8,
    }
    for name, values in by_task.items():
        error = np.abs(np.array(list(figures[name].values())) - values)
        assert np.all(error <= 5 * tolerance * small_squares), name
        assert tuple(figures[name]) == TASKS
    np.testing.assert_allclose(list(figures["norms"].values()), norms, rtol=tolerance)
    assert np.all(by_task["squared_norm"] > 0.1 * small_squares), "the test's gradients are noise"
    scales = by_task["noise_trace"] / by_task["squared_norm"]
    np.testing.assert_allclose(list(figures["noise_scale"].values()), scales, rtol=1e-3)
    assert figures["reference_directional"] == pytest.approx(x, rel=tolerance)
    assert figures["directional"] == pytest.approx(x**2 - 1 / 3, abs=tolerance)
    assert figures["reference_magnitude"] == pytest.approx(np.var(norms**2), rel=5 * tolerance)
    total = np.sum(means.sum(axis=0) ** 2)
    assert figures["magnitude"] == pytest.approx(np.mean((norms**2 - total) ** 2), rel=tolerance)
    np.testing.assert_allclose(figures["cosine"], units @ units.T, atol=tolerance)


@pytest.mark.slow
def test_every_group_against_separate_gradients(params, gradients):
    result = at(params)
    groups = SETTINGS.names(MODEL, params)
    layers = {"encoder/layers_0", "encoder/layers_1", "decoder/layers_0"}
    assert set(groups) == set(result["groups"]) == {"encoder", "decoder", *layers}
    for group, names in groups.items():
        gradient = joined(gradients, names)
        squares = np.sum(gradient**2, axis=-1).mean(axis=0)
        assert_figures(result["groups"][group], gradient.mean(axis=0), squares, 2e-5)
    assert not any("logits" in name for name in groups["decoder"]), "the output layer is no decoder"
    losses = [MODEL.apply({"params": params}, batch) for batch in microbatches()]
    np.testing.assert_allclose(list(result["loss"].values()), np.mean(losses, axis=0), rtol=1e-5)


def test_scaled_gradients(params, gradients):
    """With factors per parameter, as for the update's directions."""
    rng = np.random.default_rng(0)
    scale = jax.tree.map(lambda p: jnp.asarray(rng.uniform(0.5, 2, p.shape), jnp.float32), params)
    names = SETTINGS.names(MODEL, params)["encoder"]
    flat = flatten_dict(scale, sep="/")
    scaled = {name: gradients[name] * np.asarray(flat[name], np.float64) for name in names}
    gradient = joined(scaled, names)
    squares = np.sum(gradient**2, axis=-1).mean(axis=0)
    figures = at(params, scale=scale)["groups"]["encoder"]
    assert_figures(figures, gradient.mean(axis=0), squares, 2e-5)


@pytest.mark.parametrize("width", [None, 256])
def test_a_microbatch_in_parts(params, width):
    """Nothing but memory changes: the parts of a microbatch make up its one gradient."""
    settings = dataclasses.replace(SETTINGS, groups={"all": ".*query/kernel"}, sketch_width=width)
    tokens = microbatches()[0]["decoder_loss_weights"].sum(axis=2)
    assert len(np.unique(np.asarray(tokens[0]))) > 1, "parts count by their tokens"
    whole, in_parts = at(params, settings), at(params, settings, parts=2)
    for name, value in whole["loss"].items():
        assert in_parts["loss"][name] == pytest.approx(value, rel=1e-5)
    expected, found = whole["groups"]["all"], in_parts["groups"]["all"]
    for name in ("norms", "noise_trace", "squared_norm"):
        for task in TASKS:
            assert found[name][task] == pytest.approx(expected[name][task], rel=1e-4), name
    np.testing.assert_allclose(found["cosine"], expected["cosine"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "batch_size", "microbatches", "devices", "parts"),
    [
        (16, 4, 1, 1, 1),  # nothing says that more don't fit
        (16, 16, 4, 1, 4),
        (16, 64, 4, 1, 1),
        (16, 12, 4, 1, 8),  # of three at once only two make sixteen up
        (16, 16, 16, 4, 4),
    ],
)
def test_parts_are_no_larger_than_a_step_s(size, batch_size, microbatches, devices, parts):
    assert measure._parts(size, batch_size, microbatches, devices) == parts


def test_adam_scale():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(5, 7)), "scale": rng.normal(size=3)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    optimizer = step.adamw(1e-3, 1, 10, b2=0.9, eps=1e-3)
    opt_state = optimizer.init(params)
    grads = [jax.tree.map(lambda p, s=s: s * jnp.sin(p) / 100, params) for s in (1.0, -2.0)]
    for gradient in grads:
        _, opt_state = optimizer.update(gradient, opt_state, params)
    moments = jax.tree.map(lambda a, b: 0.1 * (0.9 * a**2 + b**2) / (1 - 0.9**2), *grads)
    expected = jax.tree.map(lambda v: 1 / (jnp.sqrt(v) + 1e-3), moments)
    clip = 5.0 / max(5.0, *(float(optax.tree.norm(gradient)) for gradient in grads))
    assert clip == 1.0, "the test's gradients are below the clip"
    for a, b in zip(jax.tree.leaves(step.adam_scale(opt_state)), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_sketches_of_microbatches_add_up(params):
    exact, cosines, errors = at(params)["groups"], [], []
    for width in (512, 4096):
        settings = dataclasses.replace(SETTINGS, sketch_width=width)
        figures = at(params, settings)["groups"]["encoder"]
        cosines.append(np.array(figures["cosine"]))
        errors.append(np.array(figures["cosine_error"]))
    expected, off = np.array(exact["encoder"]["cosine"]), np.triu_indices(3, 1)
    for cosine, error in zip(cosines, errors):
        assert np.all(np.abs(cosine - expected)[off] < 4.5 * error[off])
    assert errors[1][off].max() < 0.6 * errors[0][off].max()


def test_settings_that_can_not_work():
    with pytest.raises(ValueError, match="examples = 20 must be two microbatches at least"):
        measure.Settings(examples=20, microbatch_size=16)


def test_use_that_goes_past_the_probes(params):
    """Summed task gradients that aren't the gradient are noticed."""

    class Leaking(architectures.TextToText):
        def __call__(self, batch, **kwargs):
            losses = super().__call__(batch, **kwargs)
            kernel = self.encoder.variables["params"]["layers_0"]["mlp"]["wo"]["kernel"]
            return losses + jnp.sum(kernel**2)

    with pytest.raises(ValueError, match="layers_0/mlp/wo/kernel don't add up to the gradient"):
        measure.measure_batches(
            params,
            random_t5.drawn(microbatches()),
            model=Leaking(CONFIG),
            tasks=TASKS,
            settings=SETTINGS,
        )


def test_parameters_that_no_probe_reaches(params):
    def loss_fn(params, given):
        return jnp.stack([jnp.sum(params["w"]), 2 * jnp.sum(params["w"])]), None

    with pytest.raises(ValueError, match="conflict in w can't be measured"):
        one_pass.gradient_and_grams(loss_fn, {"w": jnp.ones(3)}, 2, {"all": ".*"})


@pytest.mark.slow
def test_command_on_a_runs_folder(tmp_path, capsys):
    """Training measures at a fixed point and runs unbiased metrics; afterwards its checkpoint."""
    bindings = [
        f'MODEL_DIR = "{tmp_path}"',
        'MIXTURE_OR_TASK_NAME = ["glue_cola.default.semantic", "glue_rte.default.semantic"]',
        'TASK_FEATURE_LENGTHS = {"inputs": 32, "targets": 4}',
        "TRAIN_STEPS = 4",
        "BATCH_SIZE = 4",
        "CONFLICT_PERIOD = 1",
        "LOG_PERIOD = 1",
        "step.adamw.warmup_steps = 1",
        "measure.Settings.examples = 32",
        "measure.InTraining.unbiased_window = 3",
        "measure.InTraining.fixed_point = @measure.Settings()",
        "measure.Settings.period = 2",
    ]
    main.run([EXAMPLE], bindings)
    at_two = json.loads((tmp_path / "conflict_2.json").read_text())
    assert (tmp_path / "conflict_0.json").exists() and not (tmp_path / "conflict_1.json").exists()
    assert at_two["step"] == 2 and at_two["tasks"] == ["cola", "rte"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.array(lines[2]["conflict/encoder/unbiased_gram"]).shape == (2, 2)
    for name in ("directional", "reference_magnitude", "covariance", "noise", "cosine"):
        logged = lines[2][f"conflict/fixed_point/encoder/{name}"]
        assert logged == at_two["groups"]["encoder"][name], name
    assert not any("fixed_point" in name for name in lines[1])
    for name in ("directional", "magnitude"):
        assert f"conflict/encoder/running_{name}_se" in lines[3]
    assert lines[0]["noise_trace/encoder/cola"] > 0
    main.run([EXAMPLE], bindings, run_mode="measure")
    written = json.loads((tmp_path / "conflict.json").read_text())
    assert written["step"] == 4 and "encoder/layers_1" in written["groups"]
    assert written["examples"] == {"cola": 32, "rte": 32}
    assert "step 4: 32 examples a task" in capsys.readouterr().out
    assert "TRAIN_STEPS = 4" in (tmp_path / "config.gin").read_text()
    # Beside a live run, whose unfinished save is there.
    saving = tmp_path / "checkpoint_5.orbax-checkpoint-tmp-7" / "state"
    saving.mkdir(parents=True)
    main.run([EXAMPLE], [*bindings, "measure.measure.update_directions = True"], "measure")
    assert saving.exists()
    directions = json.loads((tmp_path / "conflict.json").read_text())
    assert directions["of"] == "update directions"
    assert directions["groups"]["encoder"]["norms"] != written["groups"]["encoder"]["norms"]


def test_a_small_task_gives_each_example_once(params):
    """Of task b a third of the examples: the Gram matrix is that of its own mean gradient."""
    drawn = microbatches()
    options = {"model": MODEL, "tasks": TASKS, "settings": SETTINGS}
    tasks = [np.array([0, 1, 2]), *[np.array([0, 3, 2])] * 2]
    found = measure.measure_batches(params, list(map(batching.Drawn, drawn, tasks)), **options)
    # The same from batches in which task b's first microbatch is all that it ever shows.
    same = [
        {name: value.at[1].set(drawn[0][name][1]) for name, value in own.items()} for own in drawn
    ]
    expected = measure.measure_batches(params, random_t5.drawn(same), **options)
    for group, metrics in expected["groups"].items():
        for name in ("cosine", "directional", "magnitude", "reference_magnitude"):
            np.testing.assert_allclose(found["groups"][group][name], metrics[name], rtol=2e-5)
    assert found["examples"] == {"a": 12, "b": 4, "c": 12}
    encoder = found["groups"]["encoder"]
    # Of one microbatch there are no two sizes to tell noise from.
    assert encoder["noise_scale"]["b"] is None and encoder["noise_scale"]["a"] is not None
    assert encoder["unbiased_directional"] is None


def test_examples_are_drawn_anew_and_none_twice():
    """Of a task that has fewer than are asked for, all that make whole batches."""
    decanlp.register()
    names = ["decanlp_schema.default.semantic", "decanlp_sst.default.semantic"]
    tasks = lookup.find_tasks(names)
    sizes = [tasks[i].num_input_examples("train") for i in range(2)]
    assert sizes[0] < 2048

    lengths = {"inputs": 128, "targets": 16}

    def ids(seed, **options):
        found = [[], []]
        for batch, of_rows in batching.draw(tasks, lengths, 16, 2048, seed=seed, **options):
            for k, inputs, targets in zip(
                of_rows, batch["encoder_input_tokens"], batch["decoder_target_tokens"]
            ):
                for pair in zip(inputs, targets) if k < 2 else ():
                    kept = [row[row != 0] for row in pair]
                    found[k].append(np.concatenate([kept[0], [-1], kept[1]]).tobytes())
        return found

    assert len(batching.draw(tasks, lengths, 16, 2048, seed=0)) == min(2048, max(sizes)) // 16
    first, second = ids(0), ids(1)
    assert [len(of_task) for of_task in first] == [
        size // 16 * 16 for size in (sizes[0], min(2048, sizes[1]))
    ]
    assert ids(0) == first
    in_any_order = ids(0, any_order=True)
    assert [sorted(of_task) for of_task in in_any_order] == [sorted(of_task) for of_task in first]
    for k in range(2):
        everything = [
            np.concatenate([np.asarray(e["inputs"]), [-1], np.asarray(e["targets"])]).tobytes()
            for e in tasks[k].get_dataset(None, "train", shuffle=False).as_numpy_iterator()
        ]
        repeated_in_the_data = len(everything) - len(set(everything))
        assert len(set(first[k])) >= len(first[k]) - repeated_in_the_data
        assert first[k] != second[k]
    with pytest.raises(ValueError, match="schema.* has fewer examples than the 1801"):
        batching.draw(tasks, lengths, 1801, 3602, seed=0)


def test_rows_of_any_task_give_the_same(monkeypatch):
    """Rows of alike length together, which leaves out padding, against a row for each task."""
    monkeypatch.setitem(padding.STEPS, "encoder_input_tokens", (16, 2))
    decanlp.register()
    names = ["decanlp_sst.default.semantic", "decanlp_schema.default.semantic"]
    names.append("decanlp_iwslt.default.semantic")
    settings = measure.Settings(examples=64, microbatch_size=16, groups={"all": ".*query/kernel"})
    tasks, lengths = lookup.find_tasks(names), {"inputs": 64, "targets": 32}
    config = dataclasses.replace(CONFIG, vocab_size=vocabularies.size("mini"))
    params, model = random_t5.params(config), architectures.TextToText(config)
    found, shapes = [], []
    for any_order in (False, True):
        drawn = batching.draw(tasks, lengths, 16, 64, seed=0, any_order=any_order)
        shapes.append([batch["encoder_input_tokens"].shape[-1] for batch, _ in drawn])
        found.append(
            measure.measure_batches(params, drawn, model=model, tasks=TASKS, settings=settings)
        )
    assert min(shapes[1]) < 64 and shapes[1] == sorted(shapes[1], reverse=True)
    assert found[0]["examples"] == found[1]["examples"] == dict.fromkeys(TASKS, 64)
    for task in TASKS:
        assert found[1]["loss"][task] == pytest.approx(found[0]["loss"][task], rel=1e-5)
    figures = [result["groups"]["all"] for result in found]
    for name in ("norms", "noise_trace"):
        for task in TASKS:
            assert figures[1][name][task] == pytest.approx(figures[0][name][task], rel=1e-4), name
    np.testing.assert_allclose(figures[1]["cosine"], figures[0]["cosine"], atol=1e-5)


# The original, in PyTorch


@pytest.mark.reference
def test_agrees_with_the_original_way(tmp_path):
    """A backward pass per microbatch and task, gradients added up, flattened and compared."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = random_t5.randomise(random_t5.transformers_t5(CONFIG)).eval()
    model.save_pretrained(tmp_path)
    params = jax.tree.map(jnp.asarray, pretrained.load_params(tmp_path))

    encoder = [
        weight
        for name, weight in model.encoder.named_parameters()
        if "layer_norm" not in name and "embed_tokens" not in name
    ]

    def gradient(batch, task):
        inputs, targets = (
            torch.tensor(np.asarray(batch[name][task])).long()
            for name in ("encoder_input_tokens", "decoder_target_tokens")
        )
        model.zero_grad()
        labels = torch.where(targets == 0, -100, targets)
        model(input_ids=inputs, attention_mask=inputs != 0, labels=labels).loss.backward()
        return torch.cat([weight.grad.flatten() for weight in encoder]).double().numpy()

    rows = np.array([[gradient(batch, k) for k in range(len(TASKS))] for batch in microbatches()])
    figures = at(params)["groups"]["encoder"]
    squares = np.sum(rows**2, axis=-1).mean(axis=0)
    assert_figures(figures, rows.mean(axis=0), squares, 2e-4)
