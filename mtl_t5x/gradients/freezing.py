"""Which parameters are trained, by a regular expression of their names; the others stay.

Frozen parameters are constants of the loss, so what only their gradients need isn't computed, and
the optimizer keeps no state for them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.gradients import one_pass
from mtl_t5x.settings.checks import SettingsError

SETTING = "TRAINABLE"
Params = Mapping[str, Any]


def frozen(params: Params, trainable: str | None) -> frozenset[str]:
    """Names of the parameters that the expression doesn't match in full; None: of none.

    Raises:
      SettingsError: it matches no parameter.
    """
    if trainable is None:
        return frozenset()
    names = sorted(flatten_dict(params, sep="/"))
    found = frozenset(name for name in names if not re.fullmatch(trainable, name))
    if len(found) == len(names):
        examples = ", ".join(dict.fromkeys((names[0], names[len(names) // 2], names[-1])))
        raise SettingsError(
            f"{SETTING} = {trainable!r} matches no parameter's whole name, so nothing would be "
            f"trained. Names look like {examples}; write an expression as 'decoder/.*', or None"
        )
    return found


def _by_kind(params: Params, trainable: str | None) -> Params:
    """A tree like the parameters of "trained" and "frozen"."""
    still = frozen(params, trainable)
    names = flatten_dict(params, sep="/")
    kinds = {name: "frozen" if name in still else "trained" for name in names}
    return unflatten_dict(kinds, sep="/")


@functools.lru_cache
def optimizer(
    of_trained: optax.GradientTransformation, trainable: str | None
) -> optax.GradientTransformation:
    """The optimizer for the trained parameters alone; equal arguments give the same object."""
    if trainable is None:
        return of_trained
    return optax.partition(
        {"trained": of_trained, "frozen": optax.set_to_zero()},
        functools.partial(_by_kind, trainable=trainable),
    )


def as_constants(params: Params, trainable: str | None) -> Params:
    """The parameters, those that are frozen without a gradient."""
    return choose(params, jax.lax.stop_gradient(params), trainable)


def choose(of_trained: Params, of_frozen: Params, trainable: str | None) -> Params:
    """A tree with the trained parameters of one and the frozen ones of another."""
    if trainable is None:
        return of_trained
    return jax.tree.map(
        lambda kind, one, other: one if kind == "trained" else other,
        _by_kind(of_trained, trainable),
        of_trained,
        of_frozen,
    )


def select(
    params: Params,
    groups: Mapping[str, str],
    setting: str = "conflict groups",
    trainable: str | None = None,
) -> dict[str, tuple[str, ...]]:
    """Names of the trained parameters in each group; the groups are as for `one_pass.select`.

    Raises:
      ValueError: a group's expression matches no parameter, or none that is trained.
    """
    still, selected = frozen(params, trainable), {}
    for group, pattern in groups.items():
        found = one_pass.select(params, {group: pattern}, setting)
        kept = {
            name: tuple(n for n in members if n not in still) for name, members in found.items()
        }
        kept = {name: members for name, members in kept.items() if members}
        if not kept:
            raise SettingsError(
                f"{setting}, {group!r}: nothing that the expression {pattern!r} matches is trained "
                f"({SETTING} = {trainable!r}), so there is no conflict in it. Name parameters that "
                f"are trained, or widen {SETTING}"
            )
        for name, members in kept.items():
            selected[name] = (*selected.get(name, ()), *members)
    return selected


def expressions(names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Groups by expressions that match these names, and no others."""
    return {group: "|".join(map(re.escape, members)) for group, members in names.items()}
