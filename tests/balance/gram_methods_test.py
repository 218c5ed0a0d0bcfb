"""Methods that act by the Gram matrix: published oracles, and the properties that they claim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.balance import balance, weighing
from mtl_t5x.balance.method import Measured
from mtl_t5x.conflict import metrics as conflict_metrics

# J = [[-4, 1, 1], [6, 1, 1]], the example of TorchJD's documentation.
ORACLE = jnp.array([[18.0, -22.0], [-22.0, 38.0]])
METHODS = (
    balance.AlignedMTL(),
    balance.CAGrad(c=1.0),
    balance.ConFIG(),
    balance.DBMTL(),
    balance.DualProj(),
    balance.FairGrad(alpha=2.0),
    balance.GradNorm(),
    balance.GradVac(),
    balance.IMTLG(),
    balance.Krum(outliers=0),
    balance.MGDA(),
    balance.MoDo(),
    balance.NashMTL(),
    balance.PCGrad(),
    balance.SDMGrad(),
    balance.UPGrad(),
)
ORDERED = (balance.GradVac(), balance.PCGrad())
KEY = jax.random.key(0)


def name_of(method):
    return type(method).__name__


each = functools.partial(pytest.mark.parametrize, "method", ids=name_of)


def gram_of(tasks, seed=0, spread=1.0, columns=40, common=1.0):
    """Of random gradients whose norms differ by factors of about exp(spread)."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, columns)) + common * rng.normal(size=columns)
    gradients *= np.exp(spread * rng.normal(size=(tasks, 1)))
    return jnp.asarray(gradients @ gradients.T, jnp.float32)


# Three tasks, the smaller of which oppose the largest.
OPPOSED = gram_of(3, seed=2, spread=1.5, columns=5, common=0.0)


def measured(gram, losses=None, key=KEY):
    """Two halves of a gradient are alike here."""
    losses = jnp.ones(len(gram)) if losses is None else losses
    return Measured(losses, gram, jnp.kron(gram, jnp.full((2, 2), 0.25)), key)


# One program of a method for three tasks serves all tests.
weigh = jax.jit(weighing.weigh, static_argnums=0)


def apply(method, gram, losses=None, key=KEY):
    return weigh(method, method.init(len(gram)), measured(gram, losses, key))[0]


@pytest.mark.parametrize(
    "method, expected",
    [
        (balance.PCGrad(), [2.2222, 1.5789]),
        (balance.CAGrad(c=0.5), [0.7041, 0.5]),
        (balance.MGDA(), [0.6, 0.4]),
        (balance.IMTLG(), [0.5923, 0.4077]),
        (balance.AlignedMTL(), [0.5591, 0.4083]),
        (balance.UPGrad(), [1.1109, 0.7894]),
        (balance.FairGrad(alpha=1.0), [0.5915, 0.4071]),
        (balance.NashMTL(), [0.5915, 0.4071]),
    ],
    ids=name_of,
)
def test_published_example(method, expected):
    np.testing.assert_allclose(apply(method, ORACLE), expected, atol=6e-5)


# Of three tasks the two nearest ones are each other's neighbour: Krum takes the first.
@each([m for m in METHODS if m not in ORDERED and not isinstance(m, balance.Krum)])
def test_weights_follow_their_tasks(method):
    gram, losses = gram_of(3, spread=0.3), jnp.array([0.5, 1.0, 2.0])
    order = jnp.array([2, 0, 1])
    permuted = apply(method, gram[order][:, order], losses[order])
    np.testing.assert_allclose(permuted, apply(method, gram, losses)[order], rtol=2e-5)


@each([m for m in METHODS if not isinstance(m, balance.MoDo)])
def test_units_of_the_gradients(method):
    """Gradients ten times as long: the same update, or one whose length the method defines."""
    power = {balance.NashMTL(): -0.5, balance.FairGrad(alpha=2.0): -2 / 3}.get(method, 0.0)
    gram = gram_of(3)
    np.testing.assert_allclose(
        apply(method, 100 * gram), 100.0**power * apply(method, gram), rtol=2e-5
    )


@each(
    [
        balance.CAGrad(c=1.0),
        balance.ConFIG(),
        balance.DualProj(),
        balance.FairGrad(alpha=2.0),
        balance.MGDA(),
        balance.NashMTL(),
        balance.UPGrad(),
    ]
)
def test_no_task_is_opposed(method):
    """<g_i, update> >= 0 for every task, where the sum opposes one; but for the ridges."""
    assert jnp.min(jnp.sum(OPPOSED, axis=1)) < 0
    units = OPPOSED / jnp.sqrt(jnp.diagonal(OPPOSED))[:, None]
    along = units @ apply(method, OPPOSED)
    assert jnp.min(along) > -1e-3 * jnp.max(jnp.abs(along))


@each([m for m in METHODS if not isinstance(m, balance.Krum)])
def test_tasks_that_are_alike_weigh_the_same(method):
    """Orthogonal gradients of one length."""
    weights = apply(method, 4.0 * jnp.eye(3))
    np.testing.assert_allclose(weights, weights[0], rtol=1e-5)
    assert weights[0] > 0


def test_gradients_that_agree_are_left_alone():
    gram = jnp.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 3.0]])
    np.testing.assert_array_equal(apply(balance.PCGrad(), gram), jnp.ones(3))
    for method in (balance.UPGrad(), balance.DualProj()):
        np.testing.assert_allclose(apply(method, gram), 1 / 3, rtol=1e-6)


def test_the_order_of_the_tasks_is_drawn():
    gradients = jnp.array([[1.0, 0.0], [-1.0, 2.0], [-1.0, -1.0]])  # each opposes both others
    gram = gradients @ gradients.T
    drawn = np.array([apply(balance.PCGrad(), gram, key=jax.random.key(i)) for i in range(20)])
    assert len(np.unique(np.round(drawn, 4), axis=0)) > 1
    again = apply(balance.PCGrad(), gram, key=jax.random.key(3))
    np.testing.assert_array_equal(again, drawn[3])


def test_gradient_vaccine_reaches_the_usual_cosine():
    """Two tasks, and one that is orthogonal to both: each of the two turned gradients has the
    wanted cosine with the other; and the running cosine of each pair moves by the decay."""
    wanted = np.array([[0.0, 0.3, 0.0], [0.3, 0.0, 0.0], [0.0, 0.0, 0.0]])
    gram = np.array([[4.0, -1.0, 0.0], [-1.0, 9.0, 0.0], [0.0, 0.0, 1.0]])
    given = measured(jnp.float32(gram))
    weights, usual, _ = weigh(balance.GradVac(), jnp.float32(wanted), given)
    added = np.asarray(weights) - 1  # of the other's gradient, to each
    assert added[2] == pytest.approx(0, abs=1e-6)
    for task, other in ((0, 1), (1, 0)):
        turned = np.eye(3)[task] + added[other] * np.eye(3)[other]
        cosine = turned @ gram[other] / np.sqrt(turned @ gram @ turned * gram[other, other])
        assert cosine == pytest.approx(0.3, abs=1e-5)
    assert usual[0, 1] == pytest.approx(0.5 * 0.3 + 0.5 * -1 / 6, abs=1e-5)


def test_krum_leaves_the_outlier_out():
    gradients = jnp.array([[1.0, 0, 0], [1.1, 0.1, 0], [0.9, -0.1, 0], [-9, 3, 3]])
    weights = apply(balance.Krum(outliers=1, selected=3), gradients @ gradients.T)
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"balance.Krum\(outliers=1.*needs 4 tasks.*there are 3"):
        balance.Krum(outliers=1).init(3)


def test_log_losses_and_equal_lengths():
    """DB-MTL: the weighted gradients of the log losses are as long as the longest."""
    gram, losses = gram_of(3), jnp.array([0.5, 1.0, 2.0])
    norms = jnp.sqrt(jnp.diagonal(gram))
    weighted = apply(balance.DBMTL(), gram, losses) * norms
    np.testing.assert_allclose(weighted, jnp.max(norms / losses), rtol=1e-5)


def test_gradnorm_goes_down_its_slope():
    """The weights' change is minus the gradient of the original's loss, before they are scaled."""
    method = balance.GradNorm()
    gram, losses = gram_of(3), jnp.array([0.5, 1.0, 2.0])
    first = jnp.array([1.0, 1.5, 2.5])
    state = {"weights": jnp.array([0.8, 1.2, 1.0]), "first": first}
    norms = jnp.sqrt(jnp.diagonal(gram)) / jnp.mean(jnp.sqrt(jnp.diagonal(gram)))

    def loss(weights):
        left = losses / first
        mean = jnp.mean(jax.lax.stop_gradient(weights) * norms)
        return jnp.sum(jnp.abs(weights * norms - mean * (left / jnp.mean(left)) ** 1.5))

    expected = state["weights"] - method.learning_rate * jax.grad(loss)(state["weights"])
    weights, after, _ = weigh(method, state, measured(gram, losses))
    np.testing.assert_allclose(weights, 3 * expected / expected.sum(), rtol=1e-5)
    np.testing.assert_array_equal(after["first"], first)


def simplex_by_halving(vector):
    """The projection on the simplex: the shift at which what is left sums to 1."""
    low, high = vector.min() - 1, vector.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(vector - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(vector - low, 0)


def independent_halves(tasks=3):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2 * tasks, 30)) / 5
    halves = jnp.asarray(rows @ rows.T, jnp.float32)
    return rows, measured(conflict_metrics.add_halves(halves))._replace(halves=halves)


def test_double_sampling():
    """MoDo, word for word, with the two halves' mean gradients."""
    rows, given = independent_halves()
    first, second = 2 * rows[::2], 2 * rows[1::2]
    weights = np.array([0.7, 0.2, 0.1])
    slope = first @ (second.T @ weights) + 0.1 * weights
    expected = simplex_by_halving(weights - 1e-3 * slope)
    assert np.abs(expected - weights).max() > 5e-4
    actual, state, _ = weigh(balance.MoDo(), jnp.asarray(weights, jnp.float32), given)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_array_equal(actual, state)


def test_double_sampling_near_the_mean():
    """SDMGrad, as its released code runs it."""
    rows, given = independent_halves()
    inner = 4 * rows[::2] @ rows[1::2].T
    inner /= np.sqrt(np.maximum(np.diag(inner), 0)).mean() ** 2 + 1e-8
    weights, velocity = np.full(3, 1 / 3), np.zeros(3)
    for _ in range(20):
        velocity = 0.5 * velocity + inner @ weights + 0.3 * inner.mean(axis=1)
        weights = simplex_by_halving(weights - 5 * velocity)
    actual, state, _ = weigh(balance.SDMGrad(), jnp.full(3, 1 / 3), given)
    np.testing.assert_allclose(state, weights, atol=1e-4)
    np.testing.assert_allclose(actual, (weights + 0.1) / 1.3, atol=1e-4)


@each(METHODS)
@pytest.mark.parametrize("bad", [0.0, np.nan], ids=["zero", "nan"])
def test_a_gradient_without_direction(method, bad):
    """Finite weights, and the task is named."""
    given = measured(gram_of(3))
    rows = jnp.array([False, True, False])
    halves = jnp.repeat(rows, 2)
    given = given._replace(
        gram=jnp.where(rows[:, None] | rows, bad, given.gram),
        halves=jnp.where(halves[:, None] | halves, bad, given.halves),
    )
    state = method.init(3)
    weights, state, unusable = weigh(method, state, given)
    np.testing.assert_array_equal(unusable, rows)
    assert np.all(np.isfinite(weights)) and np.any(weights != 0)
    for leaf in jax.tree.leaves(state):
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: balance.CAGrad(c=-0.1), r"balance.CAGrad.c = -0.1: it must be 0 or more"),
        (lambda: balance.FairGrad(alpha=0.0), r"balance.FairGrad.alpha = 0.0: it must be above 0"),
        (
            lambda: balance.GradVac(decay=2.0),
            r"balance.GradVac.decay = 2.0: .*0 or more, and 1 at most",
        ),
        (lambda: balance.Balance(applied="now"), r"balance.Balance.applied = 'now'.*'lagged' or"),
        (lambda: balance.Balance(floor=0.0), r"balance.Balance.floor = 0.0: .*between 0 and 1"),
        (lambda: balance.Balance(keep_gradients=True), r"keep_gradients is for exact steps"),
    ],
)
def test_settings_that_cannot_work(make, message):
    with pytest.raises(ValueError, match=message):
        make()
