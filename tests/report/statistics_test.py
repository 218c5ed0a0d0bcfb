import numpy as np
import pytest
from scipy import stats

from mtl_t5x.report import statistics
from mtl_t5x.report.findings import GAIN, LOSS, UNDECIDED, Estimate


def test_resamples_of_a_mean_have_its_standard_error_and_are_paired():
    values = np.random.default_rng(0).normal(size=150)

    def of_counts(counts):
        assert (counts.sum(axis=1) == 150).all()
        return counts @ values / 75

    mean = statistics.Scored(values[:, None], lambda sums: sums[:, 0] / 150)
    double = statistics.Scored(None, of_counts)
    found = statistics.resample({"b": double, "a": mean}, 150, 20_000, (1,))
    assert found["a"].std() == pytest.approx(values.std() / np.sqrt(150), rel=0.03)
    assert found["a"].mean() == pytest.approx(values.mean(), abs=5e-3)
    np.testing.assert_allclose(found["b"], 2 * found["a"])
    again = statistics.resample({"a": mean}, 150, 20_000, (1,))
    np.testing.assert_array_equal(again["a"], found["a"])


def test_a_cell_knows_what_seeds_differ_by_chance():
    """Runs that differ by independent noise on each example: c is that noise's variance / n."""
    rng = np.random.default_rng(0)
    examples, seeds, noise = 400, 3, 2.0
    scores = rng.normal(size=examples) + noise * rng.normal(size=(seeds, examples))
    metrics = {
        str(s): statistics.Scored(scores[s][:, None], lambda sums: sums[:, 0] / examples)
        for s in range(seeds)
    }
    draws = statistics.resample(metrics, examples, 4000, (0,))
    by_seed = {s: float(scores[s].mean()) for s in range(seeds)}
    found = statistics.cell(by_seed, np.stack(list(draws.values())))
    assert found.by_chance == pytest.approx(noise**2 / examples, rel=0.1)
    assert found.variance == pytest.approx(np.var(list(by_seed.values()), ddof=1))
    assert found.draws.std() == pytest.approx(scores.mean(0).std() / np.sqrt(examples), rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("phi", [1.0, 8.0])
def test_dispersions_are_found_and_sure_with_many_cells(seeds, phi):
    rng = np.random.default_rng(0)
    freedom = np.full(200, seeds - 1)
    ratios = phi * rng.chisquare(freedom) / freedom
    draws = statistics.dispersions(ratios, freedom, np.ones(200, bool), 4000, rng)
    assert np.median(draws) == pytest.approx(phi, rel=0.15)
    # Alone, a cell says little: its own ratio hardly moves what all of them say.
    assert np.quantile(np.median(draws, axis=1), [0.1, 0.9]) == pytest.approx([phi] * 2, rel=0.3)


def test_a_cell_unlike_the_others_keeps_more_of_its_own_where_cells_differ():
    rng = np.random.default_rng(0)
    freedom = np.full(40, 2)
    alike = rng.chisquare(freedom) / freedom
    unlike = alike * np.exp(2 * rng.standard_normal(40))
    medians = []
    for others in (alike, unlike):
        ratios = np.concatenate([others[1:], [12.0]])
        draws = statistics.dispersions(ratios, freedom, np.ones(40, bool), 4000, rng)
        medians.append(np.median(draws[-1]))
    assert medians[0] < 4 < 8 < medians[1]


@pytest.mark.parametrize("seed_sd", [0.0, 1.0, 4.0])
def test_draws_over_seeds_have_the_spread_of_means_of_new_runs(seed_sd):
    """100 cells of two runs, of known example noise 1 and seeds' noise."""
    rng = np.random.default_rng(1)
    cells, error = [], []
    for _ in range(100):
        runs = seed_sd * rng.standard_normal(2) + rng.standard_normal(2)
        draws = runs[:, None] + rng.standard_normal((2, 2000))
        cells.append(statistics.cell(dict(enumerate(runs)), draws))
        error.append(runs.mean())
    found = statistics.over_seeds(cells, [True] * 100, (0,))
    spread = np.mean([draws.std() for draws in found])
    assert spread == pytest.approx(np.sqrt((1 + seed_sd**2) / 2), rel=0.15)
    inside = [low <= 0 <= high for low, high in (np.quantile(d, [0.025, 0.975]) for d in found)]
    assert 0.9 <= np.mean(inside) <= 1


def test_one_seed_has_no_draws_and_equal_runs_add_nothing():
    draws = np.random.default_rng(0).normal(size=(2, 500))
    one = statistics.cell({0: 1.0}, draws[:1])
    equal = statistics.cell({0: 1.0, 1: 1.0}, np.stack([draws[0], draws[0]]))
    found = statistics.over_seeds([one, equal], [True, True], (0,))
    assert found[0] is None
    np.testing.assert_array_equal(found[1], draws[0])


def test_p_values_and_intervals_agree_and_are_those_of_the_normal_distribution():
    draws = 1.5 + np.random.default_rng(0).normal(size=100_000)
    assert statistics.p_value(draws) == pytest.approx(2 * stats.norm.sf(1.5), rel=0.05)
    found = statistics.interval(1.5, draws)
    assert (found.low, found.high) == pytest.approx((1.5 - 1.96, 1.5 + 1.96), abs=0.03)
    assert statistics.smallest_effect(found) == pytest.approx(1.96 + 0.8416, rel=0.01)
    assert statistics.p_value(np.ones(999)) == pytest.approx(2 / 1000)
    assert statistics.interval(1.0, np.array([1.0, np.inf, 2.0])) == Estimate(1.0)


def test_verdicts_hold_the_false_discovery_rate():
    p_values = [0.001, 0.02, None, 0.03, 0.9]
    adjusted = statistics.adjusted(p_values)
    # By hand: sorted p times 4 over rank, and the smallest of those from there on.
    assert adjusted == pytest.approx((0.004, 0.04, None, 0.04, 0.9))
    words = [v.word for v in statistics.verdicts([1.0, -2.0, 3.0, None, -1.0], p_values)]
    assert words == [GAIN, LOSS, UNDECIDED, UNDECIDED, UNDECIDED]
    (slower,) = statistics.verdicts([0.2], [0.01], good=-1)
    assert slower.word == LOSS


def test_ranks():
    rng = np.random.default_rng(0)
    draws = [mean + rng.normal(size=1000) for mean in (0.0, 100.0, 0.1)]
    first, second, third = statistics.ranks([0.0, 100.0, 0.1], draws)
    assert (second.value, second.low, second.high) == (1, 1, 1)
    assert (first.value, third.value) == (3, 2)
    assert (first.low, first.high, third.low, third.high) == (2, 3, 2, 3)


def test_seeds_needed_are_those_with_which_the_interval_excludes_zero():
    """Examples leave a standard error of 1, two seeds one of 3: by hand, N seeds sqrt(1 + 18/N)."""
    of_examples = np.random.default_rng(0).normal(size=100_000)
    half = 1.96 * np.sqrt(1 + 9)
    for effect, needed in ((1.9, None), (4.0, 6), (8.0, 2)):
        estimate = Estimate(effect, effect - half, effect + half)
        found = statistics.seeds_needed(estimate, of_examples=of_examples, by_chance=0.0, seeds=2)
        assert found == needed
