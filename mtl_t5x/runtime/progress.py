"""How far something is that takes long, and how long it will still take."""

from __future__ import annotations

import jax
import tqdm

SHOWN_AFTER = 10.0  # seconds


def bar(what: str, total: int | None, unit: str) -> tqdm.tqdm:
    """A bar that appears after ten seconds, in the first process only."""
    return tqdm.tqdm(
        desc=what,
        total=total,
        unit=unit,
        delay=SHOWN_AFTER,
        mininterval=5,
        disable=jax.process_index() != 0,
    )
