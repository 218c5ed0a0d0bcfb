"""The per-task gradients and the conflict inside T5X's own training loop; needs a clone of T5X.

`t5x.train.train` takes its parts from gin, and three of them come from here (gin/t5x/train.gin):

* `get_dataset`: as many examples of every task in each batch, those of this project's own runs;
* `Model`: T5X's encoder-decoder model on T5X's network, of several tasks;
* `Trainer`: T5X's trainer whose step takes the tasks' gradients apart.

All else is T5X's: parameters, optimizer, partitioning, checkpoints, evaluation. The forward and the
backward pass of a train step are those of this project's T5, whose parameters are the same ones
under the same names. docs/t5x.md leads from a clone to a measured run.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Float

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.data import batching, features, flat, heads, lookup, tokens
from mtl_t5x.gradients import one_pass, ways
from mtl_t5x.models import architectures, t5
from mtl_t5x.settings import checks
from mtl_t5x.settings.checks import SettingsError

try:
    from t5x import checkpoints, metrics, models, optimizers, trainer, utils
    from t5x.examples.t5 import network
except ImportError as error:
    raise ImportError(
        f"gin/t5x is for T5X's own trainer, which can't be imported: {error}. T5X is on no package "
        "index: clone google-research/t5x, with google/airio and google-research/jestimator beside "
        "it, put the three folders on PYTHONPATH, and start `python -m t5x.train`; docs/t5x.md has "
        "the commands. Without T5X take gin/examples and `python -m mtl_t5x.main`"
    ) from error

Params = Mapping[str, Any]
Rows = Mapping[str, Array]
BATCH_SIZE = "BATCH_SIZE (train/utils.DatasetConfig.batch_size)"
ENCODER = {"encoder": one_pass.ENCODER}


def get_dataset(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: type[seqio.FeatureConverter],
    *,
    tasks: Sequence[seqio.Task],
    model_dir: str,
    initial_checkpoint_path: str | Sequence[str] = (),
    cache_dir: str | None = None,
) -> flat.RowIterator:
    """The rows of batches that hold as many examples of every task.

    The first batch is that of the step at which T5X begins: of the newest checkpoint in
    `model_dir`, else of `initial_checkpoint_path`, else 0. So a run that is started again sees what
    it would have seen, and T5X needs to save no state of the data.

    Args:
      cfg, shard_id, num_shards, feature_converter_cls: as T5X gives them. The batch size is that of
        all tasks together; a packed batch would mix them.
      tasks: the model's, which must be those that `cfg` names.
      model_dir: the run's folder.
      initial_checkpoint_path: where its parameters come from, if from anywhere.
      cache_dir: where tokens are kept for other runs; None: in this process's memory.

    Raises:
      SettingsError: what such batches can't be read by.
    """
    tasks, lengths = _trained(tasks), cfg.task_feature_lengths
    _check_dataset(cfg, tasks)
    examples = flat.examples_per_task(cfg.batch_size, len(tasks), BATCH_SIZE)
    cache = tokens.Cache(cache_dir, progress=jax.process_index() == 0)
    padded = batching.padded_lengths(tasks, lengths, cache)
    empty = features.empty_batch(lookup.short_names(tasks), padded)
    spec = {
        name: np.broadcast_to(value, (len(tasks), examples, value.shape[-1]))
        for name, value in empty.items()
        if name != heads.FEATURE
    }
    read = functools.partial(
        batching.train_batches,
        tasks,
        lengths,
        examples,
        seed=cfg.seed,
        cache=cache,
    )
    return flat.RowIterator(
        lambda step: read(start_step=step),
        spec,
        _first_step(model_dir, initial_checkpoint_path),
        shard_id,
        num_shards,
    )


def _check_dataset(cfg: utils.DatasetConfig, tasks: Sequence[seqio.Task]) -> None:
    name = "train/utils.DatasetConfig"
    of_cfg = lookup.with_split(lookup.find_tasks(cfg.mixture_or_task_name, cfg.module), "train")
    others = sorted({task.name for task in of_cfg} ^ {task.name for task in tasks})
    fixed = {"split": "train", "shuffle": True, "pack": False}
    checks.check(
        f"{name}.mixture_or_task_name and t5x_bridge.Model.tasks differ in {', '.join(others)}: "
        "set MIXTURE_OR_TASK_NAME, which gives both"
        if others
        else None,
        *(checks.choice(f"{name}.{key}", getattr(cfg, key), (fixed[key],)) for key in fixed),
        checks.whole(f"{name}.seed", cfg.seed, meaning="of the examples' order"),
        checks.lengths(cfg.task_feature_lengths),
    )
    checks.check(*features.check_names(tasks, cfg.task_feature_lengths))


def _trained(tasks: Sequence[seqio.Task]) -> tuple[seqio.Task, ...]:
    """Those with a train split, in the order of the batch."""
    trained = lookup.with_split(tasks, "train")
    if not trained:
        raise SettingsError(
            f"MIXTURE_OR_TASK_NAME: none of {[task.name for task in tasks]} has a train split"
        )
    return trained


def _first_step(model_dir: str, initial_checkpoint_path: str | Sequence[str]) -> int:
    """Where T5X's order of restoring makes the run begin."""
    newest = checkpoints.latest_step(model_dir)
    if newest is not None:
        return newest
    if isinstance(initial_checkpoint_path, str) and (
        match := re.search(r"[_-](\d+)/?$", initial_checkpoint_path)
    ):
        return int(match.group(1))
    return 0


class Model(models.EncoderDecoderModel):
    """T5X's encoder-decoder model, of several tasks whose losses are taken apart while training.

    A task's loss is the mean over its own target tokens, with `z_loss` times the squared log of the
    softmax's normalizer for each; the losses are added. (T5X's own model adds the losses of all
    tokens in a batch, so a task with long answers counts for more.)
    """

    def __init__(
        self,
        module: nn.Module,
        input_vocabulary: seqio.Vocabulary,
        output_vocabulary: seqio.Vocabulary,
        optimizer_def: optimizers.OptimizerDef,
        tasks: Sequence[seqio.Task],
        z_loss: float = 0.0,
        **of_t5x: Any,
    ):
        """As T5X's model.

        Args:
          module: T5X's `network.Transformer`.
          input_vocabulary, output_vocabulary, optimizer_def, of_t5x: as there.
          tasks: as `lookup.find_tasks` gives them.
          z_loss: its weight.

        Raises:
          SettingsError: another module; smoothed labels or another norm of the loss.
        """
        unknown = {
            name: of_t5x.get(name) for name in ("label_smoothing", "loss_normalizing_factor")
        }
        checks.check(
            checks.a("t5x_bridge.Model.module", module, network.Transformer, _MODULE),
            *(
                f"t5x_bridge.Model.{name} = {value}: a task's loss is the plain mean over its "
                "tokens; leave it out"
                for name, value in unknown.items()
                if value
            ),
        )
        self.tasks = lookup.short_names(_trained(tasks))
        self._text_to_text = architectures.TextToText(_config(module.config), z_loss)
        super().__init__(
            module, input_vocabulary, output_vocabulary, optimizer_def, z_loss=z_loss, **of_t5x
        )

    def gradients(
        self, params: Params, rows: Rows, key: Array, groups: Mapping[str, str], microbatches: int
    ) -> tuple[Float[Array, " task"], Params, ways.Grams]:
        """(losses, gradient of their sum, exact Gram matrix of each group), at T5X's parameters.

        Args:
          params: of T5X's network.
          rows: a flat batch, task after task.
          key: for dropout.
          groups: a group's name to the regular expression of its parameters' names.
          microbatches: what each task's examples are computed in, one after the other.

        Raises:
          SettingsError: microbatches that the examples can't be cut into.
        """
        ours = self._text_to_text

        def loss_fn(params, probes, batch, key):
            variables = {"params": params, "probes": probes}
            return ours.apply(variables, batch, deterministic=False, rngs={"dropout": key})

        def weigh(batch):
            return ours.apply({}, batch, method="loss_weights")

        batch = flat.regroup(rows, len(self.tasks))
        examples = batch["encoder_input_tokens"].shape[1]
        if examples % microbatches:
            raise SettingsError(
                f"t5x_bridge.Trainer.num_microbatches = {microbatches} doesn't divide the "
                f"{examples} examples of a task: write a divisor"
            )
        return ways.gradient_and_grams(
            loss_fn, weigh, params, batch, key, groups=groups, microbatches=microbatches
        )


_MODULE = (
    "@network.Transformer() of t5x.examples.t5: gradients are those of this project's T5, which "
    "has the same parameters"
)


def _config(config: network.T5Config) -> t5.T5Config:
    """This project's T5 of the same sizes."""
    names = {field.name for field in dataclasses.fields(t5.T5Config)}
    given = {name: value for name, value in vars(config).items() if name in names}
    given["mlp_activations"] = tuple(config.mlp_activations)
    given["dtype"] = jnp.dtype(config.dtype).name
    return t5.T5Config(**given)


class Trainer(trainer.Trainer):
    """T5X's trainer, whose steps measure the tasks' conflict and log it beside the losses."""

    def __init__(self, *, groups: Mapping[str, str] = ENCODER, **of_t5x: Any):
        """As T5X's trainer.

        Args:
          groups: of parameters whose conflict is measured, as for `one_pass.select`; {}: none.
          of_t5x: what T5X's trainer takes.

        Raises:
          SettingsError: a model that isn't ours, or groups that aren't any.
        """
        model = of_t5x["model"]
        checks.check(
            checks.a("train_script.train.model", model, Model, "@t5x_bridge.Model()"),
            checks.expressions("t5x_bridge.Trainer.groups", groups),
        )
        one_pass.select(of_t5x["train_state"].params, groups, "t5x_bridge.Trainer.groups")
        self._groups = groups
        super().__init__(**of_t5x)

    @functools.cached_property
    def _partitioned_train_step(self) -> Callable[..., Any]:
        of_batch = self._partitioner.data_partition_spec

        def train_step(state, rows):
            losses, gradient, grams = self._model.gradients(
                state.params,
                rows,
                self._get_step_rng(state.step),
                self._groups,
                self._num_microbatches or 1,
            )
            return trainer.apply_grads(
                state,
                gradient,
                _metrics(self._model.tasks, losses, grams),
                self._learning_rate_fn(state.step),
                self._weight_metrics_computer,
            )

        return self._partitioner.partition(
            train_step,
            in_axis_resources=(self._train_state_axes, of_batch),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )


def _metrics(
    tasks: Sequence[str], losses: Float[Array, " task"], grams: ways.Grams
) -> dict[str, metrics.Step]:
    """A step's metrics of the state before the update, as T5X collects them.

    They have the names of `metrics.jsonl`, and `…/cosine/<task>/<task>` for every pair.
    """
    found = {"loss": jnp.sum(losses), **_by_task("loss", tasks, losses)}
    for group, gram in grams.items():
        of_group = conflict_metrics.all_metrics(gram)
        found |= _by_task(f"grad_norm/{group}", tasks, of_group.pop("norms"))
        cosine = of_group.pop("cosine")
        for i, j in itertools.combinations(range(len(tasks)), 2):
            found[f"conflict/{group}/cosine/{tasks[i]}/{tasks[j]}"] = cosine[i, j]
        found |= {f"conflict/{group}/{name}": value for name, value in of_group.items()}
    averages = {
        name: metrics.AveragePerStep.from_model_output(value) for name, value in found.items()
    }
    return {**averages, "timing/steps_per_second": metrics.StepsPerTime.from_model_output()}


def _by_task(prefix: str, tasks: Sequence[str], values: Float[Array, " task"]) -> dict[str, Array]:
    return {f"{prefix}/{task}": values[i] for i, task in enumerate(tasks)}
