"""The training loop called as a function, without gin."""

import jax.numpy as jnp
import optax
import pytest

from mtl_t5x import measure, step, train
from mtl_t5x.data import batching, lookup
from mtl_t5x.evaluate import Evaluation
from mtl_t5x.experiment import Experiment
from mtl_t5x.models import architectures
from mtl_t5x.runtime import run_log
from mtl_t5x.storage import checkpoints
from mtl_t5x.tasks.glue import glue
from tests.train_test import LENGTHS, TASKS, a_config


@pytest.mark.slow
def test_a_loss_that_is_not_a_number(tmp_path):
    glue.register()
    tasks = lookup.find_tasks(TASKS)
    vocabulary = tasks[1].output_features["targets"].vocabulary
    bad_token = vocabulary.encode("not_entailment")[0]

    class Exploding(architectures.TextToText):
        """The loss of the second task is NaN where a batch begins with one certain answer."""

        def __call__(self, batch, **kwargs):
            losses = super().__call__(batch, **kwargs)
            bad = batch["decoder_target_tokens"][1, 0, 0] == bad_token
            return losses.at[1].set(jnp.where(bad, jnp.nan, losses[1]))

    def first_bad_step(seed):
        batches = batching.train_batches(tasks, LENGTHS, 4, seed=seed)
        bad = (batch["decoder_target_tokens"][1, 0, 0] == bad_token for batch in batches)
        return next(step for step, is_bad in enumerate(bad) if is_bad)

    seed, expected = next((s, n) for s in range(50) if 2 <= (n := first_bad_step(s)) < 30)
    with pytest.raises(run_log.TrainingDivergedError, match=f"step {expected}: the loss of rte"):
        train.train(
            model_dir=str(tmp_path),
            experiment=Experiment(
                model=Exploding(a_config()),
                optimizer=step.adamw(1e-3, 1, 30),
                tasks=tasks,
                task_feature_lengths=LENGTHS,
                batch_size=4,
            ),
            evaluation=Evaluation(batch_size=4),
            train_steps=30,
            random_seed=seed,
            log_period=100,
            saving=checkpoints.Settings(period=1),
            conflict=measure.InTraining(period=0),
        )
    steps = sorted(int(p.name.split("_")[1]) for p in tmp_path.glob("checkpoint_*"))
    assert steps == list(range(1, expected + 1)), "the checkpoints before the bad step stay"
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("batch_size, microbatches, window", [(4, 1, 10), (3, 1, 0), (4, 4, 0)])
def test_batches_without_halves_have_no_unbiased_metrics(batch_size, microbatches, window, caplog):
    model = architectures.TextToText(a_config())
    sizes = {"batch_size": batch_size, "microbatches": microbatches}
    experiment = Experiment(model, optax.identity(), (), LENGTHS, **sizes)
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        found = train._unbiased_window(experiment, measure.InTraining(period=5), None)
    assert found == window
    told = f"are left off: BATCH_SIZE = {batch_size} has no halves" in caplog.text
    assert told == (window == 0)
    assert train._unbiased_window(experiment, measure.InTraining(period=0), None) == 0


def test_a_mixture_without_train_split():
    glue.register()
    only_test = lookup.find_tasks("glue_mnli_mismatched.default.semantic")
    with pytest.raises(ValueError, match="mnli_mismatched.*has a train split"):
        train.train(
            model_dir="unused",
            experiment=Experiment(
                architectures.TextToText(a_config()),
                step.adamw(1e-3, 1, 30),
                only_test,
                LENGTHS,
                batch_size=4,
            ),
            evaluation=Evaluation(),
            train_steps=1,
            random_seed=0,
            log_period=1,
            saving=checkpoints.Settings(),
            conflict=measure.InTraining(period=0),
        )
