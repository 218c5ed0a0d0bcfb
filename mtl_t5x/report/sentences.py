"""The verdict in sentences, each made from the analysis' numbers by one rule.

The first sentence, of kind "transfer" and no variant, is the study's headline. A task is called
helped or hurt where its verdict is GAIN or LOSS; what isn't decided is never called equal.
"""

import statistics
from collections.abc import Iterable, Sequence

from mtl_t5x.report.findings import (
    FIXED_POINT,
    GAIN,
    LOSS,
    SEEDS_ONLY,
    UNBIASED,
    Analysis,
    Association,
    Cosines,
    Estimate,
    Gap,
    Pair,
    Sentence,
    Slowdown,
    Transfer,
    Variant,
)

# So many tasks or pairs are named, the clearest first.
NAMED = 3


def sentences(found: Analysis) -> tuple[Sentence, ...]:
    """All sentences on an analysis, in the order in which they are read."""
    several = len(found.variants) > 1
    made = [_headline(found)]
    for variant in found.variants:
        made += _transfer(found, variant, several)
    made += _limits(found)
    for variant in found.variants:
        made += _conflict(found, variant, several)
        made += _learning(found, variant, several)
    made += [_association(one) for one in found.associations if one.group == _main_group(found)]
    return tuple(made)


def _task_effects(found: Analysis, variant: Variant | None = None) -> list[Transfer]:
    """The headline metrics' effects that both kinds of run give."""
    return [
        effect
        for effect in found.transfers
        if effect.headline and effect.task != "average" and effect.difference.value is not None
        if variant in (None, effect.variant)
    ]


def _headline(found: Analysis) -> Sentence:
    effects = _task_effects(found)
    helped, hurt = _decided(effects, GAIN), _decided(effects, LOSS)
    left = len(effects) - len(helped) - len(hurt)
    numbers = (("helped", len(helped)), ("hurt", len(hurt)), ("undecided", left))
    if not effects:
        text = "No task has been trained both together and alone yet, so nothing can be said."
    elif not helped and not hurt:
        text = f"Whether training together helps or hurts {_any_of(found, effects)} is undecided"
        text += _none_excludes(effects)
    elif len(found.variants) == 1:
        said = []
        if helped:
            said.append(f"helps {_effects(helped)}")
        if hurt:
            said.append(f"hurts {_effects(hurt)}")
        text = f"Training together {' and '.join(said)}"
        verb = "is" if left == 1 else "are"
        text += f"; {_count(left, 'other task')} {verb} undecided." if left else "."
    else:
        text = (
            f"Over {len(found.variants)} settings, training together helps a task "
            f"{_times(len(helped))} and hurts one {_times(len(hurt))}; {left} of {len(effects)} "
            "comparisons are undecided."
        )
    return Sentence("transfer", text, None, numbers)


def _any_of(found: Analysis, effects: Sequence[Transfer]) -> str:
    tasks = len({effect.task for effect in effects})
    where = f" in any of the {len(found.variants)} settings" if len(found.variants) > 1 else ""
    return f"any of the {tasks} tasks{where}"


def _none_excludes(effects: Sequence[Transfer]) -> str:
    known = [effect for effect in effects if effect.difference.low is not None]
    if not known:
        return ": nothing has an interval."
    excluding = [effect for effect in known if effect.difference.excludes_zero]
    if not excluding:
        without = len(effects) - len(known)
        return ": every interval includes 0" + (f", and {without} have none." if without else ".")
    return (
        f": {_count(len(excluding), 'interval')} of {len(effects)} exclude 0, which chance alone "
        "does among so many."
    )


def _transfer(found: Analysis, variant: Variant, several: bool) -> list[Sentence]:
    made = []
    effects = _task_effects(found, variant)
    where = _where(variant, several)
    if several and effects:
        parts = [
            f"{verb} {_effects(decided)}"
            for verb, word in (("helps", GAIN), ("hurts", LOSS))
            if (decided := _decided(effects, word))
        ]
        text = f"{where}training together {' and '.join(parts) or 'has no decided effect'}."
        made.append(Sentence("transfer", _first_upper(text), variant, _values(effects)))
    for average in found.transfers:
        if (average.variant, average.task) == (variant, "average"):
            made.append(_average(average, where))
    return [one for one in made if one is not None]


def _average(average: Transfer, where: str) -> Sentence | None:
    if average.percent.value is None:
        return None
    word = {GAIN: "a gain", LOSS: "a loss"}.get(average.verdict.word, "undecided")
    text = f"{where}on average over the tasks it changes the metrics by "
    text += f"{percent(average.percent)}: {word}."
    return Sentence("transfer", _first_upper(text), average.variant, _values([average]))


def _limits(found: Analysis) -> list[Sentence]:
    effects = [e for e in _task_effects(found) if e.smallest_percent is not None]
    made = []
    if effects:
        smallest = sorted(effects, key=lambda effect: effect.smallest_percent)
        low, high = smallest[0], smallest[-1]
        middle = statistics.median(effect.smallest_percent for effect in effects)
        seeds = sorted({effect.seeds for effect in effects})
        examples = [effect.examples for effect in effects if effect.examples]
        sample = f"{_range(seeds)} seeds"
        sample += f" and {_range(examples)} test examples a task" if examples else ""
        text = (
            f"From {sample}, an effect has to be about {middle:.0f} % to be seen four times in "
            f"five ({low.smallest_percent:.0f} % on {low.task}, {high.smallest_percent:.0f} % on "
            f"{high.task})."
        )
        made.append(Sentence("limits", text, None, (("smallest effect, %", middle),)))
    made += _what_would(found)
    seeds_only = [e.task for e in _task_effects(found) if e.method == SEEDS_ONLY and e.seeds > 1]
    if seeds_only:
        text = (
            f"The intervals of {_names(dict.fromkeys(seeds_only))} take the seeds alone as their "
            "sample, as not all predictions are at hand: they are wide."
        )
        made.append(Sentence("limits", text, None, (("tasks", len(set(seeds_only))),)))
    return made


def _what_would(found: Analysis) -> list[Sentence]:
    """What it takes to decide something, where nothing is."""
    effects = _task_effects(found)
    if not effects or any(effect.difference.excludes_zero for effect in effects):
        return []
    if not any(effect.difference.low is not None for effect in effects):
        text = "One seed of each kind of run gives no interval; two are the least."
        return [Sentence("limits", text, None, (("seeds", 1),))]
    needed = [effect for effect in effects if effect.seeds_needed is not None]
    text = "All intervals include 0: this study can't tell the tasks apart"
    if not needed:
        text += ", nor would more seeds; more test examples might."
        return [Sentence("limits", text, None, ())]
    least = min(needed, key=lambda effect: effect.seeds_needed)
    text += (
        f"; {least.seeds_needed} seeds would, if the effect on {least.task} is what was found "
        f"({percent(least.percent)})."
    )
    return [Sentence("limits", text, None, (("seeds", least.seeds_needed),))]


def _main_group(found: Analysis) -> str | None:
    return found.groups[0] if found.groups else None


def _conflict(found: Analysis, variant: Variant, several: bool) -> list[Sentence]:
    group, where = _main_group(found), _where(variant, several)
    place = (variant, group)
    conflict = next((c for c in found.conflicts if (c.variant, c.group) == place), None)
    matrix = next((c for c in found.cosines if c.whole and (c.variant, c.group) == place), None)
    if conflict is None or matrix is None:
        return []
    made = []
    mean = conflict.after_warm_up
    if mean.value is not None:
        text = f"{where}after warm-up the mean cosine between two tasks' gradients in the {group} "
        text += f"is {cosine(mean)}{_kind(conflict.source)}."
        numbers = (("mean cosine", mean.value), ("low", mean.low), ("high", mean.high))
        made.append(Sentence("conflict", _first_upper(text), variant, numbers))
    elif conflict.source == UNBIASED:
        made.append(_hidden(found, variant, group, where))
    made.append(_pairs(matrix, where))
    return made


def _kind(source: str) -> str:
    kinds = {UNBIASED: "", FIXED_POINT: ", at fixed points"}
    return kinds.get(source, ", of small batches, whose noise shortens it")


def _hidden(found: Analysis, variant: Variant, group: str, where: str) -> Sentence:
    scales = [
        scale.curve.points[-1].value
        for scale in found.noise_scales
        if (scale.variant, scale.name) == (variant, group) and scale.curve.points
    ]
    text = f"{where}after warm-up noise hides how the tasks' gradients in the {group} lie"
    if scales:
        text += f": their noise scale is about {statistics.median(scales):,.0f} examples at the end"
    text += "; larger batches, more measured steps or fixed points would show it."
    numbers = (("noise scale", statistics.median(scales)),) if scales else ()
    return Sentence("conflict", _first_upper(text), variant, numbers)


def _pairs(matrix: Cosines, where: str) -> Sentence:
    apart = [pair for pair in matrix.pairs if pair.verdict.word == LOSS]
    together = [pair for pair in matrix.pairs if pair.verdict.word == GAIN]
    parts = []
    if apart:
        parts.append(f"{_named_pairs(apart)} pull apart")
    if together:
        parts.append(f"{_named_pairs(together)} pull together")
    if parts:
        text = f"{where}the gradients of {', and those of '.join(parts)}."
    else:
        text = f"{where}none of the {len(matrix.pairs)} pairs of tasks clearly pulls apart or "
        text += "together after warm-up."
    numbers = (("apart", len(apart)), ("together", len(together)), ("pairs", len(matrix.pairs)))
    return Sentence("conflict", _first_upper(text), matrix.variant, numbers)


def _named_pairs(pairs: Sequence[Pair]) -> str:
    clearest = sorted(pairs, key=lambda pair: (pair.verdict.p, -abs(pair.batch.value)))
    names = [f"{pair.first} and {pair.second}{_of_pair(pair)}" for pair in clearest[:NAMED]]
    more = len(pairs) - NAMED
    return "; ".join(names) + (f" and {_count(more, 'other pair')}" if more > 0 else "")


def _of_pair(pair: Pair) -> str:
    return f" ({cosine(pair.cosine)})" if pair.cosine.value is not None else ""


def _learning(found: Analysis, variant: Variant, several: bool) -> list[Sentence]:
    where = _where(variant, several)
    slow = [one for one in found.slowdowns if one.variant == variant]
    gaps = [one for one in found.gaps if one.variant == variant]
    made = []
    if slow:
        made.append(
            _losses(slow, where, "at equal steps", ("learn faster", "learn slower"), variant)
        )
    if gaps:
        words = ("generalize better", "generalize worse")
        made.append(_losses(gaps, where, "at equal training loss", words, variant))
    elif slow:
        text = f"{where}whether tasks generalize worse at equal training loss isn't known: that "
        text += "takes dev losses at several steps of all runs (EVAL_PERIOD)."
        made.append(Sentence("why", _first_upper(text), variant, ()))
    return made


def _losses(
    rows: Sequence[Slowdown | Gap],
    where: str,
    at: str,
    words: tuple[str, str],
    variant: Variant,
) -> Sentence:
    parts = []
    for word, verb in zip((GAIN, LOSS), words, strict=True):
        mine = [row for row in rows if row.verdict.word == word]
        mine.sort(key=lambda row: -abs(row.mean.value))
        if mine:
            named = [f"{row.task} ({_signed(row.mean.value, '.2f')} nats)" for row in mine[:NAMED]]
            more = len(mine) - NAMED
            others = [_count(more, "other task")] if more > 0 else []
            first, _, rest = verb.partition(" ")
            first += "s" if len(mine) == 1 else ""
            parts.append(f"{_names([*named, *others])} {first} {rest}")
    if parts:
        text = f"{where}{at} {' and '.join(parts)} together than alone."
    else:
        text = f"{where}{at} no task is shown to {words[0]} or {words[1].split()[-1]} together."
    numbers = tuple((row.task, row.mean.value) for row in rows)
    return Sentence("why", _first_upper(text), variant, numbers)


def _association(one: Association) -> Sentence:
    outcomes = {
        "transfer": ("gain more", "gain less"),
        "slowdown": ("learn slower", "learn faster"),
        "gap": ("generalize worse", "generalize better"),
    }
    more, less = outcomes[one.outcome]
    value = one.correlation.value
    tasks = len({(point.variant, point.task) for point in one.points})
    figures = f"rank correlation {_signed(value, '.2f')} over {tasks} tasks, p = {one.p:.2g}"
    if one.p <= 0.05:
        text = f"Tasks whose gradients agree more with the others' {more if value > 0 else less} "
        text += f"({figures})."
    else:
        nouns = {"transfer": "transfer", "slowdown": "slowdown", "gap": "generalization gap"}
        text = f"Conflict isn't shown to go with {nouns[one.outcome]} ({figures})."
    return Sentence("why", text, None, (("correlation", value), ("p", one.p)))


def percent(one: Estimate) -> str:
    """As "+3.2 % [−1.0, 7.5]"."""
    return f"{_signed(one.value, '.1f')} %{_interval(one, '.1f')}"


def cosine(one: Estimate) -> str:
    """As "−0.12 [−0.20, −0.04]"."""
    return f"{_signed(one.value, '.2f')}{_interval(one, '.2f')}"


def _interval(one: Estimate, form: str) -> str:
    if one.low is None or one.high is None:
        return ""
    return f" [{_minus(format(one.low, form))}, {_minus(format(one.high, form))}]"


def _signed(value: float, form: str) -> str:
    return _minus(format(value, f"+{form}"))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _decided(effects: Iterable[Transfer], word: str) -> list[Transfer]:
    """Those with this verdict, the largest first."""
    mine = [effect for effect in effects if effect.verdict.word == word]
    return sorted(mine, key=lambda effect: -abs(effect.percent.value or 0))


def _effects(effects: Sequence[Transfer]) -> str:
    return _names(
        f"{effect.task} ({percent(effect.percent)})"
        if effect.percent.value is not None
        else f"{effect.task} ({_signed(effect.difference.value, '.1f')} points)"
        for effect in effects
    )


def _values(effects: Sequence[Transfer]) -> tuple[tuple[str, float | None], ...]:
    return tuple((effect.task, effect.percent.value) for effect in effects)


def _names(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _where(variant: Variant, several: bool) -> str:
    return f"{' · '.join(variant)}: " if several else ""


def _first_upper(text: str) -> str:
    """A sentence's first letter large, unless a variant's name stands there."""
    return text if " · " in text.split(": ")[0] else text[:1].upper() + text[1:]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
