"""Conflict numbers against numpy on the gradients themselves, and on closed cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.conflict import metrics as conflict_metrics


def numbers(gradients):
    gradients = jnp.asarray(gradients, jnp.float32)
    return conflict_metrics.all_metrics(gradients @ gradients.T)


def expected_numbers(gradients):
    """Each definition as the paper words it, from the gradients, in float64."""
    gradients = np.asarray(gradients, np.float64)
    tasks = len(gradients)
    norms = np.linalg.norm(gradients, axis=1)
    units = gradients / norms[:, None]
    total = np.sum(gradients.sum(axis=0) ** 2)
    pairs = [units[i] @ units[j] for i in range(tasks) for j in range(tasks) if i != j]
    mean_unit = np.linalg.norm(units.mean(axis=0))
    return {
        "directional": mean_unit**2 - 1 / tasks,
        "magnitude": np.mean([(norm**2 - total) ** 2 for norm in norms]),
        "mean_cosine": np.mean(pairs),
        "reference_directional": mean_unit,
        "reference_magnitude": np.mean((norms**2 - np.mean(norms**2)) ** 2),
        "norms": norms,
        "cosine": units @ units.T,
    }


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_random_gradients(tasks):
    rng = np.random.default_rng(tasks)
    scales = np.exp(rng.normal(size=(tasks, 1)))
    gradients = (rng.normal(size=(tasks, 50)) + 0.5) * scales
    actual, expected = numbers(gradients), expected_numbers(gradients)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("tasks", [2, 5])
def test_equal_gradients(tasks):
    """||g|| = 5: aligned, and the sum's squared norm is K^2 * 25."""
    actual = numbers(np.tile([3.0, 4.0, 0.0], (tasks, 1)))
    assert actual["directional"] == pytest.approx((tasks - 1) / tasks)
    assert actual["magnitude"] == pytest.approx((25 - 25 * tasks**2) ** 2)
    assert actual["mean_cosine"] == pytest.approx(1)
    assert actual["reference_directional"] == pytest.approx(1)
    assert actual["reference_magnitude"] == pytest.approx(0)
    np.testing.assert_allclose(actual["norms"], 5)
    np.testing.assert_allclose(actual["cosine"], np.ones((tasks, tasks)))


@pytest.mark.parametrize("tasks", [2, 4])
def test_orthogonal_gradients(tasks):
    """Squared norms 1, 4, 9, …; the sum's is their sum."""
    lengths = np.arange(1, tasks + 1)
    actual = numbers(np.diag(lengths))
    assert actual["directional"] == pytest.approx(0)
    assert actual["mean_cosine"] == pytest.approx(0)
    assert actual["reference_directional"] == pytest.approx(1 / np.sqrt(tasks))
    total = np.sum(lengths**2)
    assert actual["magnitude"] == pytest.approx(np.mean((lengths**2 - total) ** 2))
    assert actual["reference_magnitude"] == pytest.approx(np.var(lengths**2))
    np.testing.assert_allclose(actual["cosine"], np.eye(tasks))


def test_opposite_gradients():
    """The least there can be: C_dir = -1/K, and the sum of equal lengths is nothing."""
    actual = numbers([[3.0, 4.0], [-3.0, -4.0]])
    assert actual["directional"] == pytest.approx(-1 / 2)
    assert actual["mean_cosine"] == pytest.approx(-1)
    assert actual["reference_directional"] == pytest.approx(0)
    assert actual["magnitude"] == pytest.approx(625)
    assert actual["reference_magnitude"] == pytest.approx(0)


def test_known_gram_matrix():
    """J = [[-4, 1, 1], [6, 1, 1]]: cos = -22 / sqrt(18 * 38), ||sum||^2 = 12."""
    actual = numbers([[-4, 1, 1], [6, 1, 1]])
    cosine = -22 / np.sqrt(18 * 38)
    assert actual["directional"] == pytest.approx(cosine / 2)
    assert actual["mean_cosine"] == pytest.approx(cosine)
    assert actual["magnitude"] == pytest.approx(((18 - 12) ** 2 + (38 - 12) ** 2) / 2)
    assert actual["reference_magnitude"] == pytest.approx(100)
    assert actual["reference_directional"] == pytest.approx(np.sqrt((1 + cosine) / 2))


@pytest.mark.parametrize("platform", ["tpu", "default"])
@pytest.mark.parametrize("tasks", [1, 2, 8, 12, 13])
def test_gram_matrix_however_it_is_computed(tasks, platform, monkeypatch):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, **how: how[platform](*args))
    of_two = np.random.default_rng(0).normal(size=(2, tasks, 6, 20)).astype(np.float32)
    expected = [rows @ rows.T for rows in of_two.reshape(2, tasks, -1).astype(np.float64)]
    for gradients, gram in ((of_two[:1], expected[0]), (of_two, expected[0] + expected[1])):
        actual = conflict_metrics.gram_matrix(*map(jnp.asarray, gradients))
        np.testing.assert_allclose(actual, gram, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(actual, actual.T)
        np.testing.assert_allclose(conflict_metrics.gram_matrix(*gradients), gram, atol=1e-4)


def test_reference_form_gives_the_mean_cosine():
    """(K x^2 - 1) / (K - 1), as the original's figures are to be read."""
    gradients = np.random.default_rng(0).normal(size=(6, 20)) + 0.3
    actual = numbers(gradients)
    x = float(actual["reference_directional"])
    assert actual["mean_cosine"] == pytest.approx((6 * x**2 - 1) / 5, rel=1e-4)


def test_zero_gradient_has_no_direction():
    actual = numbers([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    for name in ("directional", "mean_cosine", "reference_directional"):
        assert np.isnan(actual[name]), name
    np.testing.assert_array_equal(np.isnan(actual["cosine"][1]), True)
    np.testing.assert_allclose(actual["cosine"][0, [0, 2]], [1, 0])
    np.testing.assert_allclose(actual["norms"], [1, 0, 2])
    assert actual["magnitude"] == pytest.approx(((1 - 5) ** 2 + 5**2 + (4 - 5) ** 2) / 3)
    assert actual["reference_magnitude"] == pytest.approx(np.var([1, 0, 4]))


def test_one_task():
    actual = numbers([[3.0, 4.0]])
    assert actual["directional"] == pytest.approx(0)
    assert np.isnan(actual["mean_cosine"])
    assert actual["reference_directional"] == pytest.approx(1)


def test_scale_and_order_of_the_tasks():
    """Directions ignore lengths; nothing depends on the order of the tasks."""
    gradients = np.random.default_rng(0).normal(size=(4, 9))
    scaled = gradients * np.array([[1e-3], [1.0], [50.0], [7.0]])
    names = ("directional", "mean_cosine", "reference_directional")
    for name in names:
        np.testing.assert_allclose(
            numbers(scaled)[name], numbers(gradients)[name], rtol=1e-4, atol=1e-6
        )
    for name in (*names, "magnitude", "reference_magnitude"):
        np.testing.assert_allclose(
            numbers(gradients[::-1])[name], numbers(gradients)[name], rtol=1e-4, atol=1e-6
        )


def test_numpy_and_jax_agree_with_leading_axes():
    """Of stacked matrices, of one task, and of a squared norm that isn't positive."""
    rng = np.random.default_rng(0)
    for tasks in (1, 2, 5):
        rows = rng.normal(size=(4, tasks, 30)).astype(np.float32)
        grams = rows @ rows.swapaxes(-1, -2)
        grams[1, 0, 0] = -1.0
        stacked = conflict_metrics.all_metrics(grams)
        for i, gram in enumerate(grams):
            for name, value in conflict_metrics.all_metrics(jnp.asarray(gram)).items():
                np.testing.assert_allclose(
                    stacked[name][i], value, rtol=1e-4, atol=1e-5, err_msg=f"{tasks} {name}"
                )
        assert np.isnan(stacked["directional"][1]) and np.isnan(stacked["norms"][1, 0])


def test_one_task_has_no_conflict_and_no_pair():
    for gram in (np.array([[4.0]]), jnp.array([[4.0]])):
        assert conflict_metrics.directional(gram) == 0
        assert np.isnan(conflict_metrics.mean_cosine(gram))
