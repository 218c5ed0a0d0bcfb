"""In which proportions the tasks are trained, and what that makes of a step's batch.

Rates r_k stand for one objective, sum_k r_k L_k, which a step estimates in one of three ways: by so
many examples of each task, each counting alike; by as many of every task, whose gradients are
weighted; or by the examples of one task that is drawn.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
from jaxtyping import Bool, Float, Int

logger = logging.getLogger(__name__)

EXAMPLE_WEIGHTS = "example_weights"  # [task, batch]: 0 for rows that only fill a batch up
SOURCES = ("mixture", "examples")
WAYS = ("examples", "weights", "draws")
_BLOCK = 4096  # steps whose draws are made together


@dataclasses.dataclass(frozen=True)
class Rates:
    """In which proportions the tasks are trained.

    Attributes:
      source: "mixture": the rates with which `mixture` was registered; "examples": the number of a
        task's train examples, `maximum` at most; or a rate by the tasks' short names. None: all
        alike.
      mixture: names in SeqIO's registries; a task that is named itself has rate 1.
      used_as: "examples", "weights" or "draws", see above.
      temperature: T of r_k^(1/T), T5's mixing (Raffel et al. 2020, arXiv 1910.10683, section
        3.5.2): 1 leaves the rates, larger ones bring them together.
      maximum: T5's artificial limit of a data set's size.
    """

    source: str | Mapping[str, int | float] | None = None
    mixture: str | Sequence[str] = ()
    used_as: str = "examples"
    temperature: float = 1.0
    maximum: int | float | None = None

    def __post_init__(self):
        if isinstance(self.source, str) and self.source not in SOURCES:
            raise ValueError(
                f"RATES = {self.source!r}: it must be one of {SOURCES}, or a rate by task name"
            )
        if self.used_as not in WAYS:
            raise ValueError(f"rates.Rates.used_as = {self.used_as!r}: it must be one of {WAYS}")
        if not self.temperature > 0:
            raise ValueError(f"rates.Rates.temperature = {self.temperature}: it must be above 0")
        if self.maximum is not None and self.source != "examples":
            raise ValueError(
                f"rates.Rates.maximum = {self.maximum} limits numbers of examples: set RATES = "
                '"examples", or leave it out'
            )

    def shares(self, tasks: Mapping[str, seqio.Task]) -> Float[np.ndarray, " task"] | None:
        """The rates of the tasks by their short names, scaled to sum to 1; None: all alike.

        Raises:
          ValueError: a rate that is 0, negative or no number, of a task that isn't there, or none
            of one that is.
        """
        if self.source is None:
            return None
        rates = np.array([rate for rate in self._rates(tasks).values()], np.float64)
        shares = rates ** (1 / self.temperature)
        return shares / shares.sum()

    def tell_unused(self, tasks: Mapping[str, seqio.Task]) -> None:
        """Says so in the log where a mixture's tasks have different rates, and they aren't used."""
        if self.source is not None or not self.mixture:
            return
        found = of_mixture(self.mixture, tasks)
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} {rate:g}" for name, rate in found.items())
            logger.warning(
                "%s has rates (%s) that aren't used: every step takes as many examples of each "
                'task. RATES = "mixture" uses them, rates.Rates.used_as says how', self.mixture,
                listed,
            )  # fmt: skip

    def _rates(self, tasks: Mapping[str, seqio.Task]) -> dict[str, float]:
        if self.source == "mixture":
            found = of_mixture(self.mixture, tasks)
        elif self.source == "examples":
            found = {name: task.num_input_examples("train") for name, task in tasks.items()}
            if unknown := [name for name, number in found.items() if number is None]:
                raise ValueError(
                    f'RATES = "examples": the source of {", ".join(unknown)} doesn\'t say how many '
                    "examples it has; give rates by task name"
                )
            found = {name: min(n, self.maximum or n) for name, n in found.items()}
        else:
            found = self.source
        for name in (*found, *tasks):
            if name not in tasks or name not in found:
                raise ValueError(
                    f"RATES: {name!r} {'is not trained' if name in found else 'has no rate'}; give "
                    f"one to each of {', '.join(tasks)}"
                )
        for name, rate in found.items():
            if not (math.isfinite(rate) and rate > 0):
                raise ValueError(
                    f"RATES: the rate of {name} is {rate}, and must be above 0; leave the task out "
                    "of MIXTURE_OR_TASK_NAME if it isn't to be trained"
                )
        return {name: float(found[name]) for name in tasks}


def of_mixture(mixture: str | Sequence[str], tasks: Mapping[str, seqio.Task]) -> dict[str, float]:
    """The rates with which the tasks are in the mixtures that are named, or 1 by their own name."""
    rates = dict.fromkeys(tasks, 0.0)
    for name in [mixture] if isinstance(mixture, str) else mixture:
        found = seqio.get_mixture_or_task(name)
        for short, task in tasks.items():
            if isinstance(found, seqio.Mixture):
                inside = task.name in {one.name for one in found.tasks}
                rates[short] += float(found.get_rate(task)) if inside else 0.0
            else:
                rates[short] += float(found.name == task.name)
    return rates


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many examples of each task a step takes.

    Attributes:
      numbers: of each task; with `shares`, of the one that is drawn.
      blocks: into so many equal blocks a task's rows are cut, by devices and halves; its examples
        are spread over them evenly.
      shares: how probable it is that a task is drawn; None: every step takes all tasks.
      seed: of the draws.
    """

    numbers: tuple[int, ...]
    blocks: int
    shares: tuple[float, ...] | None = None
    seed: int = 0

    @property
    def rows(self) -> int:
        """Of the batch: the most examples that a task may have."""
        return max(self.numbers)

    def taken(self, task: int, step: int) -> tuple[int, int]:
        """(how many examples the task gave before the step, how many it gives)."""
        number = self.numbers[task]
        if self.shares is None:
            return step * number, number
        block, offset = divmod(step, _BLOCK)
        drawn = self._drawn(block)
        before = self._drawn_before(block)[task] + np.sum(drawn[:offset] == task)
        return int(before) * number, number if drawn[offset] == task else 0

    def _drawn(self, block: int) -> Int[np.ndarray, " step"]:
        return _draws(self.shares, self.seed, block)

    def _drawn_before(self, block: int) -> Int[np.ndarray, " task"]:
        return _counts(self.shares, self.seed, block)


@functools.lru_cache(maxsize=4)
def _draws(shares: tuple[float, ...], seed: int, block: int) -> Int[np.ndarray, " step"]:
    generator = np.random.Generator(np.random.PCG64([seed, block]))
    return generator.choice(len(shares), _BLOCK, p=shares)


@functools.lru_cache(maxsize=4)
def _counts(shares: tuple[float, ...], seed: int, block: int) -> Int[np.ndarray, " task"]:
    """How often each task was drawn in the blocks before."""
    counts = np.zeros(len(shares), np.int64)
    for before in range(block):
        counts += np.bincount(_draws(shares, seed, before), minlength=len(shares))
    return counts


def places(
    number: int, rows: int, blocks: int
) -> tuple[Int[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """(which of a task's `number` examples stands in each row, whether it counts there).

    Each block of rows begins with its part of the examples; what fills it up repeats them.
    """
    if number == 0:
        return np.zeros(rows, np.int64), np.zeros(rows, bool)
    each, size = number // blocks, rows // blocks
    within = np.arange(size)
    place = np.arange(blocks)[:, None] * each + within % each
    return place.ravel(), np.tile(within < each, blocks)


def plan(
    shares: Float[np.ndarray, " task"], batch_size: int, parts: int, used_as: str, seed: int
) -> Plan:
    """The numbers of examples nearest to the shares, about `batch_size` a task on average.

    Args:
      shares: of the tasks, that sum to 1.
      batch_size: examples of a task, if all had as many.
      parts: that a task's examples are computed in: each number is a multiple of that, and of twice
        that where `batch_size` is, so that the parts have halves.
      used_as: "examples" or "draws".
      seed: of the draws.
    """
    unit = 2 * parts if batch_size % (2 * parts) == 0 else parts
    tasks = len(shares)
    if used_as == "draws":
        return Plan((batch_size,) * tasks, unit, tuple(shares.tolist()), seed)
    wanted = shares * (batch_size * tasks // unit)
    units = np.maximum(np.floor(wanted), 1).astype(int)
    left = batch_size * tasks // unit - units.sum()
    for task in np.argsort(units - wanted)[: max(left, 0)]:  # the largest remainders
        units[task] += 1
    return Plan(tuple(int(n) * unit for n in units), unit)
