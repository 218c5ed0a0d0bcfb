import numpy as np
import pytest

from mtl_t5x.report import curves


def series(seed, steps=range(0, 100, 2), mean=0.0, noise=1.0):
    rng = np.random.default_rng(seed)
    steps = np.array(steps)
    return curves.Series(steps, mean + noise * rng.standard_normal((len(steps), 1)))


def test_stretches_hold_all_steps_once():
    windows = curves.stretches([series(0), series(1, range(1, 100, 7))], most=6)
    steps = sorted({*range(0, 100, 2), *range(1, 100, 7)})
    assert len(windows) == 6
    held = [step for step in steps for first, last in windows if first <= step <= last]
    assert held == steps
    assert curves.stretches([series(0, range(7))]) == ((0, 6),)
    assert curves.stretches([]) == ()


def test_a_mean_over_steps_and_runs_has_the_interval_of_both():
    """4 runs of 50 steps around means that differ by 3: the runs' share is nearly all."""
    runs = [series(seed, mean=3.0 * x) for seed, x in enumerate((-1.5, -0.5, 0.5, 1.5))]
    found = curves.means(runs, [(0, 98)], 4000, (0,))
    one = found.estimate(0)
    assert one.value == pytest.approx(np.mean([run.values.mean() for run in runs]))
    spread = 3 * np.std([-1.5, -0.5, 0.5, 1.5], ddof=1) / 2  # of the mean of 4 runs
    assert one.high - one.low > 2 * 1.96 * spread
    alike = curves.means([series(seed) for seed in range(4)], [(0, 98)], 4000, (0,)).estimate(0)
    assert alike.high - alike.low < 4 * 1.96 / np.sqrt(200) * 2


def test_one_run_has_the_interval_of_its_steps_and_one_step_none():
    found = curves.means([series(0)], [(0, 98), (0, 0)], 4000, (0,))
    one = found.estimate(0)
    error = series(0).values.std(ddof=1) / np.sqrt(50)
    # With a window of one step no error is known, and of one run nothing else is.
    assert one.low is None and found.draws is None
    alone = curves.means([series(0)], [(0, 98)], 4000, (0,)).estimate(0)
    assert (alone.high - alone.low) == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_what_a_run_did_not_log_is_left_out():
    runs = [series(0), series(1, range(50, 100, 2))]
    found = curves.means(runs, [(0, 40), (50, 98)], 500, (0,))
    assert found.estimate(0).value is None and found.estimate(1).value is not None
    assert len(found.curve().steps) == 1
    over = found.estimate(1, over=2.0)
    assert over.value == pytest.approx(found.estimate(1).value / 2)
