"""How many examples a split has, and how many are cut, before a step is spent on it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import seqio

from mtl_t5x.data import features, heads, tokens
from mtl_t5x.settings import checks

logger = logging.getLogger(__name__)


def count(
    task: seqio.Task,
    split: str,
    lengths: features.FeatureLengths,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> dict[str, int]:
    """Of a split's examples, from the token cache: where it lacks them, every row is read.

    Returns:
      `examples`; of each feature how many are longer than its length, `<feature>_cut`, and the
      longest in tokens, `<feature>_longest`; `rows_dropped` where the source leaves out any. Of a
      task that draws one of several prompts, the mean over these, rounded. Nothing for a task that
      is streamed, and no lengths for one whose preprocessors can't do without a sequence length.
    """
    stored = tokens.examples(task, split, lengths, cache)
    if stored is None or not stored.untrimmed:
        logger.warning("%s: cut examples can't be counted", task.name)
    if stored is None:
        return {}
    counts = {"examples": len(stored)}
    for name, n in stored.untrimmed.items():
        counts[f"{name}_cut"] = round(int((n > lengths[name]).sum()) / stored.variants)
        counts[f"{name}_longest"] = int(n.max(initial=0))
    if stored.rows_dropped:
        counts["rows_dropped"] = stored.rows_dropped
    return counts


def count_lost_spans(
    task: seqio.Task,
    split: str,
    lengths: features.FeatureLengths,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> dict[str, int]:
    """`spans_unreachable`: not in the input's text; `spans_cut`: beyond the length. Of tasks that
    are answered by a span, and aren't streamed.

    Raises:
      ValueError: the examples lack what the task's head learns from.
    """
    stored = tokens.examples(task, split, lengths, cache)
    if stored is None or not isinstance(heads.head_of_task(task), heads.Span):
        return {}
    every = range(len(stored) * stored.variants)
    lost = heads.lost_spans(stored.head_targets(task, every, None), lengths["inputs"])
    return {name: round(number / stored.variants) for name, number in lost.items()}


def check(
    tasks: Mapping[str, seqio.Task],
    split: str,
    feature_lengths: features.FeatureLengths,
    batch_size: int = 1,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> dict[str, dict[str, int]]:
    """Counts of the split by the tasks' short names; says which tasks are cut.

    Raises:
      SettingsError: with every task that can't be read, has an empty split or fewer examples than a
        batch.
    """
    counts, faults = {}, []
    for name, task in tasks.items():
        lengths = features.lengths_of(name, feature_lengths)
        try:
            counts[name] = count(task, split, lengths, cache)
        except ValueError as error:
            faults.append(str(error))
            continue
        examples = counts[name].get("examples", batch_size)
        if not examples:
            faults.append(
                f"the {split} split of {task.name} has no examples: look at where its data is read "
                "from (DATA, for the tasks that come with mtl_t5x), or leave the task out"
            )
        elif examples < batch_size:
            faults.append(
                f"BATCH_SIZE = {batch_size}, but the {split} split of {task.name} has "
                f"{examples} examples: set BATCH_SIZE to {examples} at most, or leave the task out"
            )
        for feature, length in lengths.items():
            if cut := counts[name].get(f"{feature}_cut"):
                logger.warning(
                    "%s: %d of %d %s examples have their %s cut to %d tokens (the longest has %d); "
                    "raise TASK_FEATURE_LENGTHS[%r]",
                    task.name, cut, examples, split, feature, length,
                    counts[name][f"{feature}_longest"], feature,
                )  # fmt: skip
    checks.check(*faults)
    return counts
