"""Read from a compiled program's HLO text: what it sends between devices, where it spends time."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16, "tf32": 32}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(
    r"\b(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes on the wire per device and execution, and how many operations send them, by kind."""

    bytes: Mapping[str, float]
    operations: Mapping[str, int]

    @property
    def total(self) -> float:
        return sum(self.bytes.values())


def traffic(text: str, num_devices: int) -> Traffic:
    """The collective operations of a compiled program, `compiled.as_text()`.

    Counted per device as ring algorithms send it: an all-reduce among N 2(N-1)/N of its operand; an
    all-gather, reduce-scatter and all-to-all (N-1)/N of the larger side; a permutation its operand.
    A loop counts as often as it is known to run, once where that isn't known. A TPU's asynchronous
    collective is named in every fusion that it overlaps with, and counts once, by its channel.
    """
    found: dict[str, list[float]] = {}
    overlapped: set[tuple[str, str]] = set()
    for line in _lines(text):
        operation = _OPERATION.search(line.text)
        if not operation:
            continue
        kind, channel = operation.group(2), re.search(r"channel_id=(\d+)", line.text)
        if line.within and channel:
            if (kind, channel.group(1)) in overlapped:
                continue
            overlapped.add((kind, channel.group(1)))
        record = found.setdefault(kind, [0.0, 0])
        record[0] += line.times * _wire_bytes(line.text, operation, num_devices)
        record[1] += line.times
    return Traffic(
        {kind: record[0] for kind, record in found.items()},
        {kind: int(record[1]) for kind, record in found.items()},
    )


@dataclasses.dataclass(frozen=True)
class Place:
    """Part of a program: where in the model, what kind of operation, forward or backward."""

    where: str
    kind: str
    direction: str


def cycles(text: str) -> dict[Place, int]:
    """A TPU compiler's estimate of a device's cycles, by place of the program, costliest first.

    Layers are taken together, as `layers_*`. The estimate is of computing and of the device's own
    memory: what collectives, gathers and scatters take is not in it.
    """
    found: collections.Counter[Place] = collections.Counter()
    for line in _lines(text):
        estimate = re.search(r'"estimated_cycles":"(\d+)"', line.text)
        if estimate and not line.within:
            found[_place(line.text)] += line.times * int(estimate.group(1))
    return dict(found.most_common())


@dataclasses.dataclass(frozen=True)
class Repeated:
    """How many times what a program does is what it would be if each loop's body ran once."""

    flops: float
    accessed_bytes: float


def repeated(text: str) -> Repeated:
    """By its matrix products, and by the results that it writes: for XLA's own analysis of a
    compiled program, which counts each loop's body once."""
    once, all_times = collections.Counter(), collections.Counter()
    for line in _lines(text):
        operation = _RESULT.search(line.text)
        flops = _product_flops(line)
        written = 0 if line.within or not operation else _written_bytes(line.text, operation)
        for counter, number in ((once, 1), (all_times, line.times)):
            counter["flops"] += number * flops
            counter["bytes"] += number * written
    return Repeated(
        *(all_times[name] / once[name] if once[name] else 1.0 for name in ("flops", "bytes"))
    )


_RESULT = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_PRODUCT = re.compile(r" (dot|convolution)\(%?([\w.\-]+), %?([\w.\-]+)\)")
# Names for what is there, or a part of it; a loop's results are what its body writes.
_WRITES_NOTHING = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while"}


def _product_flops(line: _Line) -> int:
    """Of a matrix product, or of the convolution that it is on a TPU; else 0."""
    product, result = _PRODUCT.search(line.text), _RESULT.search(line.text)
    if not product or not result:
        return 0
    kind, left, right = product.groups()
    if kind == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.text).group(1)
        sizes = _sizes(line.shapes[left])
        summed = math.prod(sizes[int(axis)] for axis in contracted.split(",") if axis)
    else:
        kernel = re.search(r"dim_labels=\w+_(\w+)->", line.text).group(1)
        sizes = _sizes(line.shapes[right])
        summed = math.prod(size for name, size in zip(kernel, sizes, strict=True) if name != "o")
    return 2 * math.prod(_sizes(result.group(2))) * summed


def _sizes(shape: str) -> list[int]:
    return [int(size) for size in _ARRAY.search(shape).group(2).split(",") if size]


def _written_bytes(line: str, operation: re.Match) -> int:
    """Of an operation's results; one that updates a part in place writes little."""
    if operation.group(3) in _WRITES_NOTHING or "dynamic-update-slice" in line:
        return 0
    return sum(_bytes(*array) for array in _ARRAY.findall(operation.group(2)))


def _place(line: str) -> Place:
    named = re.search(r'op_name="([^"]*)"', line)
    if not named:  # the compiler's own: mostly copies to another layout or memory
        return Place("the compiler's", re.search(r" ([a-z][\w-]*)\(", line).group(1), "")
    *scopes, kind = named.group(1).split("/")
    direction = "backward" if "transpose(" in named.group(1) else "forward"
    modules = [re.sub(r"_\d+$", "_*", scope) for scope in scopes if not _NO_MODULE.search(scope)]
    if not any("jvp(" in scope for scope in scopes):
        direction = ""
    return Place("/".join(modules) or "the step", kind, direction)


# Names of transformations and of methods ("TextToText.logits") among the modules'.
_NO_MODULE = re.compile(
    r"[().]|^(shard_map|while|body|cond|branch_\d+_fun|closed_call|checkpoint|rematted_\w+)$"
)


class _Line(NamedTuple):
    """An operation of a program.

    Attributes:
      text: of it.
      times: that it runs: a loop's body as often as that is known, once where it isn't.
      within: whether it is part of another operation, as of a fusion.
      shapes: results of its computation's operations, by their names.
    """

    text: str
    times: int
    within: bool
    shapes: Mapping[str, str]


def _lines(text: str) -> Iterator[_Line]:
    """A program's operations, wherever it calls them from."""
    computations, entry = _computations(text)
    shapes = {
        name: {found.group(1): found.group(2) for found in map(_RESULT.search, lines) if found}
        for name, lines in computations.items()
    }

    def visit(name: str, times: int, within: bool) -> Iterator[_Line]:
        for line in computations.get(name, ()):
            yield _Line(line, times, within, shapes[name])
            steps = re.search(r" (while|call|conditional)\(", line)
            inner = times * _trip_count(line, computations) if " while(" in line else times
            for called in _called(line):
                yield from visit(called, inner, within or not steps)

    return visit(entry, 1, False)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = start.group(2)
            computations[current] = []
            entry = current if start.group(1) else entry
        elif current and line.startswith("  "):
            computations[current].append(line)
    return computations, entry


def _called(line: str) -> list[str]:
    called = _CALLED.findall(line)
    for branches in _BRANCHES.findall(line):
        called += [name.strip().lstrip("%") for name in branches.split(",")]
    return called


def _trip_count(line: str, computations: Mapping[str, list[str]]) -> int:
    """How often a loop's body runs: as the compiler says, or by the condition `i < n` of a loop
    that counts from 0, as JAX's scans do; 1 where neither is there."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known.group(1))
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    lines = computations.get(condition.group(1), []) if condition else []
    compared = re.search(r"ROOT .* compare\((.*?)\), direction=LT", "\n".join(lines))
    for operand in re.findall(r"%([\w.\-]+)", compared.group(1)) if compared else ():
        for one in lines:
            if bound := re.search(rf"%{re.escape(operand)} = s32\[\].* constant\((\d+)\)", one):
                return int(bound.group(1))
    return 1


def _wire_bytes(line: str, operation: re.Match, num_devices: int) -> float:
    kind, started = operation.group(2), operation.group(3)
    sizes = [_bytes(*array) for array in _ARRAY.findall(operation.group(1))]
    if started and kind in ("all-gather", "collective-permute"):
        # Its result names the operands too, then the results, then contexts of a few bytes.
        sizes = sizes[len(sizes) // 2 :] if kind == "all-gather" else sizes[:1]
    size, group = sum(sizes), _group_size(line, num_devices)
    if kind == "all-reduce":
        return 2 * (group - 1) / group * size
    if kind == "collective-permute":
        return size
    larger = size * group if kind == "reduce-scatter" else size
    return (group - 1) / group * larger


def _bytes(kind: str, dimensions: str) -> int:
    bits = _BITS.get(kind) or int(re.search(r"\d+", kind).group())
    return math.prod(int(n) for n in dimensions.split(",") if n) * bits // 8


def _group_size(line: str, num_devices: int) -> int:
    if explicit := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(explicit.group(1).split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota.group(1))
    return num_devices
