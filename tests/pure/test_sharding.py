"""Sharded weights: the pass's counts (arXiv:2211.05953), its rules, what they cost, and faults."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_validate_properties import any_schedule

from longpipe import (
    Op,
    Problem,
    ProblemError,
    Program,
    Schedule,
    ScheduleError,
    UniformCosts,
    add_messages,
    build,
    entries,
    from_text,
    from_torch_csv,
    measure,
    simulate,
    to_text,
    to_torch_csv,
    validate,
)
from longpipe.cost import AnalyticCosts, Copies, DecoderShape, Device, Link, Load
from longpipe.errors import PlanError
from longpipe.ir import COMPUTE, SHARDING, Kind, clock, loop, makespan_ticks
from longpipe.passes import add_sharding, recompute, without_sharding


def counts(schedule: Schedule, kind: Kind) -> list[int]:
    return [sum(op.kind is kind for op in row) for row in schedule.rows]


@pytest.mark.parametrize(
    ("size", "gathers", "reductions"),
    [((4, 8, 4), 6, 4), ((8, 16, 4), 6, 4), ((8, 8, 4), 6, 4), ((4, 8, 2), 2, 2)],
)
def test_breadth_first_counts(size: tuple[int, int, int], gathers: int, reductions: int) -> None:
    """2v - 2 gathers and v reductions on every rank, whatever p and m."""
    sharded = add_sharding(build("looped-bfs", Problem(*size)))
    assert counts(sharded, Kind.UNSHARD) == [gathers] * size[0]
    assert counts(sharded, Kind.REDUCE_GRAD) == [reductions] * size[0]


@pytest.mark.parametrize(("p", "m"), [(2, 2), (4, 4), (4, 7), (8, 8)])
@pytest.mark.parametrize("v", [2, 3, 5])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_breadth_first_formulas(p: int, m: int, v: int, k: int) -> None:
    """Global bubble (p-1)(F+I+W)/(k v), overhead (p-1)/(m k v), all m in flight; m k at least p."""
    problem = Problem(p, m, v, k)
    schedule = build("looped-bfs", problem)
    found = measure(simulate(schedule, UniformCosts(problem)))
    assert found.global_bubble_s == pytest.approx(3 * (p - 1) / (k * v), rel=1e-12)
    assert found.global_bubble_s / (3 * m) == pytest.approx((p - 1) / (m * k * v), rel=1e-12)
    assert found.peak_memory == (m,) * p
    sharded = add_sharding(schedule)
    assert counts(sharded, Kind.UNSHARD) == [2 * v - 2] * p
    assert counts(sharded, Kind.REDUCE_GRAD) == [v] * p


@pytest.mark.parametrize(
    ("size", "gathers", "reductions"),
    [((4, 8, 4), 20, 8), ((8, 16, 4), 36, 8), ((8, 8, 4), 6, 4), ((4, 8, 2), 2, 4)],
)
def test_depth_first_counts(size: tuple[int, int, int], gathers: int, reductions: int) -> None:
    """The published counts are rank 0's; where m = p the two orders agree."""
    sharded = add_sharding(build("interleaved", Problem(*size)))
    assert counts(sharded, Kind.UNSHARD)[0] == gathers
    assert counts(sharded, Kind.REDUCE_GRAD) == [reductions] * size[0]


def test_counts_by_rank_and_by_buffers() -> None:
    depth_first = build("interleaved", Problem(4, 8, 4))
    assert counts(add_sharding(depth_first), Kind.UNSHARD) == [20, 12, 16, 24]
    assert counts(add_sharding(depth_first, buffers=4), Kind.UNSHARD) == [4] * 4
    two = build("interleaved", Problem(4, 8, 2))
    assert counts(add_sharding(two, filling=2), Kind.REDUCE_GRAD) == [2] * 4
    bfs = build("looped-bfs", Problem(2, 2, 5, segments=3))
    assert counts(add_sharding(bfs), Kind.UNSHARD) == [8] * 2
    assert counts(add_sharding(bfs, buffers=1), Kind.UNSHARD) == [9] * 2


def check_states(schedule: Schedule, buffers: int) -> None:
    """What `validate` proves, said anew; and no more stages are whole than there are buffers."""
    for row in schedule.rows:
        whole: set[int] = set()
        due: set[int] = set()
        unread: set[int] = set()
        for op in row:
            if op.kind is Kind.UNSHARD:
                assert op.stage not in whole
                whole.add(op.stage)
                unread.add(op.stage)
                assert len(whole) <= buffers
            elif op.kind is Kind.RESHARD:
                whole.remove(op.stage)
                assert op.stage not in unread
            elif op.kind is Kind.REDUCE_GRAD:
                due.remove(op.stage)
            else:
                assert op.stage in whole
                unread.discard(op.stage)
                if op.kind in (Kind.B, Kind.W):
                    due.add(op.stage)
        assert not whole
        assert not due


PROBLEMS = [
    Problem(p, m, chunks, segments)
    for p, m in ((1, 2), (2, 1), (2, 4), (4, 3), (4, 8))
    for chunks in (1, 2, 3)
    for segments in (1, 4)
]


@pytest.mark.parametrize("name", [entry.name for entry in entries()])
def test_every_schedule_can_be_sharded(name: str) -> None:
    tried = 0
    for problem in PROBLEMS:
        try:
            schedule = build(name, problem)
        except ProblemError:
            continue
        tried += 1
        for buffers in (1, 2):
            sharded = add_sharding(schedule, buffers)
            validate(sharded)
            check_states(sharded, buffers)
            program = add_messages(sharded)
            validate(program)
            late = add_sharding(add_messages(schedule), buffers)
            validate(late)
            assert without_sharding(late).schedule().rows == schedule.rows
            assert late.schedule() == program.schedule() == sharded
            assert from_text(to_text(program)) == program
            compute = tuple(tuple(op for op in row if op.kind in COMPUTE) for row in sharded.rows)
            assert compute == schedule.rows
            numbered = [op for _, _, op in sharded if op.kind in SHARDING]
            assert len(set(numbered)) == len(numbered)
            free = UniformCosts(problem)
            assert simulate(sharded, free).makespan_s >= simulate(schedule, free).makespan_s
    assert tried


def test_with_room_for_all_stages_and_no_cost_nothing_changes() -> None:
    problem = Problem(4, 8, 2)
    schedule = build("interleaved", problem)
    costs = UniformCosts(problem)
    plain, sharded = simulate(schedule, costs), simulate(add_sharding(schedule), costs)
    assert plain.makespan_s == sharded.makespan_s
    for before, after in zip(plain.rows, sharded.rows, strict=True):
        assert before == tuple(event for event in after if event.op.kind in COMPUTE)


def by_hand(*rows: str, chunks: int = 1, microbatches: int = 1) -> Schedule:
    ops = tuple(tuple(map(Op.parse, row.split())) for row in rows)
    return Schedule(
        "by-hand", Problem(len(rows), microbatches, chunks), loop(len(rows), chunks), ops
    )


THREE = by_hand("0F0 1F0 2F0 2B0 1B0 0B0", chunks=3)


def test_gathers_run_beside_compute() -> None:
    """One stage ahead: a gather of 2 (each) behind an F of 1, worked out by hand.

    Gathers of stages 0, 1: 0-2, 2-4; 0F0 2-3; the gather of stage 2 waits for the one of stage 1:
    4-6; 1F0 4-5, 2F0 6-7, 2B0 7-9; 2REDUCE_GRAD 9-12, then the gather of stage 0, 12-14; 1B0 9-11,
    1REDUCE_GRAD 14-17; 0B0 14-16, 0REDUCE_GRAD 17-20.
    """
    costs = UniformCosts(THREE.problem, 3, 3, 3, gather=6, reduce=9)
    timeline = simulate(add_sharding(THREE), costs)
    spans = {str(event.op): (event.start_s, event.end_s) for event in timeline.rows[0]}
    assert spans == {
        "0UNSHARD0": (0, 2), "1UNSHARD0": (2, 4), "0F0": (2, 3), "0RESHARD0": (3, 3),
        "2UNSHARD0": (4, 6), "1F0": (4, 5), "2F0": (6, 7), "2B0": (7, 9),
        "2REDUCE_GRAD0": (9, 12), "2RESHARD0": (9, 9), "0UNSHARD1": (12, 14), "1B0": (9, 11),
        "1REDUCE_GRAD0": (14, 17), "1RESHARD0": (11, 11), "0B0": (14, 16),
        "0REDUCE_GRAD0": (17, 20), "0RESHARD1": (16, 16),
    }  # fmt: skip
    assert timeline.makespan_s == 20
    found = measure(timeline)
    (idle,) = found.idle
    assert (found.ops, found.busy_s, found.makespan_s) == (6, (9,), 20)
    assert (idle.warm_up_s, idle.imbalance_s, idle.cool_down_s) == (2, 0, 0)
    assert idle.communication_s == 1 + 1 + 3 + 4  # before 1F0, 2F0, 0B0, and to reduce at the end
    assert makespan_ticks(clock(add_sharding(THREE), costs)) * costs.tick_s == 20


def test_the_rank_that_ends_first_waits_for_the_others() -> None:
    problem = Problem(2, 1)
    schedule = add_sharding(build("1f1b", problem))
    found = measure(simulate(schedule, UniformCosts(problem, reduce=1)))
    assert found.makespan_s == 7
    assert [idle.communication_s for idle in found.idle] == [1, 1]
    assert [idle.cool_down_s for idle in found.idle] == [0, 2]


def test_a_fused_pair_waits_for_the_weights_of_both_its_stages() -> None:
    schedule = by_hand("0F0 1F0 1B0 0F1 0B0 1F1 1B1 0B1", chunks=2, microbatches=2)
    pair = (Op.parse("0F1"), Op.parse("0B0"))
    paired = replace(schedule, pairs=frozenset({pair}))
    costs = UniformCosts(schedule.problem, 2, 2, 2, pair=4, gather=20)
    sharded = add_sharding(paired, buffers=1)
    validate(sharded)
    assert sharded.pairs == paired.pairs
    spans = {str(e.op): (e.start_s, e.end_s) for e in simulate(sharded, costs).rows[0]}
    assert spans["0UNSHARD1"][1] == spans["0F1"][0]
    assert spans["0B0"][1] == spans["0F1"][0] + 2


def test_pairs_stay_neighbours_or_end() -> None:
    """Both halves of DualPipeV's pairs are whole in two buffers; in one buffer none is a pair."""
    schedule = build("dualpipe-v", Problem(4, 8, 2))
    assert schedule.pairs
    sharded = add_sharding(schedule)
    assert sharded.pairs == schedule.pairs
    place = {op: (rank, index) for rank, index, op in sharded}
    for first, second in sharded.pairs:
        rank, index = place[first]
        assert place[second] == (rank, index + 1)
    one = add_sharding(schedule, buffers=1)
    validate(one)
    assert all(first.stage == second.stage for first, second in one.pairs)


def test_copies_of_a_stage_on_two_ranks_are_numbered_apart() -> None:
    """Both pipes of DualPipe hold every stage."""
    sharded = add_sharding(build("dualpipe", Problem(4, 8, 1)))
    validate(sharded)
    numbers = Counter(op for _, _, op in sharded if op.kind is Kind.UNSHARD)
    assert set(numbers.values()) == {1}
    assert Op(Kind.UNSHARD, 0, 1) in numbers


def test_recompute_finds_whole_weights() -> None:
    validate(add_sharding(recompute(build("looped-bfs", Problem(2, 3, 3)))))


@settings(deadline=None, max_examples=60)
@given(schedule=any_schedule(), buffers=st.integers(1, 3))
def test_any_order_on_any_placement_can_be_sharded(schedule: Schedule, buffers: int) -> None:
    sharded = add_sharding(schedule, buffers)
    validate(sharded)
    check_states(sharded, buffers)
    validate(add_messages(sharded))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_a_sharding_op_moved_passes_only_where_the_states_allow(data: st.DataObject) -> None:
    """Against the states as they are said anew in `check_states`."""
    case = data.draw(st.sampled_from([("looped-bfs", 3), ("interleaved", 3), ("zb-v", 2)]))
    sharded = add_sharding(build(case[0], Problem(2, 2, case[1])))
    row = list(sharded.rows[0])
    movable = [index for index, op in enumerate(row) if op.kind in SHARDING]
    op = row.pop(data.draw(st.sampled_from(movable)))
    row.insert(data.draw(st.integers(0, len(row))), op)
    moved = replace(sharded, rows=(tuple(row), *sharded.rows[1:]))
    try:
        check_states(moved, buffers=9)
    except (AssertionError, KeyError):
        with pytest.raises(ScheduleError, match=r"rank 0, op \d+: "):
            validate(moved)
    else:
        validate(moved)


RIGHT = "0UNSHARD0 0F0 0B0 0REDUCE_GRAD0 0RESHARD0"
FAULTS = {
    "0F0 0UNSHARD0 0B0 0REDUCE_GRAD0 0RESHARD0": "op 0: 0F0 finds its weights sharded",
    "0UNSHARD0 0F0 0RESHARD0 0B0 0REDUCE_GRAD0": "op 3: 0B0 finds its weights sharded",
    "0UNSHARD0 0F0 0I0 0RESHARD0 0W0 0REDUCE_GRAD0": "op 4: 0W0 finds its weights sharded",
    "0UNSHARD0 0UNSHARD1 0F0 0B0 0REDUCE_GRAD0 0RESHARD0": "op 1: .* what 0UNSHARD0 .op 0. has",
    "0UNSHARD0 0F0 0B0 0REDUCE_GRAD0": "op 0: 0UNSHARD0 leaves stage 0 whole",
    "0UNSHARD0 0F0 0B0 0RESHARD0": "op 2: 0B0 makes a gradient that no REDUCE_GRAD after it",
    "0UNSHARD0 0F0 0REDUCE_GRAD0 0B0 0REDUCE_GRAD1 0RESHARD0": "op 2: .* no new gradient",
    "0UNSHARD0 0F0 0B0 0REDUCE_GRAD0 0REDUCE_GRAD1 0RESHARD0": "op 4: .* no new gradient",
    "0RESHARD0 0UNSHARD0 0F0 0B0 0REDUCE_GRAD0 0RESHARD1": "op 0: .* not whole",
    "0UNSHARD0 0F0 0RESHARD0 0UNSHARD0 0B0 0REDUCE_GRAD0 0RESHARD1": "op 3: .* is there twice",
    "0UNSHARD0 0RESHARD0 0UNSHARD1 0F0 0B0 0REDUCE_GRAD0 0RESHARD1": "op 1: .* no op has read",
    "1UNSHARD0 0F0 0B0": "op 0: 1UNSHARD0 names no stage of this rank",
    "0UNSHARD0.1 0F0 0B0": "op 0: 0UNSHARD0.1 names no stage of this rank, .* or a segment",
}


@pytest.mark.parametrize("row", FAULTS)
def test_faults(row: str) -> None:
    other = "1F0 1I0 1W0" if "W" in row else "1F0 1B0"
    validate(by_hand(RIGHT, other))
    with pytest.raises(ScheduleError, match=FAULTS[row]) as error:
        validate(by_hand(row, other))
    assert str(error.value).startswith("rank 0, op ")


def test_gradients_alone_may_be_sharded() -> None:
    validate(by_hand("0F0 0B0 0REDUCE_GRAD0", "1F0 1B0"))


def test_it_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ProblemError, match="buffers=0, filling=1: use at least 1"):
        add_sharding(THREE, buffers=0)
    with pytest.raises(ScheduleError, match="by-hand gathers and reduces already"):
        add_sharding(add_sharding(THREE))


def test_torch_csv_of_a_program_and_back() -> None:
    """Torch's actions have no number; messages are for torch alone."""
    program = add_messages(add_sharding(build("looped-bfs", Problem(2, 2, 3))))
    text = to_torch_csv(program)
    assert text.startswith("0UNSHARD,2UNSHARD,0F0,0SEND_F0,2RECV_F0,0F1,0SEND_F1,2RECV_F1,")
    assert "0RESHARD,4UNSHARD,2F0" in text
    assert from_torch_csv(text).rows == program.schedule().rows
    assert isinstance(program, Program)


def test_bytes_over_a_link() -> None:
    """Stage 0 of two: embedding and a layer; both ways over 4 copies, weights at half the bytes."""
    shape = DecoderShape(
        hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32
    )
    problem = Problem(2, 1)
    load = Load(layers=(1, 1), cuts=((64,),))
    link = Link(latency_s=1.0, bytes_per_s=100.0)
    costs = AnalyticCosts(problem, shape, load, Device(1e9), link, Copies(4, link))
    numbers = 8 * (2 * 8 + 2 * 4) + 3 * 8 * 16 + 32 * 8
    assert costs.shard_ticks(Op(Kind.UNSHARD, 0, 0)) == 1 + numbers * 2 * 0.75 / 100
    assert costs.shard_ticks(Op(Kind.REDUCE_GRAD, 0, 0)) == 1 + numbers * 4 * 0.75 / 100
    simulate(add_sharding(build("1f1b", problem)), costs)
    with pytest.raises(PlanError, match="over which `copies`"):
        AnalyticCosts(problem, shape, load, Device(1e9), link).shard_ticks(Op(Kind.UNSHARD, 0, 0))
    with pytest.raises(PlanError, match="at least 1 copy"):
        Copies(0, link)
