"""Products and spread weights: gradients as those of plain autodiff, and what probes read."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.gradients import probes

TASKS, EXAMPLES, INPUTS, OUTPUTS = 3, 5, 4, 2


def arrays(*shapes, seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def assert_close(actual, expected, tolerance=1e-5):
    """Relative to the largest entry."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def task_losses(x, weight, probe=None):
    """A loss per task that is not linear in the product, so that its cotangent varies."""
    return jnp.sum(jnp.tanh(probes.dot(x, weight, probe)), axis=(1, 2))


def spread_losses(x, weight, probe=None):
    per_task = probes.spread(weight, probe)
    per_task = jnp.broadcast_to(per_task, (TASKS, INPUTS))
    return jnp.sum(jnp.tanh(x * per_task[:, None]), axis=(1, 2))


CASES = [(task_losses, (INPUTS, OUTPUTS)), (spread_losses, (INPUTS,))]


def plain_task_gradients(losses, x, weight):
    """K gradients, each of the one task's loss on its own data, by autodiff of plain operations."""

    def one(k):
        def loss(weight):
            y = x[k] @ weight if losses is task_losses else x[k] * weight
            return jnp.sum(jnp.tanh(y))

        return jax.grad(loss)(weight)

    return np.stack([one(k) for k in range(TASKS)])


@pytest.mark.parametrize(("losses", "shape"), CASES)
def test_gradient_of_the_sum_is_autodiff(losses, shape):
    x, weight = arrays((TASKS, EXAMPLES, INPUTS), shape)
    expected = plain_task_gradients(losses, x, weight).sum(axis=0)
    for probe in (None, jnp.zeros((TASKS, TASKS)), jnp.zeros((TASKS, 1, *shape))):
        gradient = jax.grad(lambda w, probe=probe: losses(x, w, probe).sum())(weight)
        assert_close(gradient, expected)


@pytest.mark.parametrize("probe", [None, jnp.zeros((TASKS, TASKS))])
def test_gradient_of_the_input_is_autodiff(probe):
    x, weight = arrays((TASKS, EXAMPLES, INPUTS), (INPUTS, OUTPUTS))
    gradient = jax.grad(lambda x: task_losses(x, weight, probe).sum())(x)
    assert_close(gradient, jax.grad(lambda x: jnp.sum(jnp.tanh(x @ weight)))(x))


@pytest.mark.parametrize(("losses", "shape"), CASES)
def test_probe_of_the_weights_shape_reads_the_task_gradients(losses, shape):
    x, weight = arrays((TASKS, EXAMPLES, INPUTS), shape)
    probe = jnp.zeros((TASKS, 1, *shape))
    read = jax.grad(lambda probe: losses(x, weight, probe).sum())(probe)
    assert_close(read[:, 0], plain_task_gradients(losses, x, weight))


@pytest.mark.parametrize(("losses", "shape"), CASES)
def test_square_probe_reads_the_gram_matrix(losses, shape):
    x, weight = arrays((TASKS, EXAMPLES, INPUTS), shape)
    probe = jnp.zeros((TASKS, TASKS))
    gram = jax.grad(lambda probe: losses(x, weight, probe).sum())(probe)
    rows = plain_task_gradients(losses, x, weight).reshape(TASKS, -1).astype(np.float64)
    assert_close(gram, rows @ rows.T)


def test_gram_matrix_of_a_vector_as_long_as_there_are_tasks():
    (x, weight) = arrays((TASKS, EXAMPLES, TASKS), (TASKS,))

    def losses(probe):
        return jnp.sum(jnp.tanh(x * probes.spread(weight, probe)[:, None]), axis=(1, 2))

    gram = jax.grad(lambda probe: losses(probe).sum())(jnp.zeros((TASKS, TASKS)))
    per_task = jax.vmap(jax.grad(lambda w, x: jnp.sum(jnp.tanh(x * w))), (None, 0))(weight, x)
    assert_close(gram, per_task @ per_task.T)


def test_weight_of_several_uses_is_spread_once():
    """The Gram matrix of a sum of gradients holds the cross terms."""
    x, y, weight = arrays((TASKS, INPUTS), (TASKS, INPUTS), (INPUTS,))

    def total(probe):
        per_task = probes.spread(weight, probe)
        return jnp.sum(jnp.sin(x * per_task)) + jnp.sum(jnp.cos(y * per_task))

    rows = np.asarray(x * jnp.cos(x * weight) - y * jnp.sin(y * weight), np.float64)
    assert_close(jax.grad(total)(jnp.zeros((TASKS, TASKS))), rows @ rows.T)


def test_forward_never_reads_a_probe():
    x, weight = arrays((TASKS, EXAMPLES, INPUTS), (INPUTS, OUTPUTS))
    probe = jnp.full((TASKS, TASKS), jnp.nan)
    np.testing.assert_array_equal(probes.dot(x, weight, probe), x @ weight)
    np.testing.assert_array_equal(
        probes.spread(weight, probe), np.broadcast_to(weight, (TASKS, INPUTS, OUTPUTS))
    )
    assert probes.spread(weight, None) is weight


def test_dot_takes_any_leading_axes_without_a_probe():
    for leading in ((), (7,), (2, 3, 4)):
        x, weight = arrays((*leading, INPUTS), (INPUTS, OUTPUTS))
        assert_close(
            jax.grad(lambda w, x=x: jnp.sum(jnp.tanh(probes.dot(x, w))))(weight),
            jax.grad(lambda w, x=x: jnp.sum(jnp.tanh(x @ w)))(weight),
        )


def read_none(_):
    return None


def read_gram(rows):
    return jnp.zeros((rows, rows))


def read_rows(rows):
    return jnp.zeros((rows, 1, INPUTS, OUTPUTS))


def read_sketch(rows):
    return probes.Sketch(jnp.zeros((rows, 6)), seed=5)


@pytest.fixture(params=["tpu", "default"])
def platform(request, monkeypatch):
    """Computes as is done for it."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, **how: how[request.param](*args)
    )


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("rows", [TASKS, 2 * TASKS])
@pytest.mark.parametrize(
    "reads",
    [
        (read_none, read_none, read_none),
        (read_gram, read_gram, read_gram),
        (read_rows, read_gram, read_none),
        (read_none, read_sketch, read_rows),
    ],
)
def test_several_weights_of_one_x_are_as_each_on_its_own(reads, rows):
    x, *weights = arrays((TASKS, 4, EXAMPLES, INPUTS), *[(INPUTS, OUTPUTS)] * 3)
    zeros = tuple(read(rows) for read in reads)

    def together(x, weights, zeros):
        return jnp.sum(jnp.tanh(sum(map(jnp.sin, probes.dots(x, weights, zeros)))))

    def each(x, weights, zeros):
        products = map(probes.dot, [x] * len(weights), weights, zeros)
        return jnp.sum(jnp.tanh(sum(map(jnp.sin, products))))

    arguments = (x, tuple(weights), zeros)
    of_both = [jax.value_and_grad(one, argnums=(0, 1, 2))(*arguments) for one in (together, each)]
    jax.tree.map(assert_close, *of_both)
    # And without probes as of plain products, by autodiff.
    plain = jax.grad(
        lambda x, weights: jnp.sum(jnp.tanh(sum(jnp.sin(x @ weight) for weight in weights))), (0, 1)
    )(x, tuple(weights))
    jax.tree.map(assert_close, of_both[0][1][:2], plain)


@pytest.mark.usefixtures("platform")
def test_rows_of_parts_are_those_parts_gradients():
    x, weight = arrays((TASKS, 4, EXAMPLES, INPUTS), (INPUTS, OUTPUTS))

    def loss(weight, x, probe=None):
        return jnp.sum(jnp.tanh(probes.dot(x, weight, probe)))

    read = jax.grad(loss, 2)(weight, x, read_rows(2 * TASKS))[:, 0]
    parts = x.reshape(2 * TASKS, 2, EXAMPLES, INPUTS)
    assert_close(read, np.stack([jax.grad(loss)(weight, part) for part in parts]))


@pytest.mark.parametrize("shape", [None, (TASKS, TASKS), (TASKS, INPUTS, OUTPUTS)])
def test_finite_differences(shape):
    """Central differences in float64, for the weight, the input and each task's loss."""
    with jax.enable_x64(True):
        x, weight, direction = arrays(
            (TASKS, EXAMPLES, INPUTS), (INPUTS, OUTPUTS), (INPUTS, OUTPUTS), dtype=jnp.float64
        )
        probe = None if shape is None else jnp.zeros(shape)
        gradient = jax.grad(lambda w: task_losses(x, w, probe).sum())(weight)
        assert gradient.dtype == jnp.float64
        step = 1e-5
        change = task_losses(x, weight + step * direction) - task_losses(
            x, weight - step * direction
        )
        slopes = np.asarray(change / (2 * step))  # one per task
        np.testing.assert_allclose(jnp.vdot(gradient, direction), slopes.sum(), rtol=1e-8)
        if shape == (TASKS, INPUTS, OUTPUTS):
            read = jax.grad(lambda probe: task_losses(x, weight, probe).sum())(probe)
            np.testing.assert_allclose(jnp.einsum("kio,io->k", read, direction), slopes, rtol=1e-8)


def test_low_precision_activations_keep_float32_gradients():
    """The task gradients are summed up in the weight's precision, not in the activations'."""
    x, weight = arrays((TASKS, 400, INPUTS), (INPUTS, OUTPUTS))
    half = x.astype(jnp.bfloat16)
    cotangent = jnp.ones((TASKS, 400, OUTPUTS), jnp.bfloat16)
    _, pullback = jax.vjp(lambda w, p: probes.dot(half, w, p), weight, jnp.zeros((TASKS, TASKS)))
    gradient, gram = pullback(cotangent)
    assert gradient.dtype == gram.dtype == jnp.float32
    sums = np.asarray(half, np.float64).sum(axis=1)  # exact: the cotangent is one
    assert_close(gradient, np.repeat(sums.sum(axis=0)[:, None], OUTPUTS, axis=1))
    assert_close(gram, OUTPUTS * sums @ sums.T)


def test_this_jaxlib_multiplies_right():
    """A reduce fused with a batched product whose right side is broadcast, compiled as users do."""
    tasks, rows, heads, ranks, features = 4, 8, 4, 32, 1024
    d, w = arrays((tasks, rows, heads, features), (ranks, features))

    @functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True})
    def product(d, w):
        repeated = jnp.broadcast_to(w, (tasks, ranks, features))
        return jnp.einsum("khn,krn->khr", d.sum(1), repeated)

    d64, w64 = np.asarray(d, np.float64), np.asarray(w, np.float64)
    expected = np.einsum("khn,rn->khr", d64.sum(1), w64)
    error = np.abs(product(d, w) - expected).max() / np.abs(expected).max()
    assert error < 1e-5, (
        f"jaxlib {jax.lib.__version__} computes wrong numbers on this device (relative error "
        f"{error:.1e}): gradients and conflict can't be trusted. Install the versions of "
        "constraints.txt (jaxlib 0.10.2 is known to be wrong on CPU)."
    )
