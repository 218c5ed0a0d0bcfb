"""Bytes on the wire, cycles and repeated work, against hand-counted programs."""

import pytest

from mtl_t5x.parallel import hlo

PROGRAM = """HloModule jit_f, entry_computation_layout={()->()}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body.1 (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %reduced = f32[8,4]{1,0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %tuple.1 = (s32[], f32[8,4]) tuple(%i, %reduced)
}

%condition.1 (arg: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main.1 (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  %pair = (f32[8,4]{1,0}, bf16[2]{0}) all-reduce(%p, %q), replica_groups={{0,1},{2,3}}
  %gathered = bf16[64]{0} all-gather(%q), replica_groups=[1,8]<=[8], dimensions={0}
  %started = (bf16[8]{0}, bf16[64]{0}) all-gather-start(%q), replica_groups=[1,8]<=[8]
  %scattered = f32[4]{0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %exchanged = (f32[2]{0}, f32[2]{0}) all-to-all(%a, %b), replica_groups={{0,1}}
  %moved = s8[16]{0} collective-permute(%c), source_target_pairs={{0,1},{1,0}}
  ROOT %loop = (s32[], f32[8,4]) while(%t), condition=%condition.1, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_every_kind():
    sent = hlo.traffic(PROGRAM, 8)
    assert sent.bytes == {
        "all-reduce": 2 * 1 / 2 * (128 + 4) + 5 * 2 * 3 / 4 * 128,
        "all-gather": 2 * 7 / 8 * 128,
        "reduce-scatter": 3 / 4 * 64,
        "all-to-all": 1 / 2 * 16,
        "collective-permute": 16,
    }
    assert sent.operations == {
        "all-reduce": 6,
        "all-gather": 2,
        "reduce-scatter": 1,
        "all-to-all": 1,
        "collective-permute": 1,
    }
    assert sent.total == pytest.approx(sum(sent.bytes.values()))


OVERLAPPED = """HloModule jit_f, entry_computation_layout={()->()}

%start (q: bf16[8]) -> bf16[64] {
  %gathered.1 = bf16[64]{0} all-gather(%q), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %custom-call.1 = (bf16[64]{0}, u32[]) custom-call(%gathered.1), \
custom_call_target="AsyncCollectiveStart"
}

%during (q: bf16[8]) -> bf16[64] {
  ROOT %gathered.2 = bf16[64]{0} all-gather(%q), channel_id=7, replica_groups=[1,8]<=[8]
}

%body.1 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %norm.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%add, \
metadata={op_name="jit(f)/shard_map/while/body/jvp(Model)/Model.encode/encoder/layers_3/mul"}, \
backend_config={"estimated_cycles":"10"}
  ROOT %tuple.1 = (s32[], f32[8]) tuple(%i, %norm.1)
}

ENTRY %main.1 (p: f32[8,4]) -> f32[8,4] {
  %fusion.1 = (bf16[64]{0}, u32[]) fusion(%q), kind=kCustom, calls=%start
  %fusion.2 = bf16[64]{0} fusion(%q), kind=kOutput, calls=%during, \
metadata={op_name="jit(f)/transpose(jvp(Model))/encoder/layers_0/cond/branch_0_fun/dot_general"}, \
backend_config={"window_config":{},"estimated_cycles":"700"}
  %exchanged.1 = f32[16]{0} all-to-all(%a), channel_id=1, replica_groups={{0,1}}
  %exchanged.2 = f32[16]{0} all-to-all(%b), channel_id=1, replica_groups={{0,1}}
  %copy.1 = f32[16]{0} copy(%b), backend_config={"estimated_cycles":"30"}
  ROOT %loop = (s32[], f32[8]) while(%t), condition=%c, body=%body.1, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_an_asynchronous_collective_counts_once():
    """It stands in each fusion that it overlaps with; what isn't asynchronous shares channels."""
    sent = hlo.traffic(OVERLAPPED, 8)
    assert sent.bytes == {"all-gather": 7 / 8 * 128, "all-to-all": 2 * 1 / 2 * 64}
    assert sent.operations == {"all-gather": 1, "all-to-all": 2}


def test_cycles_by_place():
    assert list(hlo.cycles(OVERLAPPED).items()) == [
        (hlo.Place("encoder/layers_*", "dot_general", "backward"), 700),
        (hlo.Place("encoder/layers_*", "mul", "forward"), 50),
        (hlo.Place("the compiler's", "copy", ""), 30),
    ]


# A loop as a TPU's compiler writes it, which says its bound in its condition only.
REPEATED = """HloModule jit_f, entry_computation_layout={()->()}

%product (a: bf16[4,8], b: bf16[8,16]) -> bf16[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  ROOT %conv.1 = bf16[4,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%body.1 (arg: (s32[], bf16[4,8], bf16[8,16])) -> (s32[], bf16[4,8], bf16[8,16]) {
  %arg = (s32[]{:T(128)}, bf16[4,8]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %x = bf16[4,8]{1,0} get-tuple-element(%arg), index=1
  %w = bf16[8,16]{1,0} get-tuple-element(%arg), index=2
  %fusion.1 = bf16[4,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%product, \
backend_config={"estimated_cycles":"10"}
  %dynamic-update-slice.1 = bf16[24,4,16]{2,1,0} dynamic-update-slice(%all, %fusion.1, %i)
  %reduced = bf16[4,16]{1,0} all-reduce(%fusion.1), replica_groups={{0,1}}, to_apply=%add
  ROOT %tuple.1 = (s32[], bf16[4,8], bf16[8,16]) tuple(%i, %x, %w)
}

%condition.1 (arg: (s32[], bf16[4,8], bf16[8,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(24)
  %arg.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %bound), direction=LT, metadata={op_name="f/while/lt"}
}

ENTRY %main.1 (p: f32[8,4], q: f32[8,6]) -> f32[4,6] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[8,6]{1,0} parameter(1)
  %dot.1 = f32[4,6]{1,0} dot(%p, %q), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %loop = (s32[], bf16[4,8], bf16[8,16]) while(%t), condition=%condition.1, body=%body.1
}
"""


def test_a_loop_counts_as_often_as_its_condition_says():
    once, product = 2 * 4 * 8 * 6, 2 * 4 * 8 * 16
    read = hlo.repeated(REPEATED)
    assert read.flops == pytest.approx((once + 24 * product) / (once + product))
    # Results, with a predicate and the reduced product; what is updated in place isn't written.
    entry, body, condition = 4 * 4 * 6, 2 * 2 * 4 * 16, 1
    assert read.accessed_bytes == pytest.approx(
        (entry + 24 * (body + condition)) / (entry + body + condition)
    )
    assert sum(hlo.cycles(REPEATED).values()) == 240
    assert hlo.traffic(REPEATED, 2).bytes == {"all-reduce": 24 * 2 * 1 / 2 * 128}


def test_nothing_is_repeated_without_a_loop():
    assert hlo.repeated(PROGRAM.replace(" while(", " call(")).flops == 1.0
