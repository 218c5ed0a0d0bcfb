"""What `relations` says of one task and its partner is seen in training.

`tests/benchmarks/relations.py` takes the whole study, which finds the others as well.
"""

import json

import pytest

from mtl_t5x import main
from mtl_t5x.tasks.mini import relations

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"
STEPS = 300


def score(folder, tasks):
    """A task's accuracy where it is trained with others, in points."""
    names = [f"glue_{task}.default.semantic" for task in tasks]
    values = {
        "MODEL_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": names,
        "TRAIN_STEPS": STEPS,
        "CONFLICT_PERIOD": 0,
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 8},
    }
    main.run([EXAMPLE], [f"{name}={value!r}" for name, value in values.items()])
    results = json.loads((folder / "results.json").read_text())
    assert results["test"][tasks[0]]["examples"] == 1000
    return results["test"][tasks[0]]["accuracy"]


@pytest.mark.slow
def test_a_partner_helps(tmp_path):
    [(task, relation)] = [
        item for item in relations.RELATIONS.items() if item[1].effect == relations.HELPED
    ]
    alone = score(tmp_path / "alone", [task])
    together = score(tmp_path / "together", [task, *relation.partners])
    # Five standard errors of the difference of two accuracies on the same 1,000 examples, at most.
    assert together > alone + 5, (alone, together)
