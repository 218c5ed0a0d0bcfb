"""A train state that remembers the tasks' weights."""

from typing import Any

from flax.training.train_state import TrainState


class State(TrainState):
    """Flax's, and what a method remembers: the weights of the next step, and its own state; None
    where there is no method."""

    balance: Any = None
