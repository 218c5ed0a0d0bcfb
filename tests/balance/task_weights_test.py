"""Static weights: by name, on a plan, and what can't be one."""

import numpy as np
import pytest

from mtl_t5x.balance import task_weights

NAMES = ("cola", "rte", "stsb")


def test_weights_by_step():
    weights = {"rte": 0.5, "stsb": [(10, 1.0), (20, 0.0)]}
    task_weights.check(weights, NAMES)
    for step, expected in ((0, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (99, 0.0)):
        at_step = task_weights.at_step(weights, NAMES, step)
        np.testing.assert_allclose(at_step, [1, 0.5, expected])
        assert at_step.dtype == np.float32


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"colla": 1.0}, r"TASK_WEIGHTS names the task 'colla', which isn't trained.*cola, rte"),
        ({"rte": -1}, r"TASK_WEIGHTS\['rte'\] = -1: a weight must be a number, 0 or more"),
        ({"rte": float("nan")}, r"TASK_WEIGHTS\['rte'\] = nan"),
        ({"rte": [(0, 1.0), (5, -2.0)]}, r"TASK_WEIGHTS\['rte'\].*a number, 0 or more"),
        ({"rte": [(5, 1.0), (0, 2.0)]}, r"pairs of a step and a weight in the order"),
        ({"rte": []}, r"TASK_WEIGHTS\['rte'\] = \[\]: give a number, or pairs"),
        ({"cola": 0, "rte": 0, "stsb": [(0, 1), (9, 0)]}, r"all weights are 0 at step 9"),
    ],
)
def test_weights_that_cannot_be(weights, message):
    with pytest.raises(ValueError, match=message):
        task_weights.check(weights, NAMES)
