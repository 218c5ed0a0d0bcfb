"""Shows what is registered, and a task's examples as the model sees them.

python -m mtl_t5x.tasks
python -m mtl_t5x.tasks glue_cola.default.semantic --split=validation --count=2
python -m mtl_t5x.tasks glue.default.semantic --data=PATH --vocabulary_path=PATH --preset=paper
python -m mtl_t5x.tasks --module=my_tasks reviews
python -m mtl_t5x.tasks --clear_cache
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

import numpy as np
import seqio

from mtl_t5x.data import lookup, tokens
from mtl_t5x.tasks import prompts, registry
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue

BENCHMARKS = (glue, decanlp)


def clear_cache(folder: str) -> str:
    """Removes the token cache's files of a folder, and nothing else; says how big they were."""
    number, size = tokens.clear(folder)
    return f"removed {number} entries, {size / 1e6:.1f} MB, from {folder}"


def listing() -> str:
    """Returns the names of all tasks, mixtures, prompts and label vocabularies."""
    lines = []
    for benchmark in BENCHMARKS:
        name = benchmark.BENCHMARK
        tasks, mixtures = registry.registered(name)
        opened = dict.fromkeys(mixture.split(lookup.SEPARATOR)[0] for mixture in mixtures)
        named = " and ".join(f"{opening}.<prompt>.<labels>" for opening in opened)
        lines += [
            f"{name}: tasks {name}_<task>.<prompt>.<labels>, mixtures {named}",
            f"  tasks     {' '.join(benchmark.TASKS)}",
            f"  prompts   {' '.join(prompts.PROMPTS[name])}",
            f"  labels    {' '.join(prompts.LABELS[name])}",
            "  mixtures",
            *(f"    {mixture}" for mixture in mixtures),
            f"  SeqIO tasks ({len(tasks)})",
            *(f"    {task}" for task in tasks),
        ]
    own = sorted(set(seqio.TaskRegistry.names()) - _of_benchmarks(0))
    mixtures = sorted(set(seqio.MixtureRegistry.names()) - _of_benchmarks(1))
    lines += ["others:", *(f"    {name}" for name in (*mixtures, *own))] if own else []
    return "\n".join(lines)


def _of_benchmarks(kind: int) -> set[str]:
    """Their tasks (0) or mixtures (1)."""
    return {one for it in BENCHMARKS for one in registry.registered(it.BENCHMARK)[kind]}


def show(name: str, split: str, count: int, lengths: dict[str, int]) -> str:
    """Returns a task's or each of a mixture's tasks' first examples and the share that is cut.

    Args:
      name: a task or a mixture.
      split: "train", "validation" or "test"; a mixture's tasks without it are left out.
      count: how many examples of each task.
      lengths: the longest `inputs` and `targets` in tokens, EOS included.

    Raises:
      ValueError: no such name (suggests the nearest), or no such split.
    """
    found = lookup.find(name)
    tasks = [found] if isinstance(found, seqio.Task) else list(found.tasks)
    having = [task for task in tasks if split in task.splits]
    if not having:
        splits = {split for task in tasks for split in task.splits}
        raise ValueError(lookup.unknown("split", split, splits, f" of {name!r}"))
    return "\n\n".join(_show_task(task, split, count, lengths) for task in having)


def _show_task(task: seqio.Task, split: str, count: int, lengths: dict[str, int]) -> str:
    def examples(sequence_length: dict[str, int] | None):
        # The same seed, so that both passes draw the same templates.
        return task.get_dataset(
            sequence_length, split, shuffle=False, seed=0, try_in_mem_cache=False
        ).as_numpy_iterator()

    full = {feature: [] for feature in lengths}
    for example in examples(None):
        for feature in lengths:
            full[feature].append(len(example[feature]))
    total = len(full["inputs"])
    lines = [f"{task.name}, split {split}: {total} examples"]
    lines += [
        f"{rows} rows of the files were dropped: {reason}"
        for reason, rows in getattr(task.source, "dropped", lambda split: {})(split).items()
    ]
    for number, example in enumerate(itertools.islice(examples(lengths), count)):
        lines.append(f"example {number}")
        for feature, longest in lengths.items():
            lines += _show_feature(task, feature, example, full[feature][number], longest)
    for feature, longest in lengths.items():
        cut = int(np.sum(np.array(full[feature]) > longest))
        lines.append(
            f"{feature}: {cut} of {total} examples ({100 * cut / total:.1f} %) are cut at "
            f"{longest} tokens; median {np.median(full[feature]):.0f}, longest {max(full[feature])}"
        )
    return "\n".join(lines)


def _show_feature(
    task: seqio.Task, feature: str, example: dict, full: int, longest: int
) -> list[str]:
    vocabulary = task.output_features[feature].vocabulary
    ids = [int(token) for token in example[feature]]
    cut = f", cut from {full}" if full > longest else ""
    text = vocabulary.decode(ids)
    if f"{feature}_pretokenized" in example:
        text = example[f"{feature}_pretokenized"].decode("utf-8")
    return [
        f"  {feature}: {text}",
        f"    pieces: {' '.join(_piece(vocabulary, token) for token in ids)}",
        f"    ids: {' '.join(map(str, ids))}",
        f"    length: {len(ids)}{cut}",
    ]


def _piece(vocabulary: seqio.Vocabulary, token: int) -> str:
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        return vocabulary.tokenizer.id_to_piece(token)
    return vocabulary.decode([token]) or f"<{token}>"


def main(arguments: Sequence[str]) -> int:
    """Prints what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser("python -m mtl_t5x.tasks", description=__doc__.split("\n")[0])
    parser.add_argument("name", nargs="?", help="a task or a mixture; none: list all names")
    parser.add_argument("--data", default="mini", help="mini, tfds, or a folder")
    parser.add_argument("--vocabulary_path", default="mini", help="mini, bytes, or a model file")
    parser.add_argument("--module", action="append", default=[], help="a module of your own tasks")
    parser.add_argument("--preset", default="default", help="default or paper")
    parser.add_argument("--split", default="train", help="train, validation or test")
    parser.add_argument("--count", type=int, default=3, help="examples of each task")
    parser.add_argument("--inputs_length", type=int, default=256, help="longest inputs, in tokens")
    parser.add_argument("--targets_length", type=int, default=16, help="longest targets, in tokens")
    parser.add_argument("--clear_cache", action="store_true", help="remove all kept tokens")
    parser.add_argument("--cache_dir", default=tokens.user_folder(), help="as CACHE_DIR of runs")
    given = parser.parse_args(arguments)
    if given.clear_cache:
        print(clear_cache(given.cache_dir))
        return 0
    try:
        for benchmark in BENCHMARKS:
            benchmark.register(given.data, given.vocabulary_path, given.preset)
        for module in given.module:
            lookup.import_module(module, "--module")
        if given.name is None:
            print(listing())
        else:
            lengths = {"inputs": given.inputs_length, "targets": given.targets_length}
            print(show(given.name, given.split, given.count, lengths))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
