"""A step: what it updates, what it reports, what a step that measures nothing leaves out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict

from mtl_t5x import step
from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import one_pass, probes
from mtl_t5x.models import architectures
from tests import random_t5

TASKS = 3
CONFIG = dataclasses.replace(random_t5.CONFIG, num_encoder_layers=1, num_decoder_layers=1)
MODEL = architectures.TextToText(CONFIG)
GROUPS = (("encoder", one_pass.ENCODER), ("decoder", "decoder/.*"))
KEY = jax.random.key(0)


def new_state(optimizer, model=MODEL):
    """A state of its own: a step reuses the buffers of the one that it is given."""
    return TrainState.create(
        apply_fn=model.apply, params=random_t5.params(CONFIG), tx=optimizer
    ).replace(step=jnp.int32(0))


def assert_params_close(actual, expected, tolerance=1e-6):
    actual, expected = flatten_dict(actual, sep="/"), flatten_dict(expected, sep="/")
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.fixture(scope="module")
def batch():
    return random_t5.batch(0, TASKS)


@functools.lru_cache
def sgd():
    return optax.sgd(0.1)


# The update


@pytest.fixture(scope="module")
def plain_gradient(batch):
    """Of the summed loss, without any of this project's gradient code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "dot", lambda x, weight, probe: x @ weight)
        patch.setattr(probes, "spread", lambda weight, probe: weight)
        gradient = jax.jit(jax.grad(lambda p: MODEL.apply({"params": p}, batch).sum()))
        return gradient(random_t5.params(CONFIG))


@pytest.mark.parametrize("groups", [(), GROUPS])
def test_update_is_that_of_the_summed_loss(batch, plain_gradient, groups):
    params = random_t5.params(CONFIG)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, plain_gradient)
    state, metrics = step.train_step(new_state(sgd()), batch, KEY, groups=groups)
    assert_params_close(state.params, expected)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(plain_gradient), rtol=1e-5)
    assert int(state.step) == 1


def test_measuring_changes_no_update(batch):
    """Three steps of AdamW, whose moments remember every gradient."""
    optimizer = step.adamw(1e-3, 2, 10)
    measuring, plain = new_state(optimizer), new_state(optimizer)
    for _ in range(3):
        measuring, _ = step.train_step(measuring, batch, KEY, groups=GROUPS)
        plain, _ = step.train_step(plain, batch, KEY)
    assert_params_close(measuring.params, plain.params)


def test_metrics_are_of_the_state_before_the_update(batch):
    state, metrics = step.train_step(new_state(sgd()), batch, KEY, groups=GROUPS)
    assert set(metrics) == {"loss", "grad_norm", "learning_rate", "conflict"}

    def loss_fn(params, given):
        return MODEL.apply({"params": params, "probes": given}, batch), None

    (losses, _), _, task_gradients = jax.jit(
        lambda params: one_pass.per_task_gradients(loss_fn, params, TASKS, one_pass.ENCODER)
    )(random_t5.params(CONFIG))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    rows = np.concatenate([a.reshape(TASKS, -1) for a in task_gradients.values()], axis=1)
    assert set(metrics["conflict"]) == {"encoder", "decoder"}
    for name, value in conflict_metrics.all_metrics(jnp.asarray(rows @ rows.T)).items():
        np.testing.assert_allclose(
            metrics["conflict"]["encoder"][name], value, rtol=1e-4, atol=1e-6, err_msg=name
        )
    _, after = step.train_step(state, batch, KEY)
    assert np.all(after["loss"] != metrics["loss"])
    assert after["conflict"] == {}
    assert np.isnan(after["learning_rate"])  # this optimizer tells none


def test_dropout_is_drawn_anew_every_step(batch):
    model = architectures.TextToText(dataclasses.replace(CONFIG, dropout_rate=0.2))
    still = optax.sgd(0.0)
    losses = []
    for first in (0, 0, 1):
        state = new_state(still, model).replace(step=jnp.int32(first))
        losses.append(step.train_step(state, batch, KEY)[1]["loss"])
    np.testing.assert_array_equal(losses[0], losses[1])
    assert np.all(losses[0] != losses[2])


# A step that measures nothing


def test_plain_step_costs_nothing_extra(batch):
    """No more than plain autodiff, and no task's own gradient or Gram matrix in its program."""

    def step_without_probes(state, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(probes, "dot", lambda x, weight, probe: x @ weight)
            patch.setattr(probes, "spread", lambda weight, probe: weight)

            def total(params):
                losses = state.apply_fn({"params": params}, batch)
                return losses.sum(), losses

            grads, losses = jax.grad(total, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), losses, optax.tree.norm(grads)

    state = new_state(sgd())
    bare = jax.jit(step_without_probes).lower(state, batch)
    plain = step.train_step.lower(state, batch, KEY, groups=())
    measuring = step.train_step.lower(state, batch, KEY, groups=GROUPS)
    bare_flops, plain_flops, measuring_flops = (
        lowered.cost_analysis()["flops"] for lowered in (bare, plain, measuring)
    )
    assert plain_flops <= bare_flops
    assert measuring_flops > 1.02 * plain_flops
    query = state.params["encoder"]["layers_0"]["attention"]["query"]["kernel"].shape
    for shape in ((TASKS, TASKS), (TASKS, *query)):
        tensor = f"tensor<{'x'.join(map(str, shape))}xf32>"
        assert tensor in measuring.as_text()
        assert tensor not in plain.as_text()


def test_equal_settings_share_one_compilation(batch):
    """Two runs within a process: what they build anew is equal, and nothing is compiled twice."""
    compiled = []
    for seed in range(2):
        state = step.init_state(
            jax.random.key(seed),
            batch,
            model=architectures.TextToText(dataclasses.replace(CONFIG)),
            optimizer=step.adamw(1e-3, 2, 10),
        )
        for _ in range(2):
            state, _ = step.train_step(state, batch, KEY)
            compiled.append(step.train_step._cache_size())
    assert len(set(compiled)) == 1


def test_init_state(batch):
    optimizer = step.adamw(1e-3, 2, 10)
    state = step.init_state(KEY, batch, model=MODEL, optimizer=optimizer)
    again = step.init_state(KEY, batch, model=MODEL, optimizer=optimizer)
    other = step.init_state(jax.random.key(1), batch, model=MODEL, optimizer=optimizer)
    assert int(state.step) == 0
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(
        jnp.shape, random_t5.params(CONFIG)
    )
    assert_params_close(state.params, again.params, 0)
    embedding = state.params["token_embedder"]["embedding"]
    assert np.any(embedding != other.params["token_embedder"]["embedding"])


# The optimizer


def adamw_by_hand(gradients, rates, start, b1, b2, eps, weight_decay, max_norm):
    """Loshchilov and Hutter (arXiv 1711.05101), algorithm 2, behind a clip of the norm."""
    value, first, second = np.array(start, np.float64), 0.0, 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        norm = np.linalg.norm(gradient)
        if max_norm is not None and norm > max_norm:
            gradient = gradient * max_norm / norm
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        direction = (first / (1 - b1**t)) / (np.sqrt(second / (1 - b2**t)) + eps)
        value = value - rate * (direction + weight_decay * value)
    return value


def closed_form_rate(t, peak, warmup, decay):
    if t < warmup:
        return peak * t / warmup
    return peak * 0.5 * (1 + np.cos(np.pi * min(1, (t - warmup) / (decay - warmup))))


@pytest.mark.parametrize("max_norm", [None, 5.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_against_its_closed_form(max_norm, weight_decay):
    """Gradients below and above the clip; warm-up from 0 over 4 steps, cosine to 0 at step 10."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(12, 3)) * np.array([0.1, 30, 1, 100, 2, 5] * 2)[:, None]
    start = np.array([1.0, -2.0, 0.5])
    optimizer = step.adamw(0.1, 4, 10, max_norm, weight_decay, b1=0.8, b2=0.95, eps=1e-6)
    params, rates = {"x": jnp.float32(start)}, []
    opt_state = optimizer.init(params)
    for gradient in steps:
        updates, opt_state = optimizer.update({"x": jnp.float32(gradient)}, opt_state, params)
        params = optax.apply_updates(params, updates)
        rates.append(float(optax.tree_utils.tree_get(opt_state, "hyperparams")["learning_rate"]))
    expected_rates = [closed_form_rate(t, 0.1, 4, 10) for t in range(12)]
    np.testing.assert_allclose(rates, expected_rates, rtol=1e-5, atol=1e-8)
    assert rates[0] == rates[10] == rates[11] == 0
    assert rates[4] == pytest.approx(0.1)
    assert rates[7] == pytest.approx(0.05)
    expected = adamw_by_hand(steps, expected_rates, start, 0.8, 0.95, 1e-6, weight_decay, max_norm)
    np.testing.assert_allclose(params["x"], expected, rtol=1e-5)


def test_first_updates_with_eps_before_the_correction():
    """As `transformers.AdamW` 4.5.1 does it, by hand; gradients near eps tell the two forms."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(3, 4)) * np.array([1e-6, 1e-5, 1.0, 9.0])
    optimizer = step.adamw(0.1, 1, 10, eps=1e-6, eps_before_correction=True)
    params = {"x": jnp.zeros(4)}
    opt_state = optimizer.init(params)
    value, first, second = np.zeros(4), np.zeros(4), np.zeros(4)
    for t, gradient in enumerate(steps, start=1):
        updates, opt_state = optimizer.update({"x": jnp.float32(gradient)}, opt_state, params)
        params = optax.apply_updates(params, updates)
        # torch.nn.utils.clip_grad_norm_
        gradient = gradient * min(1.0, 5.0 / (np.linalg.norm(gradient) + 1e-6))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = closed_form_rate(t - 1, 0.1, 1, 10) * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        value = value - size * first / (np.sqrt(second) + 1e-6)
        np.testing.assert_allclose(params["x"], value, rtol=1e-4, atol=1e-9)
        correction = np.sqrt(1 - 0.999**t)
        scale = correction / (np.sqrt(second) + 1e-6)
        np.testing.assert_allclose(step.adam_scale(opt_state)["x"], scale, rtol=1e-4)
    other = adamw_by_hand(steps, [closed_form_rate(t, 0.1, 1, 10) for t in range(3)], np.zeros(4),
                          0.9, 0.999, 1e-6, 0.0, 5.0)  # fmt: skip
    assert abs(value[0]) < 0.5 * abs(other[0]), "the forms differ where gradients are small"


def test_learning_rate_of_this_step_is_reported(batch):
    state = new_state(step.adamw(1e-3, 2, 10))
    rates = []
    for _ in range(4):
        state, metrics = step.train_step(state, batch, KEY)
        rates.append(float(metrics["learning_rate"]))
    np.testing.assert_allclose(
        rates, [closed_form_rate(t, 1e-3, 2, 10) for t in range(4)], rtol=1e-5
    )


def test_adamw_of_equal_settings_is_one_object():
    assert step.adamw(1e-3, 5, 50) is step.adamw(1e-3, 5, 50)
    assert step.adamw(1e-3, 5, 50) is not step.adamw(1e-3, 6, 50)


def test_warmup_that_leaves_no_step():
    with pytest.raises(
        ValueError, match=r"warmup_steps = 50 leaves no step of the 50.*TRAIN_STEPS"
    ):
        step.adamw(1e-3, 50, 50)
