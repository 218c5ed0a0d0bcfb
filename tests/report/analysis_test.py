import dataclasses
import json

import pytest

from mtl_t5x.report import analysis, folders, tables
from tests.report import report_test

workdir = report_test.workdir


def test_an_analysis_can_be_written_as_json_and_agrees_with_the_table(workdir):
    study = folders.load_study(workdir)
    found = analysis.analyse(study)
    read = json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False))
    assert read["tasks"] == ["cola", "mnli", "mnli_mismatched"]
    assert read["groups"] == ["encoder"]
    samples, _ = tables.samples(study)
    for sample, transfer in zip(samples, found.transfers, strict=True):
        for field in ("variant", "task", "metric"):
            assert getattr(transfer, field) == getattr(sample, field)
        assert dataclasses.astuple(transfer.percent) == sample.transfer()
        means = [sum(v.values()) / len(v) for v in (sample.multi, sample.single)]
        assert transfer.difference.value == pytest.approx(means[0] - means[1])
