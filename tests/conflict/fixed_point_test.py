"""A fixed point's numbers in closed form, and the names that they are logged under."""

import functools

import numpy as np
import pytest

from mtl_t5x.conflict import fixed_point

TASKS = ("a", "b", "c")
NORMS = np.array([4.0, 1.0, 9.0])  # ||G||^2 of the expected gradients, which are orthogonal
TRACES = np.array([32.0, 16.0, 96.0])  # of the covariance of an example's gradient
EXAMPLES, MICROBATCH = np.array([64, 32, 64]), 16


def at_a_point(norms=NORMS):
    """E ||g||^2 = ||G||^2 + tr / n for a batch of n examples (McCandlish et al. 2018, A.1)."""
    return fixed_point.group_metrics(
        np.diag(norms + TRACES / EXAMPLES),
        None,
        norms + TRACES / MICROBATCH,
        EXAMPLES,
        MICROBATCH,
        functools.partial(fixed_point.by_task, TASKS),
    )


def test_covariance_and_noise_conflict():
    found = at_a_point()
    assert list(found["noise_trace"].values()) == pytest.approx([32, 16, 96])
    assert list(found["noise_scale"].values()) == pytest.approx([8, 16, 32 / 3])
    assert found["covariance"] == pytest.approx(((32 - 48) ** 2 + (16 - 48) ** 2 + 48**2) / 3)
    mean = (8 + 16 + 32 / 3) / 3
    expected = ((8 - mean) ** 2 + (16 - mean) ** 2 + (32 / 3 - mean) ** 2) / 3
    assert found["noise"] == pytest.approx(expected)


def test_a_gradient_that_is_all_noise_has_no_noise_scale():
    found = at_a_point(np.array([4.0, -0.5, 9.0]))
    assert found["noise_scale"]["b"] is None and found["noise"] is None
    assert found["covariance"] == pytest.approx(np.var(TRACES))


def test_what_is_logged():
    found = fixed_point.logged({"groups": {"encoder/layers_0": at_a_point()}})
    group = "fixed_point/encoder/layers_0"
    for name in ("directional", "magnitude", "mean_cosine", "reference_directional",
                 "reference_magnitude", "covariance", "noise", "unbiased_directional"):  # fmt: skip
        assert isinstance(found[f"conflict/{group}/{name}"], float), name
    assert np.array(found[f"conflict/{group}/cosine"]).shape == (3, 3)
    assert found[f"grad_norm/{group}/a"] == pytest.approx(np.sqrt(4.5))
    assert found[f"noise_scale/{group}/b"] == pytest.approx(16)
