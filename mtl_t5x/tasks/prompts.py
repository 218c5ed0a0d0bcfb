"""Prompts and label vocabularies, as data.

A prompt gives each task one or several templates, a label vocabulary gives each task a word for
each class. `add_prompt` and `add_labels` take further ones from any module; the benchmark's
`register()` then makes tasks and mixtures of them. A benchmark's preset may give a prompt of the
same name other templates.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence

from mtl_t5x.data import lookup
from mtl_t5x.tasks import registry


@dataclasses.dataclass(frozen=True)
class Template:
    """One wording of a task.

    Attributes:
      text: the model's input, with the row's fields in braces: "cola sentence: {sentence}".
      answers: the answer of each class under the labels `semantic`; empty: that vocabulary's
        words. Any other label vocabulary replaces them.
      turned: the question asks for the opposite, e.g. "Is this wrong?" instead of "Is this
        right?". A label then stands for the answer and not for the class: the words of a label
        vocabulary are given out in reverse order. `answers` are never reversed.
    """

    text: str
    answers: tuple[str, ...] = ()
    turned: bool = False


# benchmark -> prompt -> task -> templates; the first template is that of validation and test.
PROMPTS: dict[str, dict[str, dict[str, tuple[Template, ...]]]] = {}
# benchmark -> label vocabulary -> task -> the word of each class.
LABELS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}


def add_prompt(
    name: str,
    templates: Mapping[str, str | Template | Sequence[str | Template]],
    benchmark: str = "glue",
) -> None:
    """Adds a prompt; the benchmark's next `register()` makes tasks of it.

    Args:
      name: letters, digits and _.
      templates: for each task a text or `Template`, or several: then one is drawn per example
        and epoch in training, and the first is used in validation and test.
      benchmark: whose tasks these are.

    Raises:
      ValueError: the name is not allowed, or taken by another prompt.
    """
    _add("prompt", PROMPTS, benchmark, name, normal(templates))


def normal(
    templates: Mapping[str, str | Template | Sequence[str | Template]],
) -> dict[str, tuple[Template, ...]]:
    """A prompt as `PROMPTS` holds it, from what `add_prompt` takes."""
    return {
        task: tuple(
            Template(one) if isinstance(one, str) else one
            for one in ((given,) if isinstance(given, str | Template) else given)
        )
        for task, given in templates.items()
    }


def add_labels(name: str, words: Mapping[str, Sequence[str]], benchmark: str = "glue") -> None:
    """Adds a label vocabulary: for each task with classes the word of each class, by index.

    Raises:
      ValueError: the name is not allowed, or taken by another label vocabulary.
    """
    normal = {task: tuple(given) for task, given in words.items()}
    _add("label vocabulary", LABELS, benchmark, name, normal)


def _add(kind: str, known: dict, benchmark: str, name: str, value: dict) -> None:
    registry.check_name(kind, name)
    named = known.setdefault(benchmark, {})
    if named.get(name, value) != value:
        raise ValueError(f"The {kind} {name!r} of {benchmark} exists: choose another name.")
    named[name] = value


def snapshot(benchmark: str) -> tuple[dict, dict]:
    """A benchmark's prompts and label vocabularies as they are now, for comparing later."""
    return tuple(
        {name: dict(by_task) for name, by_task in known.get(benchmark, {}).items()}
        for known in (PROMPTS, LABELS)
    )


def check(where: str, templates: Sequence[Template], fields: Sequence[str], classes: int) -> None:
    """Checks a prompt's templates against the task they are for.

    Args:
      where: e.g. "Prompt 'mine', task 'cola'", opens the message.
      templates: at least one.
      fields: the task's text fields.
      classes: the number of its classes, 0 where it has none.

    Raises:
      ValueError: no template, an unknown or unnamed field, unbalanced braces, answers that are
        not one different word for each class.
    """
    if not templates:
        raise ValueError(f"{where}: at least one template is needed.")
    for template in templates:
        for field in _fields(where, template.text):
            if field not in fields:
                at = f" in the template {template.text!r}"
                raise ValueError(f"{where}: " + lookup.unknown("field", field, fields, at))
        if template.turned and classes == 0:
            raise ValueError(f"{where}: the task has no classes, so no template can be turned.")
        if template.answers:
            check_words(f"{where}, template {template.text!r}", template.answers, classes)


def check_words(where: str, words: Sequence[str], classes: int) -> None:
    """Raises ValueError unless the words are one for each class, all different and not blank."""
    if classes == 0:
        raise ValueError(f"{where}: the task has no classes, so it takes no answer words.")
    blank = any(not word or word != word.strip() for word in words)
    if blank or len(words) != classes or len(set(words)) != classes:
        raise ValueError(
            f"{where}: {classes} different words are needed, one for each class and without "
            f"space around them; found {', '.join(map(repr, words))}."
        )


def parse(text: str) -> list[tuple[str, str | None]]:
    """Cuts a template into pairs of literal text and the field that follows it, if any."""
    return [(literal, field) for literal, field, _, _ in string.Formatter().parse(text)]


def _fields(where: str, text: str) -> list[str]:
    try:
        return [field for _, field in parse(text) if field is not None]
    except ValueError as error:
        raise ValueError(
            f"{where}: the template {text!r} has unbalanced braces ({error}); write {{{{ or }}}} "
            "for a brace in the text."
        ) from error


def answers(
    templates: Sequence[Template], labels: str, words: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Returns for each template the answer of each class.

    Args:
      templates: those of a task.
      labels: the label vocabulary's name: under `semantic` a template's own answers hold.
      words: the label vocabulary's words for the task, by class.
    """
    table = []
    for template in templates:
        if labels == "semantic" and template.answers:
            table.append(template.answers)
        else:
            table.append(tuple(reversed(words)) if template.turned else tuple(words))
    return tuple(table)
