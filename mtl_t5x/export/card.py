"""The model card: what a model is, how it is used, its run's settings and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import seqio
from etils import epath

from mtl_t5x.data import heads
from mtl_t5x.export import tokenizer
from mtl_t5x.models import architectures
from mtl_t5x.storage import results

FILE = "README.md"

_GENERATE = """```python
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained("FOLDER")
model = transformers.AutoModelForSeq2SeqLM.from_pretrained("FOLDER")
answer = model.generate(**tokenizer("TEXT", return_tensors="pt"))
print(tokenizer.decode(answer[0], skip_special_tokens=True))
```
"""

_HEADS = {
    heads.Classification: "`logits` [classes, embed] on the mean of the encoding over the tokens "
    "that aren't padding; the classes in the order of the task's answers",
    heads.Regression: "`score` [1, embed] on the mean of the encoding over the tokens that aren't "
    "padding",
    heads.Span: "`span` [2, embed] on the encoding of each token: the scores of being the first "
    "and the last of the answer; with `answerable` [2, embed], where it is there, on the mean of "
    "the encoding over the tokens that aren't padding: no answer, an answer",
}


class Run(NamedTuple):
    """What is told of the run: its settings as gin writes them, its results, the step exported."""

    config: str
    results: Mapping[str, Any] | None
    step: int


def read_run(folder: epath.Path, step: int) -> Run:
    """From the run's folder; what isn't there is left out."""
    config = folder / "config.gin"
    written = config.read_text(encoding="utf-8") if config.exists() else ""
    return Run(written, results.finished(folder), step)


def text(
    tasks: Sequence[str],
    head: heads.Head,
    model: architectures.Shared,
    vocabulary: seqio.Vocabulary,
    run: Run,
) -> str:
    """The card of a model that answers the tasks, whose last part is `head`."""
    decoded = isinstance(head, heads.Decoder)
    config = model.config
    sections = [
        "---\nlibrary_name: transformers\ntags:\n- t5\n- mtl_t5x\n---\n",
        f"# T5 fine-tuned on {', '.join(tasks)}\n",
        f"Trained by mtl_t5x for {run.step} steps; {config.num_encoder_layers} + "
        f"{config.num_decoder_layers if decoded else 0} layers of width {config.emb_dim}.\n",
        _GENERATE if decoded else _about_head(head),
    ]
    if tokenizer.falls_back_to_bytes(vocabulary):
        sections.append(
            "The vocabulary falls back to bytes for characters that it doesn't have. "
            f"`{tokenizer.SPIECE}` does so in sentencepiece, as in training; T5's tokenizer of "
            "transformers reads such a character as `<unk>`.\n"
        )
    sections += ["## Results\n", _results(tasks, run)]
    sections += ["## Settings\n", f"```gin\n{run.config.strip()}\n```\n"]
    return "\n".join(sections)


def _about_head(head: heads.Head) -> str:
    return (
        "The weights are a `T5EncoderModel`. The task is answered by a linear head in "
        f"`head.safetensors`, which transformers doesn't load; a weight is [outputs, embed]: "
        f"{_HEADS[type(head)]}. The head: `{head}`.\n"
    )


def _results(tasks: Sequence[str], run: Run) -> str:
    found = run.results
    if found is None:
        return "The run has no results: it isn't finished.\n"
    lines = ["| task | split | metric | value |", "|---|---|---|---|"]
    for split in ("dev", "test"):
        for task, metrics in found.get(split, {}).items():
            if task in tasks or len(tasks) > 1:  # what is only evaluated, too
                lines += [f"| {task} | {split} | {m} | {v:.4g} |" for m, v in metrics.items()]
    said = "" if found["step"] == run.step else f"These are of step {found['step']}.\n\n"
    return said + "\n".join(lines) + "\n"
