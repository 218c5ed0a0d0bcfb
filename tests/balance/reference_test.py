"""Methods against TorchJD's own results on random Gram matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from mtl_t5x.balance import balance, weighing
from mtl_t5x.balance.method import Measured
from mtl_t5x.balance.orders import orders

torch = pytest.importorskip("torch")
aggregation = pytest.importorskip("torchjd.aggregation")

pytestmark = pytest.mark.reference

KEY = jax.random.key(0)
TASKS = (2, 3, 8)
SEEDS = range(5)


def gradients_of(tasks, seed):
    """Random gradients, of norms that differ severalfold, half of them opposed to a common one."""
    rng = np.random.default_rng([tasks, seed])
    gradients = rng.normal(size=(tasks, 3 * tasks))
    gradients += rng.choice([-0.5, 0.5], size=(tasks, 1)) * rng.normal(size=3 * tasks)
    return np.float32(gradients * np.exp(0.7 * rng.normal(size=(tasks, 1))))


weigh = jax.jit(weighing.weigh, static_argnums=0)


def ours(method, gradients, losses=None, key=KEY):
    gram = jnp.asarray(gradients @ gradients.T)
    losses = jnp.ones(len(gram)) if losses is None else jnp.asarray(losses)
    state = method.init(len(gram))
    return np.asarray(weigh(method, state, Measured(losses, gram, None, key))[0])


def theirs(weighting, gradients):
    gram = torch.tensor(gradients @ gradients.T, dtype=torch.float64)
    return weighting(gram).numpy()


def assert_close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=1e-5)


PAIRS = {
    "UPGrad": (balance.UPGrad(), lambda: aggregation.UPGradWeighting()),
    "DualProj": (balance.DualProj(), lambda: aggregation.DualProjWeighting()),
    "IMTL-G": (balance.IMTLG(), lambda: aggregation.IMTLGWeighting()),
    "Aligned-MTL": (balance.AlignedMTL(), lambda: aggregation.AlignedMTLWeighting()),
}


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("name", PAIRS)
def test_weights(name, tasks):
    method, make = PAIRS[name]
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        assert_close(ours(method, gradients), theirs(make(), gradients))


def exact_cagrad(gram, c):
    """The largest t at which the shortest y >= 0 with G (1/K + y) >= t is as short as allowed."""
    gram = gram / np.diag(gram).mean()
    gains, mean = gram.mean(axis=1), np.sqrt(gram.mean())
    root = np.linalg.cholesky(gram)

    def shortest(t):
        return optimize.nnls(root.T, np.linalg.solve(root, t - gains), maxiter=1000)[0]

    most = np.sqrt(np.diag(gram)).min() * (1 + c) * mean
    t = optimize.brentq(
        lambda t: np.linalg.norm(root.T @ shortest(t)) - c * mean, gains.min(), most, xtol=1e-15
    )
    return 1 / len(gram) + shortest(t)


@pytest.mark.parametrize("tasks", TASKS)
def test_cagrad(tasks):
    """TorchJD minimizes the dual problem, whose least value is the worst task's gain that no update
    exceeds. Its weights are less exact than that value, which is flat there; a least squares solver
    finds them."""
    pytest.importorskip("cvxpy")
    c = 0.4
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        gram = np.float64(gradients @ gradients.T)
        weights = ours(balance.CAGrad(c), gradients)
        assert_close(weights, exact_cagrad(gram, c))
        dual = theirs(aggregation.CAGradWeighting(c, norm_eps=0.0), gradients) - 1 / tasks
        dual /= dual.sum()
        mean = np.sqrt(gram.mean())
        attainable = dual @ gram.mean(axis=1) + c * mean * np.sqrt(dual @ gram @ dual)
        longest = np.sqrt(np.diag(gram)).max() * (1 + c) * mean  # what a task could gain at most
        assert abs((gram @ weights).min() - attainable) <= 1e-5 * longest


@pytest.mark.parametrize("tasks", TASKS)
def test_mgda(tasks):
    """TorchJD's steps (Frank and Wolfe's) come near it slowly; its quadratic solver solves it."""
    qpsolvers = pytest.importorskip("qpsolvers")
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        gram = np.float64(gradients @ gradients.T)
        gram /= gram.max()
        exact = qpsolvers.solve_qp(
            gram, np.zeros(tasks), A=np.ones((1, tasks)), b=np.ones(1), lb=np.zeros(tasks),
            solver="quadprog",
        )  # fmt: skip
        weights = ours(balance.MGDA(), gradients)
        assert_close(weights, exact)
        near = theirs(aggregation.MGDAWeighting(epsilon=1e-6, max_iters=1000), gradients)
        assert weights @ gram @ weights <= (1 + 1e-5) * (near @ gram @ near)


@pytest.mark.parametrize("tasks", [3, 8])
def test_krum(tasks):
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        weights = ours(balance.Krum(outliers=0, selected=2), gradients)
        assert_close(weights, theirs(aggregation.KrumWeighting(0, 2), gradients))


@pytest.mark.parametrize("tasks", TASKS)
def test_config(tasks):
    """TorchJD gives its update, not weights."""
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        update = aggregation.ConFIG()(torch.tensor(gradients, dtype=torch.float64)).numpy()
        assert_close(ours(balance.ConFIG(), gradients) @ gradients, update)


@pytest.mark.parametrize("tasks", TASKS)
def test_pcgrad_in_the_same_order(tasks, monkeypatch):
    for seed in SEEDS:
        gradients, key = gradients_of(tasks, seed), jax.random.key(seed)
        drawn = iter(np.asarray(orders(key, tasks)).T)
        monkeypatch.setattr(torch, "randperm", lambda _, drawn=drawn: torch.tensor(next(drawn)))
        assert_close(
            ours(balance.PCGrad(), gradients, key=key),
            theirs(aggregation.PCGradWeighting(), gradients),
        )


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fair_and_nash(tasks, alpha):
    """LibMTL's solver of G w = w^(-1/alpha), in float64 and to its end."""
    method = balance.NashMTL() if alpha == 1 else balance.FairGrad(alpha=alpha)
    for seed in SEEDS:
        gradients = gradients_of(tasks, seed)
        gram = np.float64(gradients @ gradients.T)
        weights = ours(method, gradients)
        found = optimize.least_squares(
            lambda w, gram=gram: gram @ w - w ** (-1 / alpha),
            np.ones(tasks) / tasks,
            bounds=(0, np.inf),
            xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=10_000,
        )  # fmt: skip
        assert_close(weights, found.x)


def test_nash_of_torchjd():
    """A sequence of twenty convex problems, solved to what ECOS calls enough."""
    pytest.importorskip("ecos")
    for seed in SEEDS:
        gradients = gradients_of(3, seed)
        aggregator = aggregation.NashMTL(n_tasks=3, max_norm=0.0)
        update = aggregator(torch.tensor(gradients, dtype=torch.float64)).numpy()
        assert_close(ours(balance.NashMTL(), gradients) @ gradients, update)


@pytest.mark.parametrize("tasks", TASKS)
def test_gradnorm_slope(tasks):
    """Autograd of LibMTL's loss of the weights."""
    rng = np.random.default_rng(tasks)
    gradients, losses = gradients_of(tasks, 0), np.float32(np.exp(rng.normal(size=tasks)))
    first, rate = np.float32(np.exp(rng.normal(size=tasks))), 1e-3
    method = balance.GradNorm(learning_rate=rate)
    state = {"weights": jnp.ones(tasks), "first": jnp.asarray(first)}
    given = Measured(jnp.asarray(losses), jnp.asarray(gradients @ gradients.T), None, KEY)
    weights = np.asarray(weigh(method, state, given)[0])
    norms = np.linalg.norm(np.float64(gradients), axis=1)
    scale = torch.ones(tasks, dtype=torch.float64, requires_grad=True)
    weighted = scale * torch.tensor(norms / norms.mean())
    left = torch.tensor(np.float64(losses) / first)
    wanted = (weighted.mean() * (left / left.mean()) ** 1.5).detach()
    (weighted - wanted).abs().sum().backward()
    expected = 1 - rate * scale.grad.numpy()
    assert_close(weights, tasks * expected / expected.sum())


@pytest.mark.parametrize("tasks", TASKS)
def test_gradvac_in_the_same_order(tasks):
    """LibMTL's loop over the gradients themselves, over five steps."""
    method, usual = balance.GradVac(), np.zeros((tasks, tasks))
    state = method.init(tasks)
    for seed in SEEDS:
        gradients, key = np.float64(gradients_of(tasks, seed)), jax.random.key(seed)
        order = np.asarray(orders(key, tasks)).T
        turned = gradients.copy()
        for i in range(tasks):
            for j in order[i][order[i] != i]:
                length = np.linalg.norm(turned[i])
                cosine = turned[i] @ gradients[j] / (length * np.linalg.norm(gradients[j]))
                wanted = usual[i, j]
                if cosine < wanted:
                    more = length * (
                        wanted * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - wanted**2)
                    )
                    more /= np.linalg.norm(gradients[j]) * np.sqrt(1 - wanted**2)
                    turned[i] += more * gradients[j]
                usual[i, j] = 0.5 * wanted + 0.5 * cosine
        gram = jnp.asarray(gradients @ gradients.T, jnp.float32)
        weights, state, _ = weigh(method, state, Measured(jnp.ones(tasks), gram, None, key))
        assert_close(np.asarray(weights) @ gradients, turned.sum(axis=0))
