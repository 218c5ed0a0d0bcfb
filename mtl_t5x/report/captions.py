"""What stands under the page's figures: how to read them."""

from mtl_t5x.report import findings

PAIRS = (
    "The cosine between two tasks' gradients. Blue: a step for one helps the other as well; red: "
    "it hurts it. A frame marks the pairs whose sign is sure, the others may be noise; where "
    "noise hides how large a cosine is, only its sign is given, or a dash. The slider goes through "
    "the training."
)
CONFLICT = (
    "The mean cosine between the gradients of different tasks over the training, with its 95 % "
    "interval: at 0 there is no conflict and no help, below 0 the tasks oppose each other on the "
    "whole. Beside it, on the steps' own small batches: between tasks, and between two halves of "
    "one task's batch. Where even one task's halves are near 0, such batches can't show more."
)
LAYERS = "The mean cosine between tasks after warm-up by parameters, with its 95 % interval."
SLOWDOWN = (
    "Each task's training loss after equally many of its own examples, together with the others "
    "and alone. Where the line for together lies higher, the task learns slower in company."
)
GAP = (
    "Each task's dev loss at equal training loss, which falls from left to right. Where the line "
    "for together lies higher, the task generalizes worse in company."
)
SHARES = (
    "How much of the summed gradient is each task's: its part along the sum, over the sum's "
    "length. All shares add up to 1; below 0 the update goes against the task."
)
NOISE = (
    "The noise scale: with how many examples a batch's gradient is as much signal as noise. Far "
    "above the batch size, a step's own cosines are mostly noise."
)
COMPARED = "The mean cosine between tasks over the training, setting by setting."
ASSOCIATIONS = (
    "Each dot is a task in one multi-task run: its mean cosine with the other tasks after "
    "warm-up, against what became of it. ρ is Spearman's rank correlation; p is how often "
    "shuffled tasks give one at least as far from 0."
)
SOURCES = {
    findings.UNBIASED: (
        "Made of independent halves of the steps' batches, so that noise doesn't shrink it."
    ),
    findings.FIXED_POINT: "Measured at fixed points, on many examples of every task.",
    findings.BATCH: (
        "A diagnostic: the steps' own small batches, whose noise lengthens the gradients and "
        "shrinks their cosines towards 0."
    ),
}
RULES = {
    "gain": "trained together the task is better: q is at most 0.05",
    "loss": "trained together it is worse: q is at most 0.05",
    "undecided": 'q is above 0.05: the data don\'t say which; that is not "no effect"',
    "interval": (
        "95 %, over new test examples and new seeds, by a bootstrap of both kinds of run on the "
        "same test examples; over the seeds alone where predictions are missing"
    ),
    "q": (
        "the p-value adjusted for asking of many tasks (Benjamini and Hochberg): of the verdicts "
        "given, one in twenty is false at most"
    ),
    "rank": "by the change, 1 the best, with its 95 % interval",
    "seeds to decide": "with so many seeds of each kind an effect like this would be decided",
    "seen from": (
        "a true change of this size would get its verdict 4 times in 5; smaller ones may hide"
    ),
}

WEIGHTINGS = (
    "Every weighting of the tasks: the mean over the tasks of multi-task minus single-task, and "
    "the least of them, in the metrics' points, with 95 % intervals. The line joins the static "
    "weightings that no other one beats in both; the ring is the one tuned on the dev split. Far "
    "from 0 the scales are logarithmic."
)
