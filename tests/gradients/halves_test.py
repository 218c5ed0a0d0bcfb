"""Steps that measure the halves of each task's examples apart, and the figures over many steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict

from mtl_t5x import step
from mtl_t5x.conflict.running import Running
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures
from tests import random_t5

TASKS = 3
MODEL = architectures.TextToText(random_t5.CONFIG)
GROUPS = (("all", ".*"), ("norms", ".*scale"), ("tables", ".*embedding"))
SGD = optax.sgd(0.1)


def new_state():
    state = TrainState.create(apply_fn=MODEL.apply, params=random_t5.params(), tx=SGD)
    return state.replace(step=jnp.int32(0))


def take(batch, halves, **kwargs):
    key = jax.random.key(0)
    return step.train_step(new_state(), batch, key, groups=GROUPS, halves=halves, **kwargs)


@pytest.fixture(scope="module")
def batch():
    return random_t5.batch(0, TASKS)


@pytest.fixture(scope="module")
def measured(batch):
    return take(batch, True)


def test_gram_matrix_of_the_halves(batch, measured):
    """Against jax.grad of each half's loss, times its share of the task's tokens."""
    params = random_t5.params()
    one = jax.jit(jax.grad(lambda p, batch: MODEL.apply({"params": p}, batch)[0]))
    rows = []
    for task in range(TASKS):
        for half in (slice(0, 2), slice(2, 4)):
            piece = {name: value[task : task + 1, half] for name, value in batch.items()}
            tokens = batch["decoder_loss_weights"][task].sum()
            share = float(piece["decoder_loss_weights"].sum() / tokens)
            gradient = flatten_dict(one(params, piece), sep="/")
            rows.append({name: share * np.float64(leaf) for name, leaf in gradient.items()})
    for group, names in one_pass.select(params, dict(GROUPS)).items():
        joined = np.array([np.concatenate([row[name].ravel() for name in names]) for row in rows])
        expected = joined @ joined.T
        lengths = np.sqrt(np.diagonal(expected))
        error = np.abs(measured[1]["conflict"][group]["halves"] - expected)
        assert np.all(error <= 1e-5 * np.outer(lengths, lengths)), group


def test_update_and_figures_stay_the_same(batch, measured):
    state, metrics = take(batch, False)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(measured[0].params)):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    for group, numbers in metrics["conflict"].items():
        for name, value in numbers.items():
            np.testing.assert_allclose(measured[1]["conflict"][group][name], value, rtol=1e-4)
    np.testing.assert_array_equal(
        measured[1]["loss_weights"], batch["decoder_loss_weights"].sum((1, 2))
    )


def test_odd_batches_and_pieces_have_no_halves(batch):
    odd = {name: value[:, :3] for name, value in batch.items()}
    with pytest.raises(ValueError, match="BATCH_SIZE = 3 has no halves"):
        take(odd, True)
    with pytest.raises(ValueError, match="BATCH_SIZE = 4 .* the 4 parts .* a multiple of 8"):
        take(batch, True, microbatches=4)


@pytest.mark.slow
def test_microbatches_have_the_same_halves(batch, measured):
    _, metrics = take(batch, True, microbatches=2)
    for group, numbers in measured[1]["conflict"].items():
        expected = numbers["halves"]
        lengths = np.sqrt(np.diagonal(expected))
        error = np.abs(metrics["conflict"][group]["halves"] - expected)
        assert np.all(error <= 1e-5 * np.outer(lengths, lengths)), group
    np.testing.assert_array_equal(metrics["loss_weights"], measured[1]["loss_weights"])


def test_going_on_from_earlier_lines():
    """Figures over the last steps are the same in a run that was interrupted."""
    rng = np.random.default_rng(0)
    names, steps = ("a", "b"), []
    for _ in range(7):
        rows = rng.normal(size=(4, 9)) + 1
        steps.append(
            {"loss_weights": rng.integers(3, 9, 2), "conflict": {"x/y": {"halves": rows @ rows.T}}}
        )
    whole = Running(names, 4, 8)
    lines = [whole.add(metrics) for metrics in steps]
    again = Running(names, 4, 8)
    again.restore(lines[:5])
    assert [again.add(metrics) for metrics in steps[5:]] == lines[5:]
    assert np.isnan(lines[0]["conflict/x/y/running_directional_se"]), "one step tells no error"
    assert lines[6]["conflict/x/y/running_directional_se"] > 0
    assert whole.add({"conflict": {"x/y": {}}}) == {}


def test_the_example_of_the_gradients_module(capsys):
    """The code in the docstring, on a model with a product, a bias and another product."""
    text = one_pass.__doc__.split("needs no Flax:\n\n")[1]
    code = "\n".join(line[4:] for line in text.splitlines())
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x, targets, tasks = draw(3, 5, 4), draw(3, 5, 2), 3
    params = {"in": draw(4, 6), "bias": draw(6), "out": draw(6, 2)}
    names = {"jax": jax, "x": x, "targets": targets, "params": params, "num_tasks": tasks}
    exec(code, names)
    assert np.isfinite(float(capsys.readouterr().out))

    def one(params, k):
        hidden = jax.nn.relu(x[k] @ params["in"] + params["bias"])
        return jnp.mean((hidden @ params["out"] - targets[k]) ** 2)

    rows = [jax.grad(one)(params, k) for k in range(tasks)]
    for group, members in (("first", ("in", "bias")), ("all", ("in", "bias", "out"))):
        joined = np.array([np.concatenate([np.ravel(row[n]) for n in members]) for row in rows])
        np.testing.assert_allclose(names["grams"][group], joined @ joined.T, rtol=1e-4, atol=1e-5)
