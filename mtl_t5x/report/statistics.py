"""Intervals, tests and ranks of differences between models that answer the same test examples.

**Two sources of chance.** A metric of models trained alike varies with the test examples drawn and
with the seeds drawn. The first is known well from one study: resampling the examples, the same for
every model (a paired bootstrap), gives draws of the mean over the seeds. The second isn't: two or
three seeds tell little about a variance. What helps is that all cells of a study (a cell is a
task's runs of one kind, over the seeds) were trained by one recipe.

With m_s a cell's metric by seed, s^2 = var_s m_s, and m_s* the same on a resample, c = E* var_s
(m_s* - m_s) is what s^2 would be if seeds differed by chance on this many examples alone. Their
ratio's expectation, the dispersion phi, is 1 then and larger where the seeds matter; it has no
unit, so cells of different metrics can be compared. The model is that of moderated variances (Smyth
2004, Stat. Appl. Genet. Mol. Biol. 3:3; of dispersions: Lund et al. 2012, same journal 11:5):
s^2/c ~ phi chi^2_d/d with d = seeds - 1, and phi ~ scaled inverse chi^2 with a scale and degrees of
freedom that the study's cells have in common. Those two are not plugged in as estimates but drawn
from their posterior, flat in log scale and in the standard deviation of log phi: with few cells the
estimates are too sure, and intervals miss.

A draw of a cell's mean is the mean on a resample, plus normal noise of variance (phi - 1) c/seeds,
phi drawn from the cell's posterior: c itself is in the resample already. Intervals, p-values and
ranks are read off these draws. `tests/benchmarks/intervals.py` shows that they cover.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from mtl_t5x.report.findings import GAIN, LOSS, UNDECIDED, Estimate, Verdict

Draws = Float[np.ndarray, " resample"]
Counts = Float[np.ndarray, "resample unit"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A metric of a run's answers, on resamples of a test split.

    Attributes:
      statistics: of each unit; None where the metric is no function of their sums.
      value: the metric of each resample, from the sums of `statistics` over the units drawn, or
        where there are none from how often every unit is drawn.
    """

    statistics: Float[np.ndarray, "unit statistic"] | None
    value: Callable[[Float[np.ndarray, "resample _"]], Draws]

    def of(self, counts: Counts) -> Draws:
        return self.value(counts if self.statistics is None else counts @ self.statistics)


# The share of wrong verdicts among all given, at most; and of intervals that miss.
LEVEL = 0.05
# With which probability an effect of the smallest size named would be seen.
POWER = 0.8
# Standard errors from the middle of an interval to its end, and from 0 to an effect seen so often.
_HALF = float(stats.norm.ppf(1 - LEVEL / 2))
_SEEN = _HALF + float(stats.norm.ppf(POWER))
# Numbers of one block of resamples: enough for NumPy, few enough for the cache.
_BLOCK = 2_000_000


def resample(
    metrics: Mapping[Any, Scored], units: int, resamples: int, seed: Sequence[int]
) -> dict[Any, Draws]:
    """Each metric on resamples of a test split's units, the same for all metrics.

    Args:
      metrics: by any name.
      units: of the split, which are drawn with replacement.
      resamples: how many.
      seed: of the draws.
    """
    found = {name: [] for name in metrics}
    summed = {name: one for name, one in metrics.items() if one.statistics is not None}
    tables = [one.statistics for one in summed.values()]
    table = np.concatenate(tables, axis=1) if tables else np.zeros((units, 0))
    ends = np.cumsum([one.shape[1] for one in tables])
    for block in counts(units, resamples, np.random.default_rng(list(seed))):
        # One product for all: the counts are far larger than anything else.
        sums = dict(zip(summed, np.split(block @ table, ends[:-1], axis=1), strict=False))
        for name, metric in metrics.items():
            found[name].append(metric.value(sums.get(name, block)))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def counts(units: int, resamples: int, rng: np.random.Generator) -> Iterator[Counts]:
    """How often each unit is in each resample, in blocks of resamples."""
    block = max(1, _BLOCK // units)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        found = np.bincount(drawn.ravel(), minlength=rows * units)
        yield found.reshape(rows, units).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric's mean over the seeds of runs of one kind.

    Attributes:
      by_seed: the metric of each run.
      draws: of the mean, on resamples of the test examples.
      variance: between the seeds, s^2; NaN of one seed.
      by_chance: what it would be by chance on the examples alone, c; NaN of one seed.
    """

    by_seed: Mapping[int, float]
    draws: Draws
    variance: float
    by_chance: float

    @property
    def value(self) -> float:
        return math.fsum(self.by_seed.values()) / len(self.by_seed)

    @property
    def seeds(self) -> int:
        return len(self.by_seed)


def cell(by_seed: Mapping[int, float], draws: Float[np.ndarray, "seed resample"]) -> Cell:
    """From each run's metric, and its values on the same resamples."""
    values = np.array(list(by_seed.values()))
    mean = draws.mean(axis=0)
    if len(values) < 2:
        return Cell(dict(by_seed), mean, math.nan, math.nan)
    within = (draws - mean).var(axis=1).sum() / (len(values) - 1)
    return Cell(dict(by_seed), mean, float(values.var(ddof=1)), float(within))


# The grid of the prior: standard deviations of log phi, and steps of log scale.
_SPREADS = np.linspace(0.1, 3.0, 30)
_SCALES = 80
_SMALLEST = 1e-3


def dispersions(
    ratios: Float[np.ndarray, " cell"],
    freedom: Int[np.ndarray, " cell"],
    informs: Bool[np.ndarray, " cell"],
    resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "cell resample"]:
    """Draws of every cell's dispersion phi from its posterior; see the module's text.

    Args:
      ratios: s^2/c of each cell.
      freedom: of each cell, its seeds - 1.
      informs: which of them tell what cells have in common: not those that repeat others, as a
        second metric of the same answers.
      resamples: how many draws.
      rng: of the draws.
    """
    ratios = np.maximum(ratios, _SMALLEST)
    logs = np.log(ratios[informs])[:, None, None]
    d = freedom[informs][:, None, None]
    # A scaled inverse chi^2 of v degrees of freedom has var log phi = trigamma(v/2), about 2/v.
    prior = (2 / _SPREADS**2)[None, :, None]
    scales = np.linspace(logs.min() - 3, logs.max() + 3, _SCALES)
    x = logs - scales
    # The ratio over the scale has an F distribution of (d, prior) degrees of freedom.
    logits = d / 2 * x - (d + prior) / 2 * np.logaddexp(np.log(prior), np.log(d) + x)
    logits += prior / 2 * np.log(prior) - special.betaln(d / 2, prior / 2)
    weights = special.softmax(logits.sum(axis=0))
    place = rng.choice(weights.size, resamples, p=weights.ravel())
    spread, scale = np.unravel_index(place, weights.shape)
    prior, scale = prior[0, spread, 0], np.exp(scales[scale])
    own = (freedom * ratios)[:, None]
    return (prior * scale + own) / rng.chisquare(prior + freedom[:, None])


def over_seeds(
    cells: Sequence[Cell], informs: Sequence[bool], seed: Sequence[int]
) -> tuple[Draws | None, ...]:
    """Draws of each cell's mean over new examples *and* new seeds.

    None of a cell with one seed. Where the runs of a cell score alike on every resample nothing is
    seen of what seeds do there, and nothing is added.

    Args:
      cells: of one study.
      informs: as for `dispersions`.
      seed: of the draws.
    """
    rng = np.random.default_rng(list(seed))
    found = [one.draws if one.seeds > 1 else None for one in cells]
    seen = [i for i, one in enumerate(cells) if one.seeds > 1 and one.by_chance > 0]
    told = np.array([informs[i] for i in seen], bool)
    if not told.any():
        return tuple(found)
    ratios = np.array([cells[i].variance / cells[i].by_chance for i in seen])
    freedom = np.array([cells[i].seeds - 1 for i in seen])
    resamples = len(cells[0].draws)
    for i, phi in zip(seen, dispersions(ratios, freedom, told, resamples, rng), strict=True):
        added = np.maximum(phi - 1, 0) * cells[i].by_chance / cells[i].seeds
        found[i] = cells[i].draws + np.sqrt(added) * rng.standard_normal(resamples)
    return tuple(found)


def over_runs(
    values: Float[np.ndarray, "cell run"],
    errors: Float[np.ndarray, "cell run"] | None,
    resamples: int,
    seed: Sequence[int],
) -> Float[np.ndarray, "cell resample"] | None:
    """Draws of the mean over new runs of each of many figures that several runs have logged.

    The figures' variances between runs are moderated as those of cells are: relative to the squared
    standard errors that the figures have within their runs, where these are known.

    Returns:
      None of one run without errors, which tells nothing; of one run with errors, draws for new
      batches of this run.
    """
    rng = np.random.default_rng(list(seed))
    cells, runs = values.shape
    mean = values.mean(axis=1, keepdims=True)
    if errors is None:
        if runs < 2:
            return None
        within = np.full(cells, values.var() or 1.0)  # a unit; their ratios are what matters
        added = np.zeros((cells, resamples))
    else:
        within = (errors**2).mean(axis=1)
        added = np.sqrt(within / runs)[:, None] * rng.standard_normal((cells, resamples))
    if runs > 1:
        known = within > 0
        ratios = values.var(axis=1, ddof=1) / np.where(known, within, 1)
        freedom = np.full(cells, runs - 1)
        if known.any():
            phi = dispersions(np.where(known, ratios, 1), freedom, known, resamples, rng)
            more = phi if errors is None else np.maximum(phi - 1, 0)
            noise = rng.standard_normal((cells, resamples))
            added += np.sqrt(more * within[:, None] / runs) * noise
    return mean + added


def interval(value: float | None, draws: Draws | None) -> Estimate:
    """A number, and the 2.5 and 97.5 % quantiles of its draws where those are finite."""
    if draws is None or value is None:
        return Estimate(value)
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2], method="inverted_cdf")
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(value)
    return Estimate(value, float(low), float(high))


def p_value(draws: Draws) -> float:
    """Two-sided, of 0: twice the smaller share of draws on one side of it, itself counted in."""
    draws_and_it = len(draws) + 1
    sides = (np.sum(draws <= 0) + 1, np.sum(draws >= 0) + 1)
    return float(min(1.0, 2 * min(sides) / draws_and_it))


def adjusted(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """p-values adjusted to the false discovery rate (Benjamini and Hochberg 1995), None left out.

    Those at most `LEVEL` have that rate at most, where tests are independent or positively so.
    """
    known = [p for p in p_values if p is not None]
    if not known:
        return tuple(p_values)
    values = iter(stats.false_discovery_control(known))
    return tuple(None if p is None else float(next(values)) for p in p_values)


def verdict(value: float | None, p: float | None, q: float | None, good: int = 1) -> Verdict:
    """GAIN or LOSS where q is at most `LEVEL`, else UNDECIDED.

    Args:
      value: the effect.
      p, q: its p-value, as it is and adjusted.
      good: the sign of an effect that is a gain.
    """
    if value is None or q is None or q > LEVEL or value == 0:
        return Verdict(p, q, UNDECIDED)
    return Verdict(p, q, GAIN if value * good > 0 else LOSS)


def verdicts(
    values: Sequence[float | None], p_values: Sequence[float | None], good: int = 1
) -> tuple[Verdict, ...]:
    """The verdicts of a family of effects."""
    columns = zip(values, p_values, adjusted(p_values), strict=True)
    return tuple(verdict(*column, good) for column in columns)


def smallest_effect(estimate: Estimate) -> float | None:
    """The smallest true effect whose interval would exclude 0 with probability `POWER`.

    (z_0.975 + z_0.8) standard errors, and the standard error from the interval's width.
    """
    if estimate.low is None or estimate.high is None:
        return None
    return _SEEN * (estimate.high - estimate.low) / (2 * _HALF)


def ranks(values: Sequence[float], draws: Sequence[Draws]) -> tuple[Estimate, ...]:
    """Each value's rank among all, 1 the highest, with its interval."""
    if not values:
        return ()
    points = stats.rankdata([-value for value in values], method="min")
    drawn = stats.rankdata(-np.stack(draws), axis=0, method="ordinal").astype(float)
    return tuple(interval(float(p), of_rank) for p, of_rank in zip(points, drawn, strict=True))


def seeds_needed(
    effect: Estimate, *, of_examples: Draws, by_chance: float, seeds: int, most: int = 100
) -> int | None:
    """With how many seeds of each kind an effect's interval would exclude 0, if it is as found.

    The interval's variance is that of the examples alone, which stays, and the seeds', which falls
    with their number.

    Args:
      effect: with its interval over new examples and seeds.
      of_examples: its draws over new examples alone.
      by_chance: the sum over the two cells of c/seeds, the part of `of_examples` that falls, too.
      seeds: of each kind, as it is.
      most: what is no longer called a number of seeds.

    Returns:
      None where even `most` seeds wouldn't.
    """
    stays = max(float(of_examples.var()) - by_chance, 0.0)
    falls = max(((effect.high - effect.low) / (2 * _HALF)) ** 2 - stays, 0.0) * seeds
    room = (effect.value / _HALF) ** 2 - stays
    if room <= 0:
        return None
    needed = max(2, math.ceil(falls / room))
    return needed if needed <= most else None
