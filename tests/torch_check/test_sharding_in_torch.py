"""Sharding ops mean the same in torch: its own tables pass our rules, ours are actions to torch."""

import pytest

from longpipe.ir import COMPUTE, SHARDING, Problem, from_torch_csv, to_torch_csv
from longpipe.passes import add_messages, add_sharding
from longpipe.schedules import build
from longpipe.validate import validate

schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
CASES = [
    ("1f1b", Problem(4, 4), 1),
    ("looped-bfs", Problem(2, 3, 4, segments=2), 2),
    ("interleaved", Problem(4, 8, 4), 1),
    ("zb-v", Problem(4, 8, 2), 1),
]


@pytest.mark.parametrize(("name", "problem", "segments"), CASES)
def test_what_torch_adds_passes_our_rules(name, problem, segments):
    order = build(name, problem)
    lines = []
    for line in to_torch_csv(order).splitlines():
        actions = [schedules._Action.from_str(cell) for cell in line.split(",")]
        actions = schedules._add_unshard_reshard(actions)
        actions = schedules._add_reduce_grad(actions, problem.microbatches * segments)
        lines.append(",".join(map(repr, actions)))
    theirs = from_torch_csv("\n".join(lines), segments=segments)
    validate(theirs)
    validate(add_messages(theirs))
    assert [op for _, _, op in theirs if op.kind in COMPUTE] == [op for _, _, op in order]
    assert any(op.kind in SHARDING for _, _, op in theirs)


@pytest.mark.parametrize(("name", "problem", "segments"), CASES)
def test_torch_reads_what_we_add(name, problem, segments):
    program = add_messages(add_sharding(build(name, problem)))
    text = to_torch_csv(program)
    for line in text.splitlines():
        cells = line.split(",")
        assert [repr(schedules._Action.from_str(cell)) for cell in cells] == cells
    assert from_torch_csv(text, segments=segments).rows == program.schedule().rows
