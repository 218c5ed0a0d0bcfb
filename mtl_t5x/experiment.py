"""An experiment as one value: what every mode of a run is given, and what follows from it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
import optax
import seqio
from flax.training.train_state import TrainState
from jaxtyping import Array

from mtl_t5x import step
from mtl_t5x.data import batching, features, heads, lookup, tokens
from mtl_t5x.parallel import sharding


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, on what, and how the devices share it.

    Attributes:
      model: an architecture of `mtl_t5x.models.architectures`.
      optimizer: an optax transformation; it sees the sum of the tasks' gradients.
      tasks: as `lookup.find_tasks` gives them; one without a train split is evaluated only. Where
        the model has heads, without the examples that a strict span's head leaves out.
      task_feature_lengths: tokens of each feature, cut or padded to.
      batch_size: examples per task and step.
      mesh: how the devices share the work, where there are several.
      microbatches: what a step's examples are computed in, one after the other.
      cache_dir: where the tasks' tokens are kept for other runs; None: in this process's memory.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    tasks: Sequence[seqio.Task]
    task_feature_lengths: features.FeatureLengths
    batch_size: int
    mesh: sharding.Mesh = dataclasses.field(default_factory=sharding.Mesh)
    microbatches: int = 1
    cache_dir: str | None = None

    def __post_init__(self):
        found = tuple(map(heads.without_lost_spans, self.tasks))
        if found != tuple(self.tasks) and _answered_by_heads(self.model, self.tasks):
            object.__setattr__(self, "tasks", found)

    @functools.cached_property
    def cache(self) -> tokens.Cache:
        """Of the tasks' tokens; the first process shows how far it is."""
        return tokens.Cache(self.cache_dir, progress=jax.process_index() == 0)

    @functools.cached_property
    def trained(self) -> tuple[seqio.Task, ...]:
        """The tasks with a train split, in the order of the batch's first axis.

        Raises:
          ValueError: there are none.
        """
        trained = lookup.with_split(self.tasks, "train")
        if not trained:
            raise ValueError(f"none of {[task.name for task in self.tasks]} has a train split")
        return trained

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Short names of the trained tasks."""
        return lookup.short_names(self.trained)

    @functools.cached_property
    def with_heads(self) -> bool:
        """Whether any task is answered by a head, whose targets the batches then hold."""
        return _answered_by_heads(self.model, self.tasks)

    @functools.cached_property
    def empty_batch(self) -> Mapping[str, np.ndarray]:
        """Zeros, one example per task: the shapes are all that initialising a model needs."""
        return features.empty_batch(self.names, self.task_feature_lengths)

    def layout(
        self,
        batch_size: int | None = None,
        setting: str = "BATCH_SIZE",
        devices: Sequence[jax.Device] | None = None,
    ) -> sharding.Layout | None:
        """Where the state lives on the mesh; None: on one device there is nothing to lay out.

        Args:
          batch_size: examples per task that are computed at once, if not those of a step.
          setting: what the user calls `batch_size`.
          devices: that the mesh is laid over; None: all there are.

        Raises:
          ValueError: a mesh that doesn't fit the devices or so many examples per task.
        """
        return step.state_layout(
            self.mesh,
            self.empty_batch,
            self.batch_size if batch_size is None else batch_size,
            model=self.model,
            optimizer=self.optimizer,
            devices=devices,
            setting=setting,
        )

    def state_shapes(self, layout: sharding.Layout | None) -> TrainState:
        """The state's shapes, types and places: nothing is computed."""
        return step.state_shapes(
            self.empty_batch, model=self.model, optimizer=self.optimizer, layout=layout
        )

    def init_state(self, key: Array, layout: sharding.Layout | None) -> TrainState:
        """Fresh parameters and optimizer state."""
        return step.init_state(
            key, self.empty_batch, model=self.model, optimizer=self.optimizer, layout=layout
        )

    def batch_shapes(self, layout: sharding.Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
        """A step's batch as shapes, types and places."""
        shapes = {
            name: jax.ShapeDtypeStruct(
                (len(self.names), self.batch_size, *value.shape[2:]), value.dtype
            )
            for name, value in self.empty_batch.items()
        }
        if layout is None:
            return shapes
        return sharding.placed_shapes(shapes, {name: layout.examples for name in shapes})

    def batches(
        self, seed: int, layout: sharding.Layout | None, start_step: int = 0
    ) -> Iterator[dict[str, Array]]:
        """The batches of every step from `start_step` on, on the devices; see `train_batches`."""
        read = functools.partial(
            batching.train_batches,
            self.trained,
            self.task_feature_lengths,
            self.batch_size,
            seed=seed,
            start_step=start_step,
            with_heads=self.with_heads,
            cache=self.cache,
        )
        return sharding.placed_batches(read, layout, len(self.trained), self.batch_size)


def _answered_by_heads(model: nn.Module, tasks: Sequence[seqio.Task]) -> bool:
    kinds = (model.head(task) for task in range(len(lookup.with_split(tasks, "train"))))
    return any(not isinstance(kind, heads.Decoder) for kind in kinds)
