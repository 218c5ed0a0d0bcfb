"""From rows to token ids: the preprocessors that every text task shares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.tasks import prompts
from mtl_t5x.tasks.prompts import Template

Example = Mapping[str, tf.Tensor]
# From an example and the number of its template to its target text.
Target = Callable[[Example, tf.Tensor], tf.Tensor]


def class_words(table: Sequence[Sequence[str]]) -> Target:
    """The target is a word by template and class index, from `prompts.answers`."""
    return lambda example, template: tf.gather_nd(
        tf.constant(table), tf.stack([template, example["label"]])
    )


def score(example: Example, template: tf.Tensor) -> tf.Tensor:
    """The target is the float `label`, rounded to the nearest 0.2 as T5 does, one decimal."""
    del template
    return tf.strings.as_string(tf.round(example["label"] * 5) / 5, precision=1)


def exact_score(example: Example, template: tf.Tensor) -> tf.Tensor:
    """The target is the float `label` with one decimal, as in Mueller et al. (2022)."""
    del template
    return tf.strings.as_string(example["label"], precision=1)


def field(name: str) -> Target:
    """The target is the text of a field of the row."""
    return lambda example, template: example[name]


def prompt_preprocessor(
    templates: Sequence[Template], target: Target, keep: Sequence[str] = ("idx", "label")
) -> Callable[..., tf.data.Dataset]:
    """Makes the text preprocessor of a task: rows to `inputs` and `targets` in text.

    With several templates, one is drawn for each example of the split `train`, statelessly from
    the seed that SeqIO gives the example, so that each repetition draws anew; in other splits the
    first is used. The example then carries `template`, the template's number, as its answer can
    only be read with it. What each of the templates alone does is the attribute `variants`, from
    which the token cache stores every one.

    Args:
      templates: checked by `prompts.check`.
      target: makes the target text: `class_words`, `score`, `field`, or a function of your own.
      keep: the fields that are passed on, where the row has them.
    """

    def apply(example: Example, template: tf.Tensor) -> dict[str, tf.Tensor]:
        texts = tf.stack([_render(one.text, example) for one in templates])
        kept = {name: example[name] for name in keep if name in example}
        return kept | {"inputs": texts[template], "targets": target(example, template)}

    if len(templates) == 1:
        return seqio.map_over_dataset(lambda example: apply(example, tf.constant(0)))

    def draw(example: Example, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        drawn = tf.random.stateless_uniform([], seed, 0, len(templates), tf.int32)
        return numbered(tf.where(example["split"] == "train", drawn, 0), example)

    def numbered(template: tf.Tensor, example: Example) -> dict[str, tf.Tensor]:
        return apply(example, template) | {"template": template}

    drawing = seqio.map_over_dataset(draw, num_seeds=1)
    drawing.variants = [
        seqio.map_over_dataset(functools.partial(numbered, np.int32(number)))
        for number in range(len(templates))
    ]
    return drawing


def preprocessors(
    templates: Sequence[Template], target: Target, keep: Sequence[str] = ("idx", "label")
) -> list[Callable[..., tf.data.Dataset]]:
    """Makes a task's whole list of preprocessors, from rows to token ids that end in EOS.

    What can be cached offline stands before the placeholder. A drawn template cannot: there the
    rows themselves are what a cache holds, and each epoch draws and tokenises anew.
    """
    text = [prompt_preprocessor(templates, target, keep), seqio.preprocessors.tokenize]
    cache = [seqio.CacheDatasetPlaceholder()]
    return [
        *(text + cache if len(templates) == 1 else cache + text),
        seqio.preprocessors.append_eos_after_trim,
    ]


def _render(text: str, example: Example) -> tf.Tensor:
    pieces = []
    for literal, name in prompts.parse(text):
        pieces += [literal] if name is None else [literal, example[name]]
    return tf.strings.join(pieces)
