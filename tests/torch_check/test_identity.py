"""Our orders are torch's own, op for op, where torch has the schedule."""

from unittest import mock

import pytest
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining import schedules as theirs

from longpipe.ir import Kind, Problem, Rows
from longpipe.schedules import build

SIZES = [(2, 2), (2, 4), (4, 4), (4, 8), (4, 12), (8, 8), (8, 16)]


def torch_rows(schedule: str, ranks: int, microbatches: int, chunks: int) -> list[list[str]]:
    """The text of torch's compute ops, rank by rank, without its idle slots.

    torch's own `get_schedule_ops` does the same, but refuses one stage per rank for the
    schedules that could have several.
    """
    stage = mock.create_autospec(PipelineStage, instance=True)
    stage.group_rank, stage.group_size, stage.submod = 0, ranks, None
    stage.num_stages = ranks * chunks
    order = getattr(theirs, schedule)([stage] * chunks, microbatches).pipeline_order
    return [[str(action) for action in order[rank] if action is not None] for rank in range(ranks)]


def torch_dualpipe_v(ranks: int, microbatches: int) -> tuple[list[list[str]], set[tuple[str, ...]]]:
    """The text of torch's ops, each pair as its two, and of its pairs."""
    stage = mock.create_autospec(PipelineStage, instance=True)
    stage.group_rank, stage.group_size, stage.submod = 0, ranks, None
    stage.num_stages = 2 * ranks
    order = theirs.ScheduleDualPipeV([stage] * 2, microbatches).pipeline_order
    cells = [
        [tuple(map(str, action.sub_actions or (action,))) for action in order[rank] if action]
        for rank in range(ranks)
    ]
    pairs = {cell for row in cells for cell in row if len(cell) == 2}
    return [[action for cell in row for action in cell] for row in cells], pairs


def text(rows: Rows) -> list[list[str]]:
    return [[str(op) for op in row] for row in rows]


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
@pytest.mark.parametrize(
    ("name", "schedule", "chunks"),
    [
        ("interleaved", "ScheduleInterleaved1F1B", 2),
        ("interleaved", "ScheduleInterleaved1F1B", 3),
        ("zb-h1", "ScheduleInterleavedZeroBubble", 1),
        ("zb-interleaved", "ScheduleInterleavedZeroBubble", 2),
        ("zb-interleaved", "ScheduleInterleavedZeroBubble", 3),
        ("zb-v", "ScheduleZBVZeroBubble", 2),
    ],
)
def test_order_is_torchs(
    name: str, schedule: str, chunks: int, ranks: int, microbatches: int
) -> None:
    ours = build(name, Problem(ranks, microbatches, chunks))
    assert text(ours.rows) == torch_rows(schedule, ranks, microbatches, chunks)


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 3), (4, 1), (4, 3), (4, 7), (8, 2)])
@pytest.mark.parametrize(
    ("name", "schedule", "chunks"),
    [("zb-h1", "ScheduleInterleavedZeroBubble", 1), ("zb-v", "ScheduleZBVZeroBubble", 2)],
)
def test_also_where_micro_batches_do_not_fill_the_ranks(
    name: str, schedule: str, chunks: int, ranks: int, microbatches: int
) -> None:
    ours = build(name, Problem(ranks, microbatches, chunks))
    assert text(ours.rows) == torch_rows(schedule, ranks, microbatches, chunks)


@pytest.mark.parametrize(
    ("ranks", "microbatches"), [(2, 3), (2, 6), (4, 1), (4, 3), (4, 5), (4, 7), (4, 10), (8, 2)]
)
@pytest.mark.parametrize("chunks", [2, 3])
def test_interleaved_zero_bubble_groups_as_torch_does(
    chunks: int, ranks: int, microbatches: int
) -> None:
    """Also where p does not divide m: torch's rounds are our groups."""
    ours = build("zb-interleaved", Problem(ranks, microbatches, chunks))
    wanted = torch_rows("ScheduleInterleavedZeroBubble", ranks, microbatches, chunks)
    assert text(ours.rows) == wanted


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
def test_looped_bfs_is_torchs_but_for_the_order_of_backward(ranks: int, microbatches: int) -> None:
    """torch takes the micro-batches backward in reversed order; renaming them makes it ours."""
    rows = build("looped-bfs", Problem(ranks, microbatches, chunks=2)).rows
    reversed_mbs = [
        [op if op.kind is Kind.F else op._replace(mb=microbatches - 1 - op.mb) for op in row]
        for row in rows
    ]
    wanted = torch_rows("ScheduleLoopedBFS", ranks, microbatches, 2)
    assert text(tuple(map(tuple, reversed_mbs))) == wanted


@pytest.mark.parametrize(("ranks", "microbatches"), SIZES)
def test_gpipe_is_torchs(ranks: int, microbatches: int) -> None:
    stage = mock.create_autospec(PipelineStage, instance=True)
    stage.group_rank, stage.group_size, stage.submod = 0, ranks, None
    stage.num_stages = ranks
    order = theirs.ScheduleGPipe(stage, microbatches)._get_pipeline_order()
    assert order is not None
    wanted = [
        [str(action) for action in order[rank] if action and "REDUCE_GRAD" not in str(action)]
        for rank in range(ranks)
    ]
    assert text(build("gpipe", Problem(ranks, microbatches)).rows) == wanted


@pytest.mark.parametrize(
    ("ranks", "microbatches"),
    [(1, 2), (1, 3), (2, 4), (2, 7), (3, 7), (4, 8), (4, 10), (5, 12), (8, 16), (8, 21), (16, 32)],
)
def test_dualpipe_v_is_torchs_with_its_pairs(ranks: int, microbatches: int) -> None:
    ours = build("dualpipe-v", Problem(ranks, microbatches, chunks=2))
    rows, pairs = torch_dualpipe_v(ranks, microbatches)
    assert text(ours.rows) == rows
    assert {(str(first), str(second)) for first, second in ours.pairs} == pairs
