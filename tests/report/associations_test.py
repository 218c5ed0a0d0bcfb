import dataclasses

import numpy as np
import pytest
from scipy import stats

from mtl_t5x.report import associations, findings, folders
from tests.report import simulated

TASKS = tuple("abcdef")


def study_and_effects(slope, seeds=2, other_variant=False):
    """Runs whose tasks' mean cosines and transfers lie on a line of the sign of `slope`."""
    cosines = np.linspace(-0.3, 0.3, 6)
    records, effects = [], []
    variants = [simulated.VARIANT]
    if other_variant:
        variants.append((*simulated.VARIANT[:2], "distinct_letters"))
    for v, variant in enumerate(variants):
        for seed in range(seeds):
            matrix = np.add.outer(cosines, cosines)
            np.fill_diagonal(matrix, 1.0)
            line = {"step": 5} | {f"loss/{task}": 1.0 for task in TASKS}
            line["conflict/encoder/cosine"] = matrix.tolist()
            name = f"{v}.{seed}"
            records.append(
                folders.Record(name, *variant, TASKS, seed, "multi_task", None, (line,), "")
            )
        for task, x in zip(TASKS, cosines, strict=True):
            # Variants differ in level, tasks within them follow the line.
            multi = 50.0 + slope * x + 20 * v
            effects.append(effect(variant, task, multi, seeds))
    return folders.Study("s", {}, tuple(records), ()), tuple(effects)


def effect(variant, task, multi, seeds):
    none = findings.Estimate(None)
    return findings.Transfer(
        variant=variant, task=task, metric="accuracy", headline=True, baseline=variant,
        single=findings.Estimate(50.0), multi=findings.Estimate(multi),
        single_by_seed=tuple((s, 50.0) for s in range(seeds)),
        multi_by_seed=tuple((s, multi) for s in range(seeds)),
        difference=findings.Estimate(multi - 50), percent=findings.Estimate(2 * (multi - 50)),
        verdict=findings.Verdict(None, None, findings.UNDECIDED), smallest_points=None,
        smallest_percent=None, rank=none, examples=None, seeds=seeds, seeds_needed=None,
        method=findings.SEEDS_ONLY,
    )  # fmt: skip


@pytest.mark.parametrize("slope", [10.0, -10.0])
def test_what_goes_together_is_found_against_permuted_tasks(slope):
    study, effects = study_and_effects(slope)
    (found,) = associations.associations(study, effects, ["encoder"])
    assert (found.group, found.outcome) == ("encoder", "transfer")
    assert found.correlation.value == pytest.approx(np.sign(slope))
    assert len(found.points) == 12
    # Of 720 orders two are as far from 0.
    assert found.p == pytest.approx(2 / 720, abs=2e-3)
    # The null band is that of Spearman's correlation over 6 tasks.
    rng = np.random.default_rng(0)
    null = [stats.spearmanr(rng.permutation(6), range(6)).statistic for _ in range(2000)]
    band = np.quantile(null, [0.025, 0.975])
    assert (found.correlation.low, found.correlation.high) == pytest.approx(band, abs=0.08)


def test_variants_of_other_levels_are_permuted_apart():
    study, effects = study_and_effects(0.01, other_variant=True)
    (found,) = associations.associations(study, effects, ["encoder"])
    assert len({point.variant for point in found.points}) == 2
    assert found.p < 0.01  # the order within both variants


def test_few_tasks_or_no_spread_is_no_association():
    study, effects = study_and_effects(10.0)
    assert associations.associations(study, effects[:3], ["encoder"]) == ()
    same = [dataclasses.replace(e, multi_by_seed=((0, 50.0), (1, 50.0))) for e in effects]
    assert associations.associations(study, same, ["encoder"]) == ()
