"""Analyses made up of plain numbers, to draw pages from without a study."""

import dataclasses
import functools
import itertools
import math

from mtl_t5x.report import findings, folders
from mtl_t5x.report.findings import GAIN, LOSS, UNDECIDED, Estimate, Verdict

VARIANT = ("text_to_text", "default", "semantic")
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
GROUPS = ("encoder", "encoder/layers_0", "encoder/layers_1")
SEEDS = (0, 1)


def study(variants=(VARIANT,), tasks=TASKS, finished=True):
    """A study of multi-task runs and baselines whose folders hold nothing but results."""
    records = []
    for variant, seed in itertools.product(variants, SEEDS):
        for kind, trained in [("multi_task", tasks), *(("single_task", (t,)) for t in tasks)]:
            test = {task: {"accuracy": 60.0 + seed, "unparsed": 1} for task in trained}
            records.append(
                folders.Record(
                    name=f"{'.'.join(variant)}.{kind}.{'-'.join(trained)}.seed{seed}",
                    architecture=variant[0],
                    prompt=variant[1],
                    labels=variant[2],
                    tasks=tuple(trained),
                    seed=seed,
                    kind=kind,
                    results={"step": 800, "test": test} if finished else None,
                    steps=(),
                    error="" if finished else "ValueError: a <b> & c",
                )
            )
    config = {"data": "mini", "train_steps": 800}
    return folders.Study("synthetic", config, tuple(records), ())


def empty(variants=(VARIANT,)):
    """What is known before any run has finished."""
    nothing = {field.name: () for field in dataclasses.fields(findings.Analysis)}
    return findings.Analysis(**nothing | {"resamples": 1000, "variants": tuple(variants)})


def estimate(value, half):
    return Estimate(value, value - half, value + half)


def verdict(value, half):
    """By whether the interval excludes 0, which is enough here."""
    word = UNDECIDED if abs(value) <= half else GAIN if value > 0 else LOSS
    return Verdict(0.2 if word == UNDECIDED else 0.001, 0.3 if word == UNDECIDED else 0.004, word)


def curve(value, steps=range(20, 801, 20)):
    """A curve that a function of the step gives, with a band of a tenth."""
    points = [value(step) for step in steps]
    return findings.Curve(
        tuple(map(float, steps)), tuple(estimate(y, 0.1 * abs(y)) for y in points)
    )


NOTHING = findings.Curve((), ())


def full(variants=(VARIANT,), tasks=TASKS, groups=GROUPS):
    """An analysis that holds something of everything."""
    everywhere = list(itertools.product(variants, groups))
    of_tasks = list(itertools.product(variants, tasks))
    return dataclasses.replace(
        empty(variants),
        tasks=tuple(tasks),
        groups=tuple(groups),
        sentences=_sentences(variants, tasks),
        transfers=tuple(t for variant in variants for t in _transfers(variant, tasks)),
        differences=tuple(_difference(variant, variants[0]) for variant in variants[1:]),
        conflicts=tuple(_conflict(v, g, tasks, i) for i, (v, g) in enumerate(everywhere)),
        cosines=tuple(m for v, g in everywhere for m in _cosines(v, g, tasks)),
        shares=_of_tasks(everywhere, tasks, lambda i, step: (1 + i % 3) / 20 + step / 1e5),
        noise_scales=_of_tasks(everywhere, tasks, lambda i, step: 10.0 * (i + 1) + step),
        slowdowns=tuple(_slowdown(v, task, i) for i, (v, task) in enumerate(of_tasks)),
        gaps=tuple(_gap(v, task, i) for i, (v, task) in enumerate(of_tasks)),
        associations=tuple(
            _association(group, outcome, of_tasks)
            for outcome in ("transfer", "slowdown", "gap")
            for group in groups
        ),
        flips=tuple(_flips(v, task, i) for i, (v, task) in enumerate(of_tasks)),
        notes=("a note on <the data>",),
    )


def _difference(variant, other):
    effects = estimate(1.0, 2.0), estimate(2.0, 3.0), verdict(1.0, 2.0)
    return findings.VariantDifference(
        variant, other, "prompt", "average", "headline metrics", *effects
    )


def _of_tasks(everywhere, tasks, value):
    return tuple(
        findings.TaskCurve(v, task, group, curve(functools.partial(value, i)))
        for v, group in everywhere
        for i, task in enumerate(tasks)
    )


def _slowdown(variant, task, i):
    mean = 0.02 * (i - 3)
    effect = curve(lambda step: mean), estimate(mean, 0.03), verdict(-mean, 0.03)
    return findings.Slowdown(variant, task, *_two_curves(i), *effect)


def _gap(variant, task, i):
    mean = 0.02 * (3 - i)
    effect = curve(lambda step: mean), estimate(mean, 0.03), verdict(-mean, 0.03)
    return findings.Gap(variant, task, *_two_curves(i, range(20, 2, -1)), *effect)


def _association(group, outcome, of_tasks):
    points = tuple(
        findings.Point(v, task, seed, 0.05 * i - 0.1, (i * 7) % 5 - 2.0)
        for i, (v, task) in enumerate(of_tasks)
        for seed in SEEDS
    )
    return findings.Association(group, outcome, Estimate(0.4, -0.6, 0.6), 0.21, points)


def _two_curves(i, steps=range(20, 801, 20)):
    alone = curve(lambda s: 0.2 + 2 * math.exp(-s / 200), steps)
    return alone, curve(lambda s: 0.2 + 2 * math.exp(-s / (150 + 30 * i)), steps)


def _sentences(variants, tasks):
    texts = [
        ("transfer", f"Training the tasks together hurts {tasks[0]} and helps {tasks[-1]}", None),
        ("limits", "Of two tasks the data don't say; 6 seeds would.", None),
        ("why", "Tasks whose gradients oppose the others' lose no more than others.", None),
    ]
    texts += [("transfer", f"{tasks[0]} loses 12 % [8, 16].", v) for v in variants]
    texts += [("conflict", f"{tasks[0]} and {tasks[1]} pull apart.", v) for v in variants]
    return tuple(findings.Sentence(kind, text, v, ()) for kind, text, v in texts)


def _transfers(variant, tasks):
    for i, task in enumerate((*tasks, "average")):
        value = 3.0 * (i - 3) if task != "average" else 1.5
        yield findings.Transfer(
            variant=variant,
            task=task,
            metric="accuracy",
            headline=True,
            baseline=variant,
            single=estimate(60.0, 2),
            multi=estimate(60.0 + value / 2, 2),
            single_by_seed=((0, 59.0), (1, 61.0)),
            multi_by_seed=((0, 60.0), (1, 62.0)),
            difference=estimate(value / 2, 2),
            percent=estimate(value, 4 + i % 3),
            verdict=verdict(value, 4 + i % 3),
            smallest_points=3.0,
            smallest_percent=5.5,
            rank=Estimate(i + 1.0, 1.0, float(len(tasks))),
            examples=1000,
            seeds=2,
            seeds_needed=6,
            method=findings.BOOTSTRAP,
        )


def _conflict(variant, group, tasks, i):
    return findings.Conflict(
        variant=variant,
        group=group,
        source=findings.UNBIASED,
        tasks=tuple(tasks),
        directional=curve(lambda s: 0.1 + 0.02 * i),
        mean_cosine=curve(lambda s: 0.1 - s / 8000),
        magnitude=curve(lambda s: 4.0),
        split_half=curve(lambda s: 0.4 - s / 4000),
        batch_cosine=curve(lambda s: 0.05),
        shuffled=NOTHING,
        after_warm_up=estimate(0.06 * (1 - i), 0.05),
    )


def _cosines(variant, group, tasks):
    stretches = [(80, 800, True), *((first, first + 160, False) for first in range(80, 800, 160))]
    for place, (first, last, whole) in enumerate(stretches):
        values = [
            (a, b, 0.5 * math.sin(3 * i + place))
            for i, (a, b) in enumerate(itertools.combinations(tasks, 2))
        ]
        yield findings.Cosines(
            variant,
            group,
            findings.UNBIASED,
            tuple(tasks),
            first,
            last,
            whole,
            tuple(
                findings.Pair(
                    a, b, estimate(value, 0.2), estimate(value / 4, 0.05), verdict(value, 0.2)
                )
                for a, b, value in values
            ),
        )


def _flips(variant, task, i):
    shown = tuple(
        findings.Flip(
            direction,
            number,
            f"{task} sentence: <b>the cat & dog</b> {number}",
            "acceptable",
            ("acceptable",) * 2,
            ("unacceptable",) * 2,
        )
        for direction in (LOSS, GAIN)
        for number in range(3)
    )
    return findings.Flips(
        variant, task, "the answer is the label", 1000, 30 + i, 20, 600, 250, 100 - i, 0.04, shown
    )
