"""What the analysis of a study finds, as plain data: all that page, tables and figures show.

Everything here can be written as JSON (`dataclasses.asdict`): texts, numbers, None where a number
is undefined, and tuples of these. Empty tuples stand for what the study holds no data of.
"""

import dataclasses
from typing import Any

Variant = tuple[str, str, str]  # architecture, prompt, labels

# The words of a verdict on an effect, by the rule of `statistics.verdict`.
GAIN, LOSS, UNDECIDED = "gain", "loss", "undecided"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval; None for what is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is said of an effect: GAIN, LOSS or UNDECIDED (also where there is no p-value).

    `p` is two-sided, of no effect; `q` is `p` adjusted to the false discovery rate over its family.
    """

    p: float | None
    q: float | None
    word: str


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A metric of a task on the test split, or the average over tasks, trained together and alone.

    Attributes:
      task: its short name, or "average".
      headline: whether the metric is the task's first.
      baseline: the variant whose single-task runs are compared with.
      single, multi: means over the seeds, in the metric's points.
      single_by_seed, multi_by_seed: pairs of a seed and its value.
      difference: multi - single, in points.
      percent: 100 (multi - single) / single.
      verdict: of a difference of 0; the family are the study's headline metrics.
      smallest_points, smallest_percent: the smallest true effect that would be seen 4 times in 5.
      rank: among the variant's tasks by `percent`, 1 the highest.
      examples: of the test split; None where their predictions aren't at hand.
      seeds: the smaller of the two kinds' numbers of seeds.
      seeds_needed: with how many seeds the interval would exclude 0 if the effect were as found;
        None: with no number of seeds, only with more test examples, or not known.
      method: BOOTSTRAP or SEEDS_ONLY.
    """

    variant: Variant
    task: str
    metric: str
    headline: bool
    baseline: Variant
    single: Estimate
    multi: Estimate
    single_by_seed: tuple[tuple[int, float], ...]
    multi_by_seed: tuple[tuple[int, float], ...]
    difference: Estimate
    percent: Estimate
    verdict: Verdict
    smallest_points: float | None
    smallest_percent: float | None
    rank: Estimate
    examples: int | None
    seeds: int
    seeds_needed: int | None
    method: str


BOOTSTRAP = "paired bootstrap"
SEEDS_ONLY = "seeds only"


@dataclasses.dataclass(frozen=True)
class VariantDifference:
    """What a change of one setting does to multi-task models: `variant` minus `other`.

    Attributes:
      changed: "architecture", "prompt" or "labels", in which alone the two differ, or "study".
      task: its short name, or "average"; always the headline metric.
      points: of the multi-task metric.
      percent: of the relative transfers, in percentage points.
      verdict: of `points` = 0; the family are all differences of the study.
    """

    variant: Variant
    other: Variant
    changed: str
    task: str
    metric: str
    points: Estimate
    percent: Estimate
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Curve:
    """A quantity over training: the mean over the seeds' runs with its interval at each step.

    `points` are as many as `steps`; steps stand at the middle of the stretch they are taken over.
    """

    steps: tuple[float, ...]
    points: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class TaskCurve:
    """A task's curve. `name` says of what: see the attribute of `Analysis` that holds it."""

    variant: Variant
    task: str
    name: str
    curve: Curve


@dataclasses.dataclass(frozen=True)
class Conflict:
    """The conflict between a variant's tasks in one group of parameters, over training.

    Attributes:
      group: "encoder", "decoder", a layer as "encoder/layers_0", …
      source: FIXED_POINT, UNBIASED or BATCH: what the figures are made of, the best there is.
      directional, mean_cosine, magnitude: the conflict.
      split_half: the cosine between the halves of one task's batch, averaged over the tasks: how
        alike gradients of *one* task look at half the batch size. Empty without halves.
      batch_cosine: the mean cosine between tasks of the steps' own batches, for comparison with
        `split_half`; noise-shortened.
      shuffled: 95 % band of the directional conflict of the batch if halves are put together
        without regard to their task; its `value` is the batch's own directional conflict.
      after_warm_up: the mean cosine over all measured steps after warm-up.
    """

    variant: Variant
    group: str
    source: str
    tasks: tuple[str, ...]
    directional: Curve
    mean_cosine: Curve
    magnitude: Curve
    split_half: Curve
    batch_cosine: Curve
    shuffled: Curve
    after_warm_up: Estimate


UNBIASED, FIXED_POINT, BATCH = "unbiased", "fixed point", "batch"


@dataclasses.dataclass(frozen=True)
class Pair:
    """The cosine between two tasks' gradients; by `verdict`, whether it is other than 0.

    Attributes:
      cosine: as large batches would have it; None where noise hides how long the gradients are.
      batch: of the steps' own batches, shortened by their noise; of the same sign.
      verdict: of `batch`: GAIN for tasks that pull together, LOSS for tasks that pull apart; the
        family are the pairs of the same matrix.
    """

    first: str
    second: str
    cosine: Estimate
    batch: Estimate
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Cosines:
    """The K x K cosines between the tasks' gradients over a stretch of the training.

    `pairs` are the K (K - 1) / 2 pairs with `first` before `second` in `tasks`. `whole` marks the
    matrix over everything after warm-up; the others follow each other in time.
    """

    variant: Variant
    group: str
    source: str
    tasks: tuple[str, ...]
    first_step: int
    last_step: int
    whole: bool
    pairs: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class Slowdown:
    """A task's training loss at equal steps, together minus alone, in nats: above 0 is slower.

    `mean` is over the steps of `difference` after warm-up. `verdict`: GAIN is faster, LOSS slower.
    """

    variant: Variant
    task: str
    single: Curve
    multi: Curve
    difference: Curve
    mean: Estimate
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Gap:
    """A task's dev loss at matched training loss, together minus alone, in nats.

    Above 0: at the same training loss the multi-task model generalizes worse. The curves' `steps`
    are training losses here, from high to low, over the range that all runs cover; `mean` is over
    that range. `verdict`: GAIN generalizes better, LOSS worse.
    """

    variant: Variant
    task: str
    single: Curve
    multi: Curve
    difference: Curve
    mean: Estimate
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Point:
    """One observation of an association."""

    variant: Variant
    task: str
    seed: int
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Association:
    """Whether a task's conflict goes with what becomes of it.

    Attributes:
      group: of parameters; x is the task's mean cosine with the others in it, after warm-up.
      outcome: "transfer" (percent), "slowdown" or "gap" (nats).
      correlation: Spearman's, of x and the outcome. `low` and `high` are the band in which it lies
        in 95 % of the permutations of the tasks, if the two have nothing to do with each other.
      p: share of the permutations with a correlation at least as far from 0.
    """

    group: str
    outcome: str
    correlation: Estimate
    p: float | None
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Flip:
    """A test example that all single-task runs answer otherwise than all multi-task runs do.

    `direction` is GAIN (wrong alone, right together) or LOSS. `single` and `multi` are the runs'
    answers in the order of their seeds.
    """

    direction: str
    example: int
    input: str
    target: str
    single: tuple[str, ...]
    multi: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Flips:
    """How many test examples of a task went from right to wrong and back.

    Attributes:
      rule: when an answer counts as right, in words.
      examples: of the test split; the five counts add up to it.
      right_to_wrong, wrong_to_right: those on which all runs of a kind agree, and the kinds don't.
      mixed: those on which runs of one kind differ.
      p: McNemar's exact test of the two counts.
      shown: some of the examples.
    """

    variant: Variant
    task: str
    rule: str
    examples: int
    right_to_wrong: int
    wrong_to_right: int
    both_right: int
    both_wrong: int
    mixed: int
    p: float | None
    shown: tuple[Flip, ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence of the verdict, made from `numbers` (pairs of a name and a value).

    `kind`: "transfer", "conflict", "why" or "limits": answers to which tasks hurt each other, how
    sure that is, and why. `variant` is None for a sentence on the whole study.
    """

    kind: str
    text: str
    variant: Variant | None
    numbers: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that a study's data say.

    Attributes:
      resamples: how many the bootstrap took.
      tasks: short names of all scored tasks, in the study's order.
      groups: of parameters whose conflict is known, whole stacks first, then their layers.
      sentences: in the order in which they are read.
      transfers: by variant, then task, the headline metric first; a variant's average is its last.
      shares: each task's share <g_k, sum_j g_j> / ||sum_j g_j||^2 of the update, named by group.
      noise_scales: in examples, named by group.
      notes: what could not be read or computed.
    """

    resamples: int
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    groups: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    transfers: tuple[Transfer, ...]
    differences: tuple[VariantDifference, ...]
    conflicts: tuple[Conflict, ...]
    cosines: tuple[Cosines, ...]
    shares: tuple[TaskCurve, ...]
    noise_scales: tuple[TaskCurve, ...]
    slowdowns: tuple[Slowdown, ...]
    gaps: tuple[Gap, ...]
    associations: tuple[Association, ...]
    flips: tuple[Flips, ...]
    notes: tuple[str, ...]
