"""The report's page: one HTML file with its figures, styles and what draws them inside."""

import dataclasses
import functools
import importlib.metadata
import importlib.resources
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import vl_convert

from mtl_t5x.report import (
    captions,
    figures,
    findings,
    folders,
    front_figure,
    fronts,
    published,
    sections,
    typeset,
    vega,
    words,
)

PLACE = importlib.resources.files("mtl_t5x.report") / "templates"
# What computes and draws the report; study.json says what the runs were made with.
LIBRARIES = ("mtl_t5x", "numpy", "scipy", "matplotlib", "vl-convert-python")
# The interval's picture in a row of the verdict: its size in pixels.
WIDTH, HEIGHT = 130, 16


@dataclasses.dataclass(frozen=True)
class Part:
    """What the page says of one variant."""

    variant: folders.Variant
    name: str
    against: str
    transfers: tuple[findings.Transfer, ...]
    average: findings.Transfer | None
    reach: float
    figures: tuple[figures.Figure, ...]
    flips: tuple[findings.Flips, ...]
    counts: typeset.Table

    def across(self, percent: float) -> float:
        """Where a percentage lies in the picture of an interval, from its left."""
        inside = max(-self.reach, min(self.reach, percent))
        return round(WIDTH / 2 * (1 + inside / self.reach), 1)


def render(
    study: folders.Study,
    found: findings.Analysis,
    paper: Sequence[published.Cell],
    conflicts: Sequence[Mapping[str, Any]],
    pictures: Sequence[str],
    swept: Sequence[fronts.Front] = (),
) -> str:
    """The whole page as text.

    Args:
      study: the runs.
      found: what they say.
      paper: the paper's figures beside the study's.
      conflicts: the rows of conflict.csv.
      pictures: names of the files beside the page that hold its figures.
      swept: what sweeps of weightings found.
    """
    specs: list[vega.Spec] = []

    def chart(spec: vega.Spec) -> int:
        """Its number among the charts of the page."""
        specs.append(spec)
        return len(specs) - 1

    environment = _environment()
    environment.globals |= {"words": words, "findings": findings, "chart": chart, "specs": specs}
    parts = tuple(_part(study, found, variant) for variant in study.variants)
    headline, sentences = _sentences(found)
    return environment.get_template("page.html").render(
        study=study,
        found=found,
        parts=parts,
        headline=headline,
        answers=_answers(sentences),
        facts=sections.facts(study),
        missing=sections.missing(study),
        shared_figures=figures.of_study(found),
        differences=sections.differences(found),
        weightings=[(front, front_figure.figure(front)) for front in swept],
        paper=sections.beside_the_paper(paper),
        wrong_averages=published.wrong_averages() if paper else (),
        conflict=sections.conflict_summary(study, conflicts),
        counts=sections.counts(study),
        all_metrics=sections.all_metrics(found),
        pictures=pictures,
        rules=captions.RULES,
        tasks=figures.drawn_tasks(found),
        versions=versions(),
        configuration=json.dumps(study.config, indent=2),
        size=(WIDTH, HEIGHT),
        style=(PLACE / "page.css").read_text(encoding="utf-8"),
        program=program(),
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("mtl_t5x.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _part(study: folders.Study, found: findings.Analysis, variant: folders.Variant) -> Part:
    mine = [one for one in found.transfers if one.variant == variant and one.headline]
    tasks = [one for one in mine if one.task != "average"]
    # The most hurt first, what is undefined last.
    tasks.sort(key=lambda one: (one.percent.value is None, one.percent.value))
    baseline = study.baseline(variant)
    flips = tuple(one for one in found.flips if one.variant == variant)
    return Part(
        variant=variant,
        name=words.variant(variant),
        against="" if baseline == variant else words.variant(baseline),
        transfers=tuple(tasks),
        average=next((one for one in mine if one.task == "average"), None),
        reach=_reach(mine),
        figures=figures.of_variant(found, variant),
        flips=flips,
        counts=sections.flips(flips),
    )


def _reach(transfers: Sequence[findings.Transfer]) -> float:
    """How many percent the pictures of intervals reach to both sides.

    As far as the intervals do, unless one from few seeds would leave the others too little room.
    """
    values = [abs(t.percent.value) for t in transfers if t.percent.value is not None]
    ends = [abs(e) for t in transfers for e in (t.percent.low, t.percent.high) if e is not None]
    most = max(5.0, 2.2 * max(values, default=0.0))
    return min(most, max([*values, *ends, 1.0]))


def _sentences(found: findings.Analysis) -> tuple[str, tuple[findings.Sentence, ...]]:
    """The sentence that is the page's headline, and the others."""
    for i, sentence in enumerate(found.sentences):
        if sentence.kind == "transfer" and sentence.variant is None:
            return sentence.text, (*found.sentences[:i], *found.sentences[i + 1 :])
    return "", found.sentences


def _answers(
    sentences: Sequence[findings.Sentence],
) -> tuple[tuple[str, tuple[findings.Sentence, ...]], ...]:
    """The sentences under the questions that they answer."""
    questions = (
        ("Which tasks hurt each other?", ("transfer",)),
        ("How sure is it?", ("limits",)),
        ("Why?", ("conflict", "why")),
    )
    return tuple(
        (question, tuple(s for s in sentences if s.kind in kinds)) for question, kinds in questions
    )


def versions() -> dict[str, str]:
    """Python's and the libraries' versions that make the report."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"Python": platform.python_version(), **libraries, "Vega-Lite": vega.VEGA_LITE}


@functools.cache
def program() -> str:
    """Vega-Embed with Vega and Vega-Lite, and the page's own few lines, as one script.

    Raises:
      ValueError: it would end the page's script element.
    """
    text = (PLACE / "page.js").read_text(encoding="utf-8")
    bundle = vl_convert.javascript_bundle(text, vl_version=vega.VEGA_LITE)
    if "</script" in bundle.lower():
        raise ValueError("the bundle holds </script>, which ends the script that it stands in")
    return bundle
