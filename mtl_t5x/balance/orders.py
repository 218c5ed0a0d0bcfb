"""Random orders of the tasks, for the methods that go through pairs one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key


def orders(key: Key[Array, ""], tasks: int) -> Int[Array, "place task"]:
    """An order of the tasks for every task: column i holds those for task i, itself among them."""
    keys = jax.random.split(key, tasks)
    return jax.vmap(lambda one: jax.random.permutation(one, jnp.arange(tasks)))(keys).T
