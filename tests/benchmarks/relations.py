"""Whether the embedded study finds what its tasks do to each other by construction.

python tests/benchmarks/relations.py [--workdir=DIR]

Runs `configs/mini_glue.py` as it stands, as far as it isn't finished in DIR, analyses it, and sets
the verdicts beside `mtl_t5x/tasks/mini/relations.py`. Null pairs of tasks are looked for among the
cosines of the encoder's gradients over the whole training. The last line is JSON; leaves with 1
where anything is found otherwise.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from mtl_t5x.report import analysis, findings, folders
from mtl_t5x.tasks.mini import relations

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = {
    relations.HELPED: findings.GAIN,
    relations.HURT: findings.LOSS,
    relations.LEFT_ALONE: findings.UNDECIDED,
}


def compare(found: findings.Analysis) -> dict:
    """By task: effect, verdict, points and interval; null pairs that are claimed; the outcome."""
    transfers = {row.task: row for row in found.transfers if row.headline}
    tasks = {}
    for task, relation in relations.RELATIONS.items():
        row = transfers[task]
        tasks[task] = {
            "effect": relation.effect,
            "verdict": row.verdict.word,
            "points": [row.difference.value, row.difference.low, row.difference.high],
        }
    [matrix] = [one for one in found.cosines if one.whole and one.group == "encoder"]
    claimed = [
        (pair.first, pair.second)
        for pair in matrix.pairs
        if frozenset((pair.first, pair.second)) in relations.NULL_PAIRS
        and pair.verdict.word != findings.UNDECIDED
    ]
    right = all(WORDS[one["effect"]] == one["verdict"] for one in tasks.values())
    return {"tasks": tasks, "null_pairs_claimed": claimed, "as_made": right and not claimed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    workdir = parser.parse_args().workdir or pathlib.Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "mtl_t5x.study", "--config=configs/mini_glue.py"]
    subprocess.run([*command, f"--workdir={workdir.resolve()}"], cwd=ROOT, check=True)
    found = analysis.analyse(folders.load_study(workdir))
    for row in found.transfers:
        if row.headline:
            print(f"{row.task}: {row.difference}, {row.verdict}")
    compared = compare(found)
    print(json.dumps(compared))
    sys.exit(not compared["as_made"])


if __name__ == "__main__":
    main()
