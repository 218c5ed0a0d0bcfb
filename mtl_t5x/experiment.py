"""An experiment as one value: what every mode of a run is given, and what follows from it."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import seqio
from flax.training.train_state import TrainState
from jaxtyping import Array

from mtl_t5x import step
from mtl_t5x.balance import task_weights as static_weights
from mtl_t5x.balance.balance import Balance
from mtl_t5x.data import batching, features, heads, lookup, tokens
from mtl_t5x.data import rates as data_rates
from mtl_t5x.gradients import freezing
from mtl_t5x.models import t5
from mtl_t5x.parallel import sharding
from mtl_t5x.settings import checks


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What is trained, on what, and how the devices share it.

    Attributes:
      model: an architecture of `mtl_t5x.models.architectures`.
      optimizer: an optax transformation; it sees the sum of the tasks' gradients.
      tasks: as `lookup.find_tasks` gives them; one without a train split is evaluated only. Where
        the model has heads, without the examples that a strict span's head leaves out.
      task_feature_lengths: the most tokens of each feature; what is longer is cut.
      batch_size: examples per task and step.
      task_weights: of the tasks' gradients of the shared parameters, by the tasks' short names, as
        `balance.task_weights` takes them; none: the gradients are summed.
      balance: the method that weighs them instead, if it has one.
      rates: in which proportions the tasks are trained.
      mesh: how the devices share the work, where there are several.
      microbatches: what a step's examples are computed in, one after the other.
      cache_dir: where the tasks' tokens are kept for other runs; None: in this process's memory.
      trainable: a regular expression of the names (as in model-info.txt) of the parameters that are
        trained, which it matches in full; the others stay as they are. None: all are.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    tasks: Sequence[seqio.Task]
    task_feature_lengths: features.FeatureLengths
    batch_size: int
    task_weights: static_weights.TaskWeights = dataclasses.field(default_factory=dict)
    balance: Balance = step.SUM
    rates: data_rates.Rates = dataclasses.field(default_factory=data_rates.Rates)
    mesh: sharding.Mesh = dataclasses.field(default_factory=sharding.Mesh)
    microbatches: int = 1
    cache_dir: str | None = None
    trainable: str | None = None

    def __post_init__(self):
        checks.check(
            checks.a("MODEL", self.model, nn.Module, "a model, as gin/architectures has them"),
            checks.a("OPTIMIZER", self.optimizer, optax.GradientTransformation, "one of optax's"),
            *checks.plain("Experiment", vars(self)),
        )
        checks.check(
            *features.check_names(self.tasks, self.task_feature_lengths),
            self._check_microbatches(),
            self._check_memory(),
            self._check_vocabulary(),
        )
        found = tuple(map(heads.without_lost_spans, self.tasks))
        if found != tuple(self.tasks) and _answered_by_heads(self.model, self.tasks):
            object.__setattr__(self, "tasks", found)

    def _check_microbatches(self) -> checks.Fault:
        # By rates a step's tasks have other numbers of examples: the step itself says what fits.
        if self.rates.source is not None or self.batch_size % self.microbatches == 0:
            return None
        return (
            f"MICROBATCHES = {self.microbatches} doesn't divide BATCH_SIZE = {self.batch_size}: "
            "write a divisor of it"
        )

    @property
    def vocabulary(self) -> seqio.Vocabulary:
        """The largest that a task's texts are in; tasks of one model usually share one."""
        features = (of for task in self.tasks for of in task.output_features.values())
        return max((of.vocabulary for of in features), key=lambda found: found.vocab_size)

    def _check_vocabulary(self) -> checks.Fault:
        """Whether the embedding has a row for each id."""
        config = getattr(self.model, "config", None)
        if not isinstance(config, t5.T5Config) or not self.tasks:
            return None
        if (ids := self.vocabulary.vocab_size) <= config.vocab_size:
            return None
        return (
            f"VOCABULARY_PATH: the tasks' vocabulary has {ids} ids, and the embedding only "
            f"t5.T5Config.vocab_size = {config.vocab_size} rows: name the model's own vocabulary, "
            "or a gin/models file for this one"
        )

    def _check_memory(self) -> checks.Fault:
        """Whether the attention of one example in one layer is more than the host's memory."""
        config = getattr(self.model, "config", None)
        if not isinstance(config, t5.T5Config):
            return None
        length = max(self.task_feature_lengths.values())
        needed, there = 4 * config.num_heads * length**2, _host_memory()
        if needed <= there:
            return None
        return (
            f"TASK_FEATURE_LENGTHS = {dict(self.task_feature_lengths)}: the attention of one "
            f"example of {length} tokens takes {needed / 2**30:,.0f} GiB in each layer, and this "
            f"host has {there / 2**30:,.0f}: write shorter ones"
        )

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

    def check_balance(self, layout: sharding.Layout | None, *, measuring: bool) -> None:
        """Checks that the tasks can be weighted as is asked, and says which rates aren't used.

        Args:
          layout: of the devices.
          measuring: whether steps measure the conflict.

        Raises:
          ValueError: weights of tasks that aren't there, or that can't be weights; weights, or
            rates that act as these, together with a method; a method with one task, or that needs
            halves of batches that have none; steps of one task that measure; weights that go by
            the gradients of parameters none of which is trained.
        """
        static_weights.check(self.task_weights, self.names)
        self.rates.tell_unused(dict(zip(self.names, self.trained, strict=True)))
        rated = self._shares is not None
        if rated and self.rates.used_as == "draws" and measuring:
            raise ValueError(
                'rates.Rates.used_as = "draws": a step of one task has no conflict to measure. Set '
                "CONFLICT_PERIOD = 0; measure.InTraining.fixed_point measures between the steps"
            )
        self._check_measured(measuring)
        if self.balance.method is None:
            return
        method = f"BALANCE = @{self.balance.name}()"
        if self.task_weights:
            raise ValueError(f"TASK_WEIGHTS and {method} both weigh the tasks: give one of them")
        if rated and self.rates.used_as != "examples":
            raise ValueError(
                f"{method} weighs the tasks, and so do RATES that are used as {self.rates.used_as}:"
                ' give one of them, or set rates.Rates.used_as = "examples"'
            )
        if len(self.names) < 2:
            raise ValueError(
                f"{method} weighs tasks against each other, and {self.names[0]} is the only one: "
                "give more, or BALANCE = None"
            )
        self.balance.method.init(len(self.names))  # says if these are too few
        if step.needs_halves(self.balance):
            problem = step.no_halves(self.batch_size, layout, self.microbatches)
            if problem is not None:
                raise ValueError(f"{method} acts by halves: {problem}")

    def _check_measured(self, measuring: bool) -> None:
        """Whether any parameter is trained that a method acts by, or weights are shown in."""
        if self.trainable is None:
            return
        method, parameters = self.balance.method, self.balance.parameters
        if method is None:
            reads = measuring and self.weights_at(0) is not None
        else:
            reads = measuring or method.NEEDS != "losses"
        if reads:
            params = self.state_shapes(None).params
            setting = "balance.Balance.parameters"
            freezing.select(params, {"parameters": parameters}, setting, self.trainable)

    @functools.cached_property
    def _shares(self) -> np.ndarray | None:
        """The tasks' rates, if they have any."""
        return self.rates.shares(dict(zip(self.names, self.trained, strict=True)))

    def plan(self, layout: sharding.Layout | None, seed: int = 0) -> data_rates.Plan | None:
        """How many examples of each task a step takes; None: `batch_size` of each."""
        if self._shares is None or self.rates.used_as == "weights":
            return None
        parts = self.microbatches
        if layout is not None:
            parts *= layout.mesh.shape[sharding.DATA]
        plan = data_rates.plan(self._shares, self.batch_size, parts, self.rates.used_as, seed)
        return None if plan.shares is None and set(plan.numbers) == {self.batch_size} else plan

    def weights_at(self, at_step: int, plan: data_rates.Plan | None = None) -> np.ndarray | None:
        """The tasks' weights at a step, of static weights and rates; None: 1 each.

        Where tasks give different numbers of examples, by a `plan`, each example counts alike,
        unless a method weighs the tasks.
        """
        weights = np.ones(len(self.names))
        if self.task_weights:
            weights = static_weights.at_step(self.task_weights, self.names, at_step)
        if self._shares is not None and self.rates.used_as == "weights":
            weights = weights * self._shares * len(self.names)
        if plan is not None and plan.shares is None and self.balance.method is None:
            weights = weights * np.array(plan.numbers) / np.mean(plan.numbers)
        if not self.task_weights and np.allclose(weights, 1):
            return None
        return weights.astype(np.float32)

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
            devices=devices,
            setting=setting,
            **self._of_state,
        )

    @property
    def _of_state(self) -> dict[str, Any]:
        """What a train state is made of."""
        optimizer = freezing.optimizer(self.optimizer, self.trainable)
        return {"model": self.model, "optimizer": optimizer, "balance": self.balance}

    def state_shapes(self, layout: sharding.Layout | None) -> TrainState:
        """The state's shapes, types and places: nothing is computed."""
        return step.state_shapes(self.empty_batch, layout=layout, **self._of_state)

    def init_state(
        self,
        key: Array,
        layout: sharding.Layout | None,
        known: Mapping[str, Array] | None = None,
    ) -> TrainState:
        """Fresh parameters, but for those that are known already, and optimizer state."""
        return step.init_state(key, self.empty_batch, layout=layout, known=known, **self._of_state)

    def batch_shapes(self, layout: sharding.Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
        """A step's batch as shapes, types and places, at the lengths that it has at most."""
        plan = self.plan(layout)
        size = (len(self.names), self.batch_size if plan is None else plan.rows)
        shapes = {
            name: jax.ShapeDtypeStruct((*size, *value.shape[2:]), value.dtype)
            for name, value in self.empty_batch.items()
        }
        if plan is not None:
            shapes[data_rates.EXAMPLE_WEIGHTS] = jax.ShapeDtypeStruct(size, np.float32)
        if layout is None:
            return shapes
        return sharding.placed_shapes(shapes, {name: layout.examples for name in shapes})

    def batches(
        self, seed: int, layout: sharding.Layout | None, start_step: int = 0
    ) -> Iterator[dict[str, Array]]:
        """The batches of every step from `start_step` on, on the devices; see `train_batches`."""
        plan = self.plan(layout, seed)
        read = functools.partial(
            batching.train_batches,
            self.trained,
            self.task_feature_lengths,
            self.batch_size,
            seed=seed,
            start_step=start_step,
            with_heads=self.with_heads,
            plan=plan,
            cache=self.cache,
        )
        rows = self.batch_size if plan is None else plan.rows
        return sharding.placed_batches(read, layout, len(self.trained), rows)


def _host_memory() -> int:
    """In bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _answered_by_heads(model: nn.Module, tasks: Sequence[seqio.Task]) -> bool:
    kinds = (model.head(task) for task in range(len(lookup.with_split(tasks, "train"))))
    return any(not isinstance(kind, heads.Decoder) for kind in kinds)
