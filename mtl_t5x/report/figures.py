"""What of an analysis is drawn on the page: charts with their captions, controls and panels."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from mtl_t5x.report import captions, charts, findings, vega, words
from mtl_t5x.report.typeset import Cell, Table, estimate, number, table

TOGETHER, ALONE = "var(--together)", "var(--alone)"


@dataclasses.dataclass(frozen=True)
class Control:
    """What a reader sets: a signal, one of whose `options`, (value, label), is chosen."""

    signal: str
    label: str
    options: tuple[tuple[str, str], ...]
    slider: bool = False


@dataclasses.dataclass(frozen=True)
class Key:
    """A line of a legend."""

    name: str
    colour: str
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """A chart with its title; `task` is whose it is, "" where it shows several.

    `verdict` stands behind the title, in the colour of `word`.
    """

    title: str
    spec: vega.Spec
    task: str = ""
    verdict: str = ""
    word: str = findings.UNDECIDED


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the page; `numbers` say the same in a table."""

    title: str
    caption: str
    panels: tuple[Panel, ...]
    numbers: Table
    keys: tuple[Key, ...] = ()
    controls: tuple[Control, ...] = ()


def of_variant(found: findings.Analysis, variant: findings.Variant) -> tuple[Figure, ...]:
    """A variant's figures: who pulls against whom, when and where, and what comes of it."""

    def mine(parts: Iterable) -> list:
        return [part for part in parts if part.variant == variant]

    tasks = drawn_tasks(found)
    figures = (
        _pairs(mine(found.cosines)),
        _conflict(mine(found.conflicts)),
        _layers(mine(found.conflicts)),
        _by_task(tasks, mine(found.shares), SHARES),
        _by_task(tasks, mine(found.noise_scales), NOISE, log=True),
        _slowdown(mine(found.slowdowns)),
        _gap(mine(found.gaps)),
    )
    return tuple(figure for figure in figures if figure)


def of_study(found: findings.Analysis) -> tuple[Figure, ...]:
    """The figures that all variants share."""
    figures = (_compared(found), _associations(found))
    return tuple(figure for figure in figures if figure)


def drawn_tasks(found: findings.Analysis) -> tuple[str, ...]:
    """The tasks that some figure shows: those in training, whether they are scored yet or not."""
    parts = (*found.slowdowns, *found.gaps, *found.shares, *found.noise_scales)
    drawn = dict.fromkeys(task for one in found.cosines for task in one.tasks)
    drawn |= dict.fromkeys(one.task for one in parts)
    drawn |= dict.fromkeys(point.task for one in found.associations for point in one.points)
    return tuple(dict.fromkeys([*(task for task in found.tasks if task in drawn), *drawn]))


def task_colours(tasks: Sequence[str]) -> dict[str, str]:
    """A task's colour, the same in every figure; from the eleventh on they come again."""
    return {task: f"var(--task-{i % 10})" for i, task in enumerate(tasks)}


def _pairs(matrices: Sequence[findings.Cosines]) -> Figure | None:
    if not matrices:
        return None
    groups = list(dict.fromkeys(one.group for one in matrices))
    stretches = sorted({(m.first_step, m.last_step) for m in matrices if not m.whole})
    cells = [
        charts.Cell(
            group=one.group,
            index=0 if one.whole else 1 + stretches.index((one.first_step, one.last_step)),
            first=pair.first,
            second=pair.second,
            value=pair.cosine.value,
            low=pair.cosine.low,
            high=pair.cosine.high,
            batch=pair.batch.value,
            marked=pair.verdict.word != findings.UNDECIDED,
        )
        for one in matrices
        for pair in one.pairs
    ]
    # What is strongest over a stretch may be noise: the whole sets the scale, if it can.
    whole = [abs(c.value) for c in cells if c.value is not None and c.index == 0]
    batch = [abs(c.batch) for c in cells if c.batch is not None and c.index == 0]
    limit = math.ceil(max(whole or batch or [1.0]) * 20 + 1e-9) / 20
    spec = charts.matrix(cells, matrices[0].tasks, limit)
    labels = ["all steps after warm-up", *(f"steps {a:,} to {b:,}" for a, b in stretches)]
    step = Control("index", "When", tuple((str(i), s) for i, s in enumerate(labels)), slider=True)
    head = ("parameters", "task", "with", "cosine", "of small batches", "q", "verdict")
    rows = [
        (
            one.group,
            pair.first,
            pair.second,
            estimate(pair.cosine),
            estimate(pair.batch, ".3f"),
            number(pair.verdict.q, ".3f"),
            Cell(PULLS[pair.verdict.word], pair.verdict.word),
        )
        for one in matrices
        if one.whole
        for pair in one.pairs
    ]
    return Figure(
        "Who pulls against whom",
        f"{captions.PAIRS} {captions.SOURCES[matrices[0].source]}",
        (Panel("", spec),),
        table("All steps after warm-up", head, rows, texts=3),
        controls=(*_choice_of(groups), *([step] if stretches else [])),
    )


PULLS = {
    findings.GAIN: "pull together",
    findings.LOSS: "pull apart",
    findings.UNDECIDED: "undecided",
}


def _choice_of(groups: Sequence[str]) -> tuple[Control, ...]:
    """A choice of the parameters, where there is one."""
    options = tuple((group, group) for group in groups)
    return (Control("group", "Parameters", options),) if len(groups) > 1 else ()


def _points(curve: findings.Curve) -> tuple[tuple[float | None, ...], ...]:
    return tuple(
        (step, point.value, point.low, point.high)
        for step, point in zip(curve.steps, curve.points, strict=True)
    )


def _conflict(conflicts: Sequence[findings.Conflict]) -> Figure | None:
    looks = (
        ("between tasks", "mean_cosine", TOGETHER, False),
        ("between tasks, small batches", "batch_cosine", ALONE, False),
        ("between halves of one task's batch", "split_half", "var(--undecided)", True),
    )
    series = [
        charts.Series(name, colour, _points(curve), dashed, one.group)
        for one in conflicts
        for name, field, colour, dashed in looks
        if (curve := getattr(one, field)).steps
    ]
    if not series:
        return None
    drawn = {one.name for one in series}
    rows = [(one.group, estimate(one.after_warm_up, ".3f"), one.source) for one in conflicts]
    return Figure(
        "How conflict develops",
        f"{captions.CONFLICT} {captions.SOURCES[conflicts[0].source]}",
        (Panel("", charts.curves(series, "cosine", references={"": 0.0}, height=230)),),
        table("After warm-up", ("parameters", "mean cosine", "from"), rows),
        keys=tuple(Key(n, colour, dashed) for n, _, colour, dashed in looks if n in drawn),
        controls=_choice_of(list(dict.fromkeys(one.group for one in series))),
    )


def _layers(conflicts: Sequence[findings.Conflict]) -> Figure | None:
    known = [one for one in conflicts if one.after_warm_up.value is not None]
    if len(known) < 2:
        return None
    drawn = [
        charts.Range(
            one.group, one.after_warm_up.value, one.after_warm_up.low, one.after_warm_up.high
        )
        for one in known
    ]
    rows = [(one.group, estimate(one.after_warm_up, ".3f")) for one in known]
    return Figure(
        "Where in the network",
        captions.LAYERS,
        (Panel("", charts.ranges(drawn, "mean cosine")),),
        table("After warm-up", ("parameters", "mean cosine"), rows),
    )


_KINDS = (Key("together", TOGETHER), Key("alone", ALONE, dashed=True))


def _slowdown(slowdowns: Sequence[findings.Slowdown]) -> Figure | None:
    return _two_kinds(
        slowdowns,
        "Do tasks learn slower together?",
        captions.SLOWDOWN,
        {findings.GAIN: "faster", findings.LOSS: "slower"},
        "training loss",
        log=True,
    )


def _gap(gaps: Sequence[findings.Gap]) -> Figure | None:
    return _two_kinds(
        gaps,
        "Do they generalize worse?",
        captions.GAP,
        {findings.GAIN: "generalizes better", findings.LOSS: "generalizes worse"},
        "dev loss",
        x="training loss",
        descending=True,
    )


def _two_kinds(
    parts: Sequence[findings.Slowdown | findings.Gap],
    title: str,
    caption: str,
    verdicts: dict[str, str],
    y: str,
    **axes: str | bool,
) -> Figure | None:
    """A panel for each task with its curves together and alone."""
    verdicts = verdicts | {findings.UNDECIDED: "undecided"}
    panels, rows = [], []
    for one in parts:
        series = [
            charts.Series(key.name, key.colour, _points(curve), key.dashed)
            for key, curve in zip(_KINDS, (one.multi, one.single), strict=True)
            if curve.steps
        ]
        if series:
            spec = charts.curves(series, y, **axes)
            word = one.verdict.word
            panels.append(Panel(one.task, spec, one.task, verdicts[word], word))
        rows.append(
            (
                one.task,
                estimate(one.mean, ".3f"),
                number(one.verdict.q, ".3f"),
                Cell(verdicts[one.verdict.word], one.verdict.word),
            )
        )
    head = ("task", "together minus alone (nats)", "q", "verdict")
    numbers = table("Averages with 95 % intervals", head, rows)
    return Figure(title, caption, tuple(panels), numbers, _KINDS) if panels else None


SHARES = ("Who drives the update", captions.SHARES, "share of the update")
NOISE = ("How noisy the gradients are", captions.NOISE, "noise scale (examples)")


def _by_task(
    tasks: Sequence[str],
    parts: Sequence[findings.TaskCurve],
    texts: tuple[str, str, str],
    log: bool = False,
) -> Figure | None:
    """A curve for each task, by group; `texts` are title, caption and the y axis's title."""
    title, caption, y = texts
    colours = task_colours(tasks)
    drawn = [part for part in parts if part.curve.steps]
    if not drawn:
        return None
    series = [
        charts.Series(one.task, colours[one.task], _points(one.curve), group=one.name)
        for one in drawn
    ]
    rows = [(one.name, one.task, estimate(one.curve.points[-1], ".3g")) for one in drawn]
    shown = dict.fromkeys(one.task for one in drawn)
    return Figure(
        title,
        caption,
        (Panel("", charts.curves(series, y, log=log, height=230)),),
        table("At the last step", ("parameters", "task", y), rows, texts=2),
        keys=tuple(Key(task, colours[task]) for task in shown),
        controls=_choice_of(list(dict.fromkeys(one.name for one in drawn))),
    )


def _compared(found: findings.Analysis) -> Figure | None:
    if len(found.variants) < 2:
        return None
    names = {v: words.variant(v) for v in found.variants}
    colours = task_colours(list(names.values()))
    series = [
        charts.Series(
            names[one.variant],
            colours[names[one.variant]],
            _points(one.mean_cosine),
            group=one.group,
        )
        for one in found.conflicts
        if one.mean_cosine.steps
    ]
    if not series:
        return None
    rows = [
        (names[one.variant], one.group, estimate(one.after_warm_up, ".3f"))
        for one in found.conflicts
    ]
    return Figure(
        "Conflict by setting",
        captions.COMPARED,
        (Panel("", charts.curves(series, "cosine", references={"": 0.0}, height=230)),),
        table("After warm-up", ("setting", "parameters", "mean cosine"), rows, texts=2),
        keys=tuple(Key(name, colour) for name, colour in colours.items()),
        controls=_choice_of(list(dict.fromkeys(one.group for one in series))),
    )


OUTCOMES = {
    "transfer": "transfer (%)",
    "slowdown": "slowdown (nats)",
    "gap": "generalization gap (nats)",
}


def _associations(found: findings.Analysis) -> Figure | None:
    known = [one for one in found.associations if one.points]
    if not known:
        return None
    seen = {point.task for one in known for point in one.points}
    colours = task_colours(drawn_tasks(found))
    panels = []
    for outcome in dict.fromkeys(one.outcome for one in known):
        dots = [
            charts.Dot(one.group, p.task, f"{words.variant(p.variant)}, seed {p.seed}", p.x, p.y)
            for one in known
            if one.outcome == outcome
            for p in one.points
        ]
        notes = {one.group: _correlation(one) for one in known if one.outcome == outcome}
        spec = charts.scatter(
            dots, notes, "mean cosine with the others", OUTCOMES[outcome], colours
        )
        panels.append(Panel(outcome, spec))
    rows = [
        (
            one.outcome,
            one.group,
            number(one.correlation.value),
            words.interval(one.correlation),
            number(one.p, ".3f"),
        )
        for one in known
    ]
    head = ("conflict against", "parameters", "ρ", "95 % of shuffles within", "p")
    return Figure(
        "Does conflict explain it?",
        captions.ASSOCIATIONS,
        tuple(panels),
        table("Rank correlations", head, rows, texts=2),
        keys=tuple(Key(task, colours[task]) for task in colours if task in seen),
        controls=_choice_of(list(dict.fromkeys(one.group for one in known))),
    )


def _correlation(one: findings.Association) -> str:
    return f"ρ = {words.number(one.correlation.value)}, p = {words.number(one.p, '.2f')}"
