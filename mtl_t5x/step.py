"""One training step: a pure, jitted function of the state and a batch of every task.

What is static (the model, the optimizer, the groups) is compared by value, so runs of one shape
share one compilation within a process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from mtl_t5x.balance import acting, weighing
from mtl_t5x.balance.balance import Balance
from mtl_t5x.balance.state import State
from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.data import rates
from mtl_t5x.gradients import freezing, one_pass, ways
from mtl_t5x.parallel import sharding
from mtl_t5x.settings import checks
from mtl_t5x.settings.checks import SettingsError

Batch = Mapping[str, Array]
Groups = tuple[tuple[str, str], ...]
SUM = Balance()  # of the tasks' gradients, as they are


def adamw(
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    max_grad_norm: float | None = 5.0,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_before_correction: bool = False,
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; linear warm-up, then cosine to 0 at `decay_steps`.

    The t-th update divides m / (1 - b1^t) by sqrt(v / (1 - b2^t)) + eps (Kingma and Ba 2015, arXiv
    1412.6980, algorithm 1); with `eps_before_correction` by (sqrt(v) + eps) / sqrt(1 - b2^t) (its
    section 2, end; the AdamW of transformers 4.5.1, which the original takes). In the second form
    eps counts 32 times as much at first, with b2 = 0.999, and the same after some thousand updates.

    Equal arguments give the same object, which is what lets runs share a compiled step. Any other
    optax transformation may stand in its place.
    """
    name = "step.adamw"
    checks.check(
        checks.number(f"{name}.learning_rate", learning_rate),
        checks.whole(f"{name}.warmup_steps", warmup_steps, 0),
        checks.whole(f"TRAIN_STEPS ({name}.decay_steps)", decay_steps, 1),
        checks.number(f"{name}.max_grad_norm", max_grad_norm, none=True),
        checks.number(f"{name}.weight_decay", weight_decay),
        checks.number(f"{name}.b1", b1, below=1),
        checks.number(f"{name}.b2", b2, below=1),
        checks.number(f"{name}.eps", eps),
        checks.flag(f"{name}.eps_before_correction", eps_before_correction),
    )
    if warmup_steps >= decay_steps:
        raise SettingsError(
            f"{name}.warmup_steps = {warmup_steps} leaves no step of the {decay_steps} for the "
            "cosine: set it below TRAIN_STEPS"
        )
    return _adamw(
        learning_rate, warmup_steps, decay_steps, max_grad_norm, weight_decay, b1, b2, eps,
        eps_before_correction,
    )  # fmt: skip


@functools.lru_cache
def _adamw(
    learning_rate, warmup_steps, decay_steps, max_grad_norm, weight_decay, b1, b2, eps,
    eps_before_correction,
):  # fmt: skip
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, decay_steps)
    # (sqrt(v) + eps) / c is sqrt(v) / c + eps / c: the one form is the other with another eps.
    uncorrected = functools.partial(_eps_over_correction, eps=eps, b2=b2)
    update = optax.inject_hyperparams(optax.adamw)(
        schedule,
        b1=b1,
        b2=b2,
        eps=uncorrected if eps_before_correction else eps,
        weight_decay=weight_decay,
    )
    if max_grad_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), update)


def _eps_over_correction(count: Array, *, eps: float, b2: float) -> Float[Array, ""]:
    return eps / jnp.sqrt(1 - b2 ** (count + 1.0))


def last_update(train_steps: int) -> int:
    """The number of the last of so many updates, counted from 0: `decay_steps` of a schedule that
    is at 0 there, as the original's after its 10,001 updates."""
    return train_steps - 1


def adam_scale(opt_state: optax.OptState) -> one_pass.Params:
    """1 / (sqrt(v) + eps), v corrected, for every parameter, from the state of `step.adamw`."""
    moments = optax.tree.get(opt_state, "nu")
    hyperparams = optax.tree.get(opt_state, "hyperparams")
    if moments is None or hyperparams is None:
        raise ValueError("the optimizer has no second moments: update directions need step.adamw")
    (adam,) = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_adam) if _is_adam(leaf)]
    correction = 1 - hyperparams["b2"] ** jnp.maximum(adam.count, 1)
    eps = hyperparams["eps"]
    return jax.tree.map(lambda v: 1 / (jnp.sqrt(v / correction) + eps), moments)


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)


@functools.partial(
    jax.jit,
    static_argnames=("model", "optimizer", "layout", "balance"),
    donate_argnames=("known",),
)
def init_state(
    key: Array,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    layout: sharding.Layout | None = None,
    balance: Balance = SUM,
    known: Mapping[str, Array] | None = None,
) -> State:
    """Fresh parameters and optimizer state, placed by `layout`; `batch` gives the shapes.

    Parameters in `known`, by name, aren't drawn: their buffers become the state's.
    """
    state = nn.meta.unbox(_boxed_state(key, batch, model, optimizer, balance))
    if known:
        params = unflatten_dict({**flatten_dict(state.params, sep="/"), **known}, sep="/")
        state = state.replace(params=params, opt_state=optimizer.init(params))
    return state if layout is None else layout.constrain(state)


def _boxed_state(
    key: Array,
    batch: Batch,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    balance: Balance,
) -> State:
    params = model.init(key, batch)["params"]
    tasks = batch["encoder_input_tokens"].shape[0]
    of_balance = weighing.init(balance, tasks)
    return State.create(apply_fn=model.apply, params=params, tx=optimizer, balance=of_balance)


def state_layout(
    mesh: sharding.Mesh,
    batch: Mapping[str, np.ndarray],
    batch_size: int,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    balance: Balance = SUM,
    devices: Sequence[jax.Device] | None = None,
    setting: str = "BATCH_SIZE",
) -> sharding.Layout | None:
    """Where the state lives on a mesh of `devices` (None: all); `batch` gives an example's shapes.

    None: on one device there is nothing to lay out.

    Raises:
      ValueError: a mesh that doesn't fit the devices, or `batch_size` examples per task, which the
        user calls `setting`.
    """
    devices = jax.devices() if devices is None else devices
    if mesh.shape(len(devices)) == (1, 1):
        return None
    boxed = functools.partial(
        _boxed_state, jax.random.key(0), model=model, optimizer=optimizer, balance=balance
    )
    return sharding.layout(
        mesh,
        jax.eval_shape(boxed, batch),
        num_tasks=batch["encoder_input_tokens"].shape[0],
        batch_size=batch_size,
        runs_on_task_subset=model.runs_on_task_subset,
        in_loops=model.in_loops,
        devices=devices,
        setting=setting,
    )


def state_shapes(
    batch: Mapping[str, np.ndarray],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    layout: sharding.Layout | None = None,
    balance: Balance = SUM,
) -> State:
    """What `init_state` gives, as shapes, types and places: nothing is computed."""
    init = functools.partial(init_state, model=model, optimizer=optimizer, balance=balance)
    state = jax.eval_shape(init, jax.random.key(0), batch)
    return state if layout is None else sharding.placed_shapes(state, layout.shardings(state))


@functools.partial(
    jax.jit,
    static_argnames=("groups", "layout", "microbatches", "halves", "balance", "trainable"),
    donate_argnames=("state",),
)
def train_step(
    state: TrainState,
    batch: Batch,
    dropout_key: Array,
    task_weights: Float[Array, " task"] | None = None,
    *,
    groups: Groups = (),
    layout: sharding.Layout | None = None,
    microbatches: int = 1,
    halves: bool = False,
    balance: Balance = SUM,
    trainable: str | None = None,
) -> tuple[TrainState, dict[str, Any]]:
    """Updates the state by the sum of the task losses' gradients and says what was seen on the way.

    Args:
      state: parameters, optimizer state and step count; its buffers are reused.
      batch: every task's examples, `[task, batch, length]`.
      dropout_key: a key for the whole run; each step folds its own number in.
      task_weights: of the tasks' gradients of the shared parameters; None: 1 each.
      groups: pairs of a group's name and the expression of its parameters' names; where there are
        any, the conflict between the tasks in each is measured. Empty: a plain step.
      layout: where the state and the batch live; None: on one device.
      microbatches: what the examples are computed in, one after the other. It saves activations,
        but a measuring step then holds K gradients of the measured parameters.
      halves: measures with the halves of each task's examples apart, for unbiased metrics. The
        update stays the same. Microbatches, and several devices, then take 2 K gradients.
      balance: whose method, if it has one, weighs the tasks in place of `task_weights`.
      trainable: an expression of the names of the parameters that are trained, and measured; None:
        all. The state is then that of `freezing.optimizer`.

    Returns:
      The new state, and metrics of the state *before* the update; see `_metrics`.

    Raises:
      ValueError: `halves` of a batch that doesn't have them; see `no_halves`.
    """
    halves = halves or needs_halves(balance)
    examples = batch["encoder_input_tokens"].shape[1]
    if halves and (problem := no_halves(examples, layout, microbatches)) is not None:
        raise ValueError(problem)
    key = jax.random.fold_in(dropout_key, state.step)
    gradients = _gradients(
        state, batch, key, layout, microbatches,
        parts=2 if halves else 1, keep=balance.keep_gradients, trainable=trainable,
    )  # fmt: skip
    remembered = state.balance if balance.method else None
    acted = acting.act(balance, remembered, task_weights, gradients, dict(groups), key)
    new_state = _update(state, acted.gradient, layout, trainable)
    if balance.method:
        new_state = new_state.replace(balance=acted.remembered)
    metrics = _metrics(acted, new_state, halves)
    if rates.EXAMPLE_WEIGHTS in batch:
        metrics["examples"] = jnp.sum(batch[rates.EXAMPLE_WEIGHTS], axis=1)
    if halves:
        metrics["loss_weights"] = state.apply_fn({}, batch, method="loss_weights")
    if layout is not None:  # every process reads them
        metrics = jax.lax.with_sharding_constraint(metrics, layout.everywhere)
    return new_state, metrics


def needs_halves(balance: Balance) -> bool:
    """Whether its method acts by the halves of the tasks' batches."""
    return balance.method is not None and balance.method.NEEDS == "halves"


def _metrics(acted: acting.Acted, new_state: TrainState, halves: bool) -> dict[str, Any]:
    """`loss` [task], the norm of the gradient that is applied `grad_norm`, `learning_rate`, and
    `conflict`, by group, as `conflict.metrics.all_metrics` gives it of the tasks' own gradients;
    with `halves` there are `loss_weights` [task] too and, in each group, `halves` [2 task, 2 task],
    the Gram matrix of the halves' gradients. Where tasks are weighted there is `balance`: `weights`
    [task], of a method the tasks whose gradients it couldn't use, `unusable` [task], and where the
    Gram matrix is measured what `weighing.effect` gives. Where tasks have different numbers of
    examples, these are `examples` [task]."""
    hyperparams = optax.tree.get(new_state.opt_state, "hyperparams", default={})
    metrics = {
        "loss": acted.losses,
        "grad_norm": optax.tree.norm(acted.gradient),
        "learning_rate": hyperparams.get("learning_rate", jnp.nan),
        "conflict": {group: _conflict(gram, halves) for group, gram in acted.grams.items()},
    }
    if acted.metrics:
        metrics["balance"] = acted.metrics
    return metrics


def _update(
    state: TrainState,
    grads: one_pass.Params,
    layout: sharding.Layout | None,
    trainable: str | None,
) -> TrainState:
    """The state after the optimizer's step; over several devices each updates what it holds the
    optimizer's state of, and parameters that are whole elsewhere are gathered afterwards."""
    # What is frozen is taken as it was: adding 0 would make 0 of -0.
    if layout is None:
        new_state = state.apply_gradients(grads=grads)
        return new_state.replace(params=freezing.choose(new_state.params, state.params, trainable))
    new_state = state.replace(params=layout.constrain_update(state.params)).apply_gradients(
        grads=layout.constrain_update(grads)
    )
    params = freezing.choose(layout.constrain_update(new_state.params), state.params, trainable)
    return layout.constrain(new_state.replace(params=params))


def _conflict(gram: Float[Array, "row row"], halves: bool) -> dict[str, Array]:
    if not halves:
        return conflict_metrics.all_metrics(gram)
    of_tasks = conflict_metrics.add_halves(gram)
    return {**conflict_metrics.all_metrics(of_tasks), "halves": gram}


def no_halves(batch_size: int, layout: sharding.Layout | None, microbatches: int) -> str | None:
    """Why so many examples of a task can't be measured in halves; None: they can.

    Where they are computed in parts, by several devices or one after the other, each part has
    halves, which make up those of the whole.
    """
    parts = microbatches if layout is None else microbatches * layout.mesh.shape[sharding.DATA]
    if batch_size % (2 * parts) == 0:
        return None
    return (
        f"BATCH_SIZE = {batch_size} has no halves in each of the {parts} parts that a task's "
        f"examples are computed in: set it to a multiple of {2 * parts}"
    )


def _gradients(
    state: TrainState,
    batch: Batch,
    key: Array,
    layout: sharding.Layout | None,
    microbatches: int,
    parts: int,
    keep: bool,
    trainable: str | None,
) -> acting.Gradients:
    """How this step gets its gradients; of `parts` of each task's examples apart.

    Where a method weighs the tasks by the step's own gradients, they are kept meanwhile if `keep`
    says so, else another backward pass is made, or another whole one where the work is in parts.
    """

    def loss_fn(params, probes, batch, key):
        variables = {"params": freezing.as_constants(params, trainable), "probes": probes}
        return state.apply_fn(variables, batch, deterministic=False, rngs={"dropout": key})

    frozen = freezing.frozen(state.params, trainable)
    work = {"layout": layout, "microbatches": microbatches, "parts": parts, "frozen": frozen}

    def weigh(batch):
        return state.apply_fn({}, batch, method="loss_weights")

    def of_trained(groups):
        if trainable is None:
            return groups
        return freezing.expressions(freezing.select(state.params, groups, trainable=trainable))

    def weighted(weights, groups):
        given = batch
        if weights is not None:
            given = state.apply_fn({}, given, weights, method="weighted")
        if layout is not None or microbatches > 1:
            given = state.apply_fn({}, given, method="before_splitting")
        return ways.gradient_and_grams(
            loss_fn, weigh, state.params, given, key, groups=of_trained(groups), **work
        )

    def measured(groups):
        if not keep and (layout is not None or microbatches > 1):
            losses, _, grams = weighted(None, groups)
            return losses, grams, lambda weights: weighted(weights, {})[1]
        return ways.grams_then_gradient(
            loss_fn, weigh, state.params,
            state.apply_fn({}, batch, method="before_splitting"), key,
            shared=of_trained({"shared": state.apply_fn({}, method="shared_parameters")})["shared"],
            groups=of_trained(groups), keep=keep, **work)  # fmt: skip

    return acting.Gradients(weighted, measured)
