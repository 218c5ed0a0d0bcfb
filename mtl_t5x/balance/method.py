"""What every method is: a frozen dataclass of settings that turns what a step measured into
weights.

With g_k the gradient of task k's loss and G_ij = <g_i, g_j>, a method gives w, and the update of
the shared parameters is made of sum_k w_k g_k. Methods are pure: what they remember is handed in
and out.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

State = Any  # a tree of arrays; () where a method remembers nothing
Weights = Float[Array, " task"]


class Measured(NamedTuple):
    """What a step measured, of the tasks' own losses, however they were weighted.

    Attributes:
      losses: L_k, positive.
      gram: G, where the method needs it.
      halves: the Gram matrix of the gradients of the halves of each task's examples; row 2k + h is
        half h of task k, scaled so that the two add up to g_k.
      key: for methods that draw at random, another one each step.
    """

    losses: Float[Array, " task"]
    gram: Float[Array, "task task"] | None = None
    halves: Float[Array, "part part"] | None = None
    key: Key[Array, ""] | None = None


@runtime_checkable
class Method(Protocol):
    """Settings of a method, comparable by value: a step is compiled for each.

    `NEEDS` says what a step has to measure: nothing but the losses, the Gram matrix too, or that of
    the halves.
    """

    NEEDS: ClassVar[Literal["losses", "gram", "halves"]]

    def init(self, tasks: int) -> State:
        """What is remembered before the first step of so many tasks.

        Raises:
          ValueError: too few tasks for the method.
        """

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        """(weights of the tasks, what is remembered of the step)."""


def remember_nothing(method: Method, tasks: int) -> State:
    """`init` of a method without state."""
    del method, tasks
    return ()


def check_setting(
    method: Method,
    name: str,
    *,
    least: float = 0.0,
    most: float = float("inf"),
    above: bool = False,
) -> None:
    """Raises ValueError where a setting is outside [least, most], or `above`: not above `least`."""
    value = getattr(method, name)
    if value > most or value < least or (above and value == least):
        bounds = f"above {least:g}" if above else f"{least:g} or more"
        bounds += f", and {most:g} at most" if most < float("inf") else ""
        raise ValueError(f"balance.{type(method).__name__}.{name} = {value}: it must be {bounds}")
