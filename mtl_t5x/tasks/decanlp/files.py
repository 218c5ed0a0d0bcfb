"""Readers for a folder in the decaNLP project's layout, with a subfolder for each task.

  squad/{train,dev}-v1.1.json · iwslt/en-de/{train.en-de,IWSLT16.TED.tst2013.en-de,
  IWSLT16.TED.tst2014.en-de}.{en,de} · cnn_dailymail/{training,validation,test}.jsonl ·
  multinli/multinli_1.0_{train,dev_matched}.jsonl · sst/{train,dev,test}_fine_sent.csv ·
  srl/{train,dev,test}.qa · zre/relation_splits/{train,dev,test}.0 · schema/schema.txt ·
  wikisql/{train,dev,test}{,.tables}.jsonl · woz/woz_{train,validate,test}_en.json

Every error names the file, and the line or the place in its JSON.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.tasks import sources
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.decanlp import woz as decanlp_woz
from mtl_t5x.tasks.sources import Row


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What one reading of a split has given.

    Attributes:
      rows: with the fields of `decanlp_rows`, and `idx`, their number among these rows.
      dropped: from the reason to the number of rows that were left out for it.
    """

    rows: Sequence[Row]
    dropped: Mapping[str, int]


# A row, or the reason why there is none.
Item = Row | str


@functools.cache
def load(folder: str, task: str, split: str) -> Loaded:
    """Reads what an official split holds for a task; each is read once and kept.

    Args:
      folder: the setting DATA.
      task: one of DecaNLP's ten.
      split: "train", "validation" or "test"; SQuAD and MultiNLI have no "validation" here.

    Raises:
      FileNotFoundError: the file is not there; names the setting DATA.
      ValueError: the file cannot be read as what it should be, or no row is left.
    """
    read, names = _FILES[task]
    path = epath.Path(folder) / task / names[split]
    rows: list[Row] = []
    dropped: Counter[str] = Counter()
    for item in read(path, split):
        if isinstance(item, str):
            dropped[item] += 1
        elif not item["context"].strip():
            dropped["empty context"] += 1
        elif not item["answer"].strip():
            dropped["empty answer"] += 1
        else:
            rows.append({**item, "idx": len(rows)})
    if not rows:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise ValueError(f"{path}: no usable row for {split} (dropped: {reasons or 'none'}).")
    return Loaded(rows, dict(dropped))


def paths(folder: str, task: str, split: str) -> list[epath.Path]:
    """The files that `load` reads."""
    path = epath.Path(folder) / task / _FILES[task][1][split]
    if task == "iwslt":
        return _of_both_languages(path)
    return [path, _tables(path)] if task == "wikisql" else [path]


def _json_file(path: epath.Path) -> Any:
    try:
        return json.loads("\n".join(sources.read_lines(path)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error}).") from error


def _json_lines(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the place of each object, as `file:line`, and the object; skips blank lines."""
    for number, line in enumerate(sources.read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not a JSON object on one line ({error}).") from error


def _get(value: Any, key: str, where: str, kind: type | tuple[type, ...] = str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with the key {key!r}, found {value!r:.60}.")
    if key not in value:
        raise ValueError(f"{where}: no key {key!r}; there are {', '.join(value) or 'none'}.")
    if not isinstance(value[key], kind):
        raise ValueError(f"{where}: {key!r} has an unexpected value, {value[key]!r:.60}.")
    return value[key]


def _squad(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    for i, article in enumerate(_get(_json_file(path), "data", str(path), list)):
        for j, paragraph in enumerate(_get(article, "paragraphs", f"{path}: data[{i}]", list)):
            where = f"{path}: data[{i}].paragraphs[{j}]"
            context = _get(paragraph, "context", where)
            for k, qa in enumerate(_get(paragraph, "qas", where, list)):
                yield _squad_row(context, qa, f"{where}.qas[{k}]")


def _squad_row(context: str, qa: Any, where: str) -> Item:
    answers = _get(qa, "answers", where, list)
    if not answers:
        return "no answer"
    texts = [_get(answer, "text", where) for answer in answers]
    starts = [_get(answer, "answer_start", where, int) for answer in answers]
    return decanlp_rows.squad(context, _get(qa, "question", where), texts, starts)


def _of_both_languages(path: epath.Path) -> list[epath.Path]:
    return [path.with_name(f"{path.name}.{language}") for language in ("en", "de")]


def _iwslt(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    english, german = _of_both_languages(path)
    lines = [[line.strip() for line in sources.read_lines(file)] for file in (english, german)]
    counts = [len(side) for side in lines]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{german}:{min(counts) + 1}: the lines must pair with those of {english}, but there "
            f"are {counts[1]} here and {counts[0]} there."
        )
    for source, target in zip(*lines, strict=True):
        yield decanlp_rows.iwslt(source, target) if source and target else "empty line"


def _cnn_dailymail(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    for where, value in _json_lines(path):
        context, question, answer = (
            _get(value, key, where) for key in ("context", "question", "answer")
        )
        yield decanlp_rows.summary(context, answer, question)


def _multinli(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    labels = decanlp_rows.NLI_LABELS
    for where, value in _json_lines(path):
        premise, hypothesis, label = (
            _get(value, key, where) for key in ("sentence1", "sentence2", "gold_label")
        )
        if label == "-":
            yield "no gold label"
        elif label not in labels:
            raise ValueError(
                f"{where}: gold_label {label!r} is not one of {', '.join(labels)} or '-'."
            )
        else:
            yield decanlp_rows.multinli(premise, hypothesis, labels.index(label))


_FINE = ("0", "1", "2", "3", "4")
_NEUTRAL = 2


def _sst(path: epath.Path, split: str) -> Iterator[Item]:
    """Fine-grained labels: 0 and 1 are negative, 3 and 4 positive."""
    del split
    header, *lines = sources.read_lines(path)
    if header != "label,sentence":
        raise ValueError(f"{path}:1: expected the header 'label,sentence', found {header!r}.")
    for number, line in enumerate(lines, 2):
        try:
            cells = next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            raise ValueError(f"{path}:{number}: not a CSV row ({error}).") from error
        if len(cells) != 2:
            raise ValueError(f"{path}:{number}: expected a label and a sentence, found {cells}.")
        label = sources.parse_label(cells[0], _FINE, path, number)
        if label == _NEUTRAL:
            yield "neutral label"
        else:
            yield decanlp_rows.sst(cells[1], int(label > _NEUTRAL))


def _srl(path: epath.Path, split: str) -> Iterator[Item]:
    """Blocks of a name, a sentence, and for each verb its line and those of its questions."""
    del split
    sentence, expected, is_name = "", 0, True
    lines = sources.read_lines(path)
    for number, line in enumerate([*lines, ""], 1):
        where = f"{path}:{number}"
        cells = line.split("\t")
        if expected and "?" not in cells:
            raise ValueError(f"{where}: the verb above has {expected} more question(s).")
        if not line.strip():
            sentence, is_name = "", True
        elif is_name:
            is_name = False
        elif not sentence:
            sentence = line.strip()
        elif "?" in cells:
            if not expected:
                raise ValueError(f"{where}: one question more than the verb's line announces.")
            expected -= 1
            yield _srl_row(sentence, cells, where)
        elif len(cells) == 3 and cells[2].strip().isdigit():
            expected = int(cells[2])
        else:
            raise ValueError(
                f"{where}: expected a verb (its position, itself, its number of questions) or a "
                f"question (slots, '?', answers), separated by tabs; found {line!r:.60}."
            )


def _srl_row(sentence: str, cells: Sequence[str], where: str) -> Item:
    end = cells.index("?")
    if len(cells) != end + 2:
        raise ValueError(f"{where}: after '?' one cell with the answers was expected.")
    slots = [slot.strip() for slot in cells[:end]]
    answers = [answer.strip() for answer in cells[-1].split("###") if answer.strip()]
    if not answers:
        return "no answer"
    question = " ".join(slot for slot in slots if slot not in ("_", "")) + "?"
    return decanlp_rows.srl(sentence, question, answers)


def _zre(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    for number, line in enumerate(sources.read_lines(path), 1):
        cells = line.split("\t")
        if len(cells) < 4:
            raise ValueError(
                f"{path}:{number}: expected relation, question, subject, sentence and any answers, "
                f"separated by tabs; found {len(cells)} cell(s)."
            )
        _, question, subject, sentence, *answers = (cell.strip() for cell in cells)
        answers = [answer for answer in answers if answer]
        yield decanlp_rows.zre(sentence, question.replace("XXX", subject), answers)


_VARIANTS = re.compile(r"\[([^\[\]/]*)/([^\[\]/]*)\]")
# decaNLP takes 80 examples for training, the last 100 for the test and those between for
# validation; its file has 132 schemas of two examples each.
_SCHEMAS, _TRAIN_SCHEMAS, _TEST_SCHEMAS = 132, 40, 50


def _schema(path: epath.Path, split: str) -> Iterator[Item]:
    """Splits a file of 132 schemas as decaNLP does, and any other in the same proportions."""
    schemas = _schemas(path)
    train = len(schemas) * _TRAIN_SCHEMAS // _SCHEMAS
    test = len(schemas) * _TEST_SCHEMAS // _SCHEMAS
    if not train:
        raise ValueError(f"{path}: {len(schemas)} schema(s) are too few for three splits; at "
                         "least 4 are needed.")  # fmt: skip
    first, last = {
        "train": (0, train),
        "validation": (train, len(schemas) - test),
        "test": (len(schemas) - test, len(schemas)),
    }[split]
    for context, question, candidates in schemas[first:last]:
        for index in range(2):
            choose = functools.partial(_VARIANTS.sub, rf"\{index + 1}")
            yield decanlp_rows.schema(choose(context), choose(question), candidates, index)


def _schemas(path: epath.Path) -> list[tuple[str, str, list[str]]]:
    """Returns context, question, and the two candidates of each block."""
    found, block = [], []
    for number, line in enumerate([*sources.read_lines(path), ""], 1):
        if line.strip():
            block.append(line.strip())
            continue
        if block:
            candidates = [candidate.strip() for candidate in block[-1].split("/")]
            if len(block) != 3 or len(candidates) != 2 or not all(candidates):
                raise ValueError(
                    f"{path}:{number - len(block)}: expected three lines and a blank one: a "
                    "sentence with [one/other], a question, and two candidates with / between."
                )
            found.append((block[0], block[1], candidates))
        block = []
    return found


def _tables(path: epath.Path) -> epath.Path:
    return path.with_name(path.name.replace(".jsonl", ".tables.jsonl"))


def _wikisql(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    tables_path = _tables(path)
    headers = {
        _get(table, "id", where): _get(table, "header", where, list)
        for where, table in _json_lines(tables_path)
    }
    for where, value in _json_lines(path):
        table = _get(value, "table_id", where)
        if table not in headers:
            raise ValueError(f"{where}: the table {table!r} is not in {tables_path}.")
        query = _get(value, "sql", where, dict)
        _check_query(query, headers[table], where)
        yield decanlp_rows.wikisql(headers[table], _get(value, "question", where), query)


def _check_query(query: Any, header: Sequence[str], where: str) -> None:
    columns, aggregates = range(len(header)), range(len(decanlp_wikisql.AGGREGATES))
    operators = range(len(decanlp_wikisql.OPERATORS))
    conditions = _get(query, "conds", where, list)
    fits = (
        _get(query, "sel", where, int) in columns
        and _get(query, "agg", where, int) in aggregates
        and all(len(one) == 3 and one[0] in columns and one[1] in operators for one in conditions)
    )
    if not fits:
        raise ValueError(f"{where}: the query {query} does not fit the table's {len(header)} "
                         "columns, or has an unknown aggregate or operator.")  # fmt: skip


def _woz(path: epath.Path, split: str) -> Iterator[Item]:
    del split
    dialogues = _json_file(path)
    if not isinstance(dialogues, list):
        raise ValueError(f"{path}: expected a list of dialogues.")
    for i, dialogue in enumerate(dialogues):
        turns = _get(dialogue, "dialogue", f"{path}: [{i}]", list)
        states = [_belief(turn, f"{path}: [{i}].dialogue[{j}]") for j, turn in enumerate(turns)]
        for j, (turn, change) in enumerate(zip(turns, decanlp_woz.changes(states), strict=True)):
            where = f"{path}: [{i}].dialogue[{j}]"
            acts = _get(turn, "system_acts", where, list)
            yield decanlp_rows.woz(acts, _get(turn, "transcript", where), change, i, j)


def _belief(turn: Any, where: str) -> list[dict[str, Any]]:
    state = _get(turn, "belief_state", where, list)
    for item in state:
        _get(item, "act", where)
        for slot in _get(item, "slots", where, list):
            if len(slot) != 2:
                raise ValueError(f"{where}: expected a slot and its value, found {slot!r}.")
    return state


def _names(pattern: str, *splits: str) -> dict[str, str]:
    """File names by split: the pattern with a word in it for each of our three."""
    ours = ("train", "validation", "test")
    return {split: pattern.format(word) for split, word in zip(ours, splits, strict=True)}


_FILES: Mapping[str, tuple[Callable[[epath.Path, str], Iterator[Item]], Mapping[str, str]]] = {
    "squad": (_squad, {"train": "train-v1.1.json", "test": "dev-v1.1.json"}),
    "iwslt": (
        _iwslt,
        _names("en-de/{}.en-de", "train", "IWSLT16.TED.tst2013", "IWSLT16.TED.tst2014"),
    ),
    "cnn_dailymail": (_cnn_dailymail, _names("{}.jsonl", "training", "validation", "test")),
    "multinli": (
        _multinli,
        {"train": "multinli_1.0_train.jsonl", "test": "multinli_1.0_dev_matched.jsonl"},
    ),
    "sst": (_sst, _names("{}_fine_sent.csv", "train", "dev", "test")),
    "srl": (_srl, _names("{}.qa", "train", "dev", "test")),
    "zre": (_zre, _names("relation_splits/{}.0", "train", "dev", "test")),
    "schema": (_schema, _names("{}", *["schema.txt"] * 3)),
    "wikisql": (_wikisql, _names("{}.jsonl", "train", "dev", "test")),
    "woz": (_woz, _names("woz_{}_en.json", "train", "validate", "test")),
}
