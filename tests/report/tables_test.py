import statistics

import numpy as np
import pytest
from scipy import stats

from mtl_t5x.report import tables


def test_interval_without_spread_in_the_baseline_is_the_one_sample_t_interval():
    multi, single = [61.0, 64.0, 62.5], [50.0, 50.0, 50.0]
    percent, low, high = tables.relative_transfer(multi, single)
    exact = stats.ttest_1samp(multi, 0).confidence_interval(0.95)
    assert percent == pytest.approx(100 * (statistics.fmean(multi) / 50 - 1))
    assert (low, high) == pytest.approx((2 * exact.low - 100, 2 * exact.high - 100))


def test_interval_of_equal_means_is_welchs():
    multi, single = [60.0, 62.0, 64.0, 66.0], [62.5, 63.0, 63.5]
    percent, low, high = tables.relative_transfer(multi, single)
    welch = stats.ttest_ind(multi, single, equal_var=False).confidence_interval(0.95)
    assert percent == pytest.approx(0)
    assert (low, high) == pytest.approx((100 * welch.low / 63, 100 * welch.high / 63))


@pytest.mark.parametrize("single", [[62.5, 63.0, 63.5], [62.0, 62.0]])
def test_welch_is_scipys(single):
    multi = [60.0, 62.0, 64.5, 66.0]
    expected = stats.ttest_ind_from_stats(
        *(np.mean(multi), np.std(multi, ddof=1), 4),
        *(np.mean(single), np.std(single, ddof=1), len(single)),
        equal_var=False,
    )
    low, high, p = tables.welch(multi, single)
    assert p == pytest.approx(expected.pvalue)
    assert (low + high) / 2 == pytest.approx(np.mean(multi) - np.mean(single))
    exact = stats.ttest_ind(multi, [62.5, 63.0, 63.5], equal_var=False).confidence_interval()
    assert tables.welch(multi, [62.5, 63.0, 63.5])[:2] == pytest.approx((exact.low, exact.high))


def test_interval_does_not_depend_on_the_metrics_unit():
    multi, single = np.array([61.0, 64.0]), np.array([60.0, 62.0])
    expected = tables.relative_transfer(list(multi), list(single))
    for scale in (1e-2, 1e-200, 1e6):
        scaled = tables.relative_transfer(list(scale * multi), list(scale * single))
        assert scaled[0] == pytest.approx(expected[0])
        if scale > 1e-100:  # below, variances underflow
            assert scaled == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seeds", "multi_sd", "single_sd"), [(2, 2, 2), (2, 1, 4), (3, 4, 1), (5, 3, 3), (5, 1, 6)]
)
def test_interval_covers_the_true_ratio(seeds, multi_sd, single_sd):
    rng = np.random.default_rng(0)
    draws = 2000
    multi = rng.normal(66, multi_sd, (draws, seeds))
    single = rng.normal(60, single_sd, (draws, seeds))
    covered = 0
    for ours, base in zip(multi.tolist(), single.tolist(), strict=True):
        _, low, high = tables.relative_transfer(ours, base)
        covered += low <= 10 <= high
    # Welch's degrees of freedom leave a few seeds within 0.93 and 0.985; 3 s.d. of the draws more.
    assert 0.915 <= covered / draws <= 0.99


@pytest.mark.parametrize(
    ("multi", "single", "defined"),
    [
        ([], [60.0, 61.0], (False, False)),
        ([60.0, 61.0], [], (False, False)),
        ([60.0], [61.0], (True, False)),
        ([60.0, 61.0], [61.0], (True, False)),
        ([5.0, 6.0], [0.0, 0.0], (False, False)),
        ([5.0, 6.0], [-3.0, 1.0], (False, False)),
    ],
)
def test_transfer_is_undefined_without_a_base_and_the_interval_without_seeds(
    multi, single, defined
):
    percent, low, high = tables.relative_transfer(multi, single)
    assert (percent is not None, low is not None) == defined
    assert (low is None) == (high is None)


def test_equal_seeds_give_an_interval_without_width():
    assert tables.relative_transfer([50.0, 50.0], [40.0, 40.0]) == (25.0, 25.0, 25.0)
