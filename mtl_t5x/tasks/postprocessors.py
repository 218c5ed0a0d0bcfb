"""From a model's answer in text to what the metrics take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mtl_t5x.data import heads
from mtl_t5x.tasks.metrics import UNPARSED


@dataclasses.dataclass(frozen=True)
class ClassIndex:
    """Turns an answer into its class index; text outside the label set becomes -1.

    Attributes:
      words: for each template of the prompt the answer of each class.
    """

    words: tuple[tuple[str, ...], ...]

    @property
    def answers(self) -> tuple[str, ...]:
        """Every answer that counts as parsed with one of the templates."""
        return tuple(dict.fromkeys(word for words in self.words for word in words))

    @property
    def class_words(self) -> tuple[str, ...]:
        """The answer of each class, as validation and test have it."""
        return self.words[0]

    @property
    def head(self) -> heads.Head:
        """What answers the task in the canonical architecture."""
        return heads.Classification(len(self.class_words))

    def __call__(
        self, text: str, example: Mapping[str, Any] | None = None, **unused_kwargs: Any
    ) -> int:
        """Looks the answer up among those of the template that the example was made with."""
        words = self.words[int(example["template"]) if len(self.words) > 1 else 0]
        text = text.strip()
        return words.index(text) if text in words else UNPARSED


@dataclasses.dataclass(frozen=True)
class Score:
    """Turns an answer into a float; what is not a number in [0, 5] becomes -1.0.

    Attributes:
      exact: targets are the gold scores `label`, unrounded, and any finite number is an answer, as
        in Mueller et al. (2022).
    """

    exact: bool = False

    @property
    def answers(self) -> tuple[str, ...]:
        """The scores that targets are rounded to: 0.0, 0.2, …, 5.0; if exact 0.0, 0.1, …, 5.0."""
        return tuple(f"{tenth / 10:.1f}" for tenth in range(0, 51, 1 if self.exact else 2))

    @property
    def head(self) -> heads.Head:
        """What answers the task in the canonical architecture."""
        return heads.Regression(-math.inf, math.inf) if self.exact else heads.Regression(0.0, 5.0)

    def __call__(
        self,
        text: str,
        example: Mapping[str, Any] | None = None,
        is_target: bool = False,
        **unused_kwargs: Any,
    ) -> float:
        if self.exact and is_target:
            return float(example["label"])
        try:
            value = float(text)
        except ValueError:
            return float(UNPARSED)
        is_score = math.isfinite(value) if self.exact else 0.0 <= value <= 5.0
        return value if is_score else float(UNPARSED)
