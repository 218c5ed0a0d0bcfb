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
    rows, _ = tables.transfer_rows(study)
    for row, transfer in zip(rows, found.transfers, strict=True):
        assert (transfer.variant, transfer.task, transfer.metric) == (
            row.variant,
            row.task,
            row.metric,
        )
        assert transfer.percent.value == row.relative_transfer_percent
        assert transfer.difference.value == pytest.approx(row.multi_mean - row.single_mean)
