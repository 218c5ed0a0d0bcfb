"""Bytes on the wire, against hand-counted programs."""

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
