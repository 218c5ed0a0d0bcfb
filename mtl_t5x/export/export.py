"""The function that gin binds: the newest checkpoint of a run, for other programs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from mtl_t5x.data import features, heads
from mtl_t5x.experiment import Experiment
from mtl_t5x.export import card, tokenizer
from mtl_t5x.models import architectures, huggingface, pretrained, t5x_layout
from mtl_t5x.settings import checks
from mtl_t5x.storage import checkpoints, files, tensor_files

logger = logging.getLogger(__name__)

LAYOUTS = ("huggingface", "t5x")
HEAD = "head.safetensors"


class Part(NamedTuple):
    """What becomes a folder of its own: one model, and the tasks that it answers."""

    tasks: tuple[str, ...]
    model: architectures.Shared
    params: Mapping[str, Any]
    head: heads.Head


def export(*, model_dir: str, experiment: Experiment, output: str, layout: str) -> None:
    """Writes the newest checkpoint's model to a new folder, whole or not at all.

    One decoder for all tasks gives one model. Where tasks have decoders or heads of their own, each
    has a folder with its short name; beside the encoder of one with a head stands the head. In
    T5X's layout the model is in a folder `checkpoint_<step>` there.

    Args:
      model_dir: the run's folder.
      experiment: as the run had it.
      output: the folder, which may be there if it is empty.
      layout: of `LAYOUTS`.

    Raises:
      SettingsError: an output that is there already, or a model or vocabulary that the layout has
        no place for.
      FileNotFoundError: the run has no checkpoint.
      OSError: the output can't be written; nothing of it stays.
    """
    folder = files.absolute(output)
    checks.check(checks.choice("--layout", layout, LAYOUTS), _taken(folder))
    if layout == "huggingface":
        checks.check(_no_place(experiment), tokenizer.check(experiment.vocabulary))
    params, step = checkpoints.restore_params(model_dir, experiment.state_shapes(None).params)
    try:
        with files.new_folder(folder) as new:
            run = card.read_run(epath.Path(model_dir), step)
            for part in parts(experiment, params):
                own = new if experiment.model.shares_decoder else new / part.tasks[0]
                if layout == "t5x":
                    _write_t5x(own / f"{checkpoints.PREFIX}_{step}", part, step)
                else:
                    _write_huggingface(own, part, experiment, run)
            if folder.exists():
                folder.rmdir()
    except OSError as error:
        raise OSError(
            f"--output={output} can't be written: {error}. Nothing of it is left"
        ) from error
    logger.info("the model at step %d is in %s", step, folder)


def _taken(folder: epath.Path) -> checks.Fault:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    return f"--output={folder} is there already: name a new folder"


def _no_place(experiment: Experiment) -> checks.Fault:
    model = experiment.model
    if not isinstance(model, architectures.Shared):
        return f"MODEL is a {type(model).__name__}: what can be exported is of gin/architectures"
    if not model.own_embeddings or not any(
        isinstance(model.head(task), heads.Decoder) for task in range(len(experiment.names))
    ):
        return None
    return (
        f"architectures.{type(model).__name__}.own_embeddings = True: a T5 of transformers has one "
        "embedding for encoder and decoder, so this model can't be exported. --layout=t5x can"
    )


def parts(experiment: Experiment, params: Mapping[str, Any]) -> Iterator[Part]:
    """The models to write, one after the other."""
    model = experiment.model
    if model.shares_decoder:
        yield Part(experiment.names, model, params, heads.Decoder())
        return
    for task, name in enumerate(experiment.names):
        single, own = model.for_task(params, task)
        head = model.head(task)
        if isinstance(head, heads.Decoder):  # the heads are other tasks'
            own = {part: own[part] for part in pretrained.PARTS}
        yield Part((name,), single, own, head)


def _write_huggingface(
    folder: epath.Path, part: Part, experiment: Experiment, run: card.Run
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    params, config = dict(part.params), part.model.config
    if (head := params.pop("head_0", None)) is not None:
        # As PyTorch's nn.Linear has them: [outputs, inputs].
        arrays = {
            f"{name}.{theirs}": np.asarray(layer[ours]).T
            for name, layer in head.items()
            for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
        }
        tensor_files.write_file(folder / HEAD, arrays)
    huggingface.export_params(params, config, folder)
    lengths = (features.lengths_of(n, experiment.task_feature_lengths) for n in part.tasks)
    longest = max(length["targets"] for length in lengths)
    tokenizer.write(folder, experiment.vocabulary, config.vocab_size, longest)
    text = card.text(part.tasks, part.head, part.model, experiment.vocabulary, run)
    (folder / card.FILE).write_text(text, encoding="utf-8")


def _write_t5x(folder: epath.Path, part: Part, step: int) -> None:
    folder.mkdir(parents=True)
    try:
        t5x_layout.write_folder(folder, part.params, step)
    except ValueError as error:  # TensorStore's, of a disk too
        raise OSError(str(error)) from error
