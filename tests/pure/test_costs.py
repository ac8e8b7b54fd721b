"""Cost models: shares, FLOPs, bytes, and the measured table's file."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longpipe.cost import (
    Activations,
    AnalyticCosts,
    DecoderShape,
    Device,
    Link,
    Load,
    Measured,
    MeasuredCosts,
    Slot,
    StageShape,
    UniformCosts,
    causal_pairs,
    coefficients,
    op_flops,
    stage_shapes,
    training_flops_per_token,
)
from longpipe.errors import ConfigError, LongpipeError, PlanError
from longpipe.ir import Costs, Kind, Op, Problem, Segment, segments_from_lengths
from longpipe.plan import equal_cost_cuts
from longpipe.schedules import build
from longpipe.simulate import measure, simulate

SHAPE = DecoderShape(64, 4, 8, 2, 8, 160, 1000)
LINK = Link(0.001, 1e6)
UNIT = Segment(0, 0, 1)


# Uniform


@given(
    chunks=st.integers(1, 3),
    segments=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    times=st.tuples(*[st.fractions(0, 100, max_denominator=60)] * 4),
)
def test_uniform_shares_add_up_exactly(
    chunks: int, segments: list[int], times: tuple[Fraction, ...]
) -> None:
    problem = Problem(2, len(segments), chunks, tuple(segments))
    costs = UniformCosts(problem, *times)
    tick = Fraction(1, round(1 / costs.tick_s))
    cell = Fraction(1, round(1 / costs.cell_bytes))
    for mb, count in enumerate(segments):
        for kind, time in zip((Kind.F, Kind.I, Kind.W), times[:3], strict=True):
            ops = [Op(kind, 0, mb, seg) for _ in range(chunks) for seg in range(count)]
            assert sum(map(costs.ticks, ops)) * tick == time
        assert costs.ticks(Op(Kind.B, 0, mb)) == sum(
            costs.ticks(Op(kind, 0, mb)) for kind in (Kind.I, Kind.W)
        )
        assert costs.holds(Op(Kind.F, 0, mb)) * cell == Fraction(1, chunks * count)
        for backward in ((Kind.B,), (Kind.I, Kind.W)):
            freed = sum(costs.holds(Op(kind, 0, mb)) for kind in backward)
            assert freed == -costs.holds(Op(Kind.F, 0, mb))
    assert costs.delay(Op(Kind.F, 0, 0), 0, 1) * tick == times[3]
    assert costs.delay(Op(Kind.F, 0, 0), 1, 1) == 0


def test_uniform_takes_numbers_as_they_are_written() -> None:
    problem = Problem(1, 1)
    for value in (1.2, "1.2", "6/5", Fraction(6, 5)):
        costs = UniformCosts(problem, input_grad=value)
        assert (costs.ticks(Op(Kind.F, 0, 0)), costs.ticks(Op(Kind.I, 0, 0))) == (5, 6)
    for wrong in ("fast", "1/0", float("nan"), float("inf")):
        with pytest.raises(PlanError, match="is no number"):
            UniformCosts(problem, forward=wrong)
    with pytest.raises(PlanError, match="below 0"):
        UniformCosts(problem, comm=-1)
    for absurd in ("1e400", "1e-400", "1E+999999999", 10**31):
        with pytest.raises(PlanError, match="out of range"):
            UniformCosts(problem, weight_grad=absurd)


# FLOPs


def test_flops_of_a_layer_by_hand() -> None:
    """hidden 64, 8 heads and 2 key-value heads of 8, intermediate 160."""
    weights = 64 * 64 + 2 * 64 * 16 + 64 * 64 + 3 * 64 * 160
    inner = StageShape(1)
    assert SHAPE.layer_weights == weights
    assert op_flops(Kind.F, SHAPE, inner, UNIT) == 2 * weights + 4 * 64
    assert op_flops(Kind.W, SHAPE, inner, UNIT) == 2 * weights
    assert op_flops(Kind.I, SHAPE, inner, UNIT) == 2 * weights + 10 * 64
    assert op_flops(Kind.B, SHAPE, inner, UNIT) == 4 * weights + 10 * 64
    head = StageShape(0, last=True)
    # Logits are not kept: the backward for the input makes them again.
    for kind, products in {Kind.F: 1, Kind.I: 2, Kind.W: 1, Kind.B: 3}.items():
        assert op_flops(kind, SHAPE, head, UNIT) == products * 2 * 64 * 1000
    assert op_flops(Kind.F, SHAPE, StageShape(0, first=True), UNIT) == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_segments_cost_together_what_the_sequence_costs(lengths: list[int]) -> None:
    stage = StageShape(3, last=True)
    whole = Segment(0, 0, sum(lengths))
    assert causal_pairs(0, whole.stop) == sum(range(1, whole.stop + 1))
    for kind in (Kind.F, Kind.I, Kind.W, Kind.B):
        parts = sum(op_flops(kind, SHAPE, stage, seg) for seg in segments_from_lengths(lengths))
        assert parts == op_flops(kind, SHAPE, stage, whole)


def test_stages_cost_together_what_the_model_costs() -> None:
    segment = Segment(1, 17, 60)
    whole = op_flops(Kind.B, SHAPE, StageShape(4, True, True), segment)
    assert whole == sum(
        op_flops(Kind.B, SHAPE, stage, segment) for stage in stage_shapes((1, 2, 1))
    )


def test_training_flops_follow_the_usual_formula() -> None:
    """6 times the weights of the products, and attention's causal half, per token."""
    weights = 4 * SHAPE.layer_weights + 64 * 1000
    tokens = 2048
    attention = 3 * 4 * 4 * 64 * (tokens + 1) / 2
    assert training_flops_per_token(SHAPE, tokens) == 6 * weights + attention


def test_cuts_by_coefficients_balance_what_they_are_asked_to() -> None:
    stage, tokens = StageShape(4, True, True), 8192
    for kinds in ((Kind.F,), (Kind.F, Kind.B), (Kind.I,)):
        linear, pair = coefficients(SHAPE, stage, kinds)
        cuts = equal_cost_cuts(tokens, 4, linear=linear, pair=pair)
        flops = [
            sum(op_flops(kind, SHAPE, stage, segment) for kind in kinds)
            for segment in segments_from_lengths(cuts)
        ]
        assert max(flops) == pytest.approx(min(flops), rel=0.002)


def test_shape_from_a_hugging_face_config() -> None:
    raw = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 160,
        "vocab_size": 1000,
    }
    assert DecoderShape.from_hf(raw) == DecoderShape(64, 4, 8, 2, 16, 160, 1000, qk_norm=True)
    del raw["num_key_value_heads"], raw["head_dim"]
    plain = DecoderShape.from_hf(raw | {"model_type": "llama"})
    assert (plain.kv_heads, plain.head_dim, plain.qk_norm) == (8, 8, False)
    with pytest.raises(ConfigError, match="vocab_size"):
        DecoderShape.from_hf({key: value for key, value in raw.items() if key != "vocab_size"})


# Analytic


def analytic(problem: Problem, load: Load) -> AnalyticCosts:
    return AnalyticCosts(problem, SHAPE, load, Device(1e9, op_overhead_s=1e-4), LINK)


@pytest.mark.parametrize(
    ("name", "chunks"), [("seq1f1b", 1), ("seq-zb-h1", 1), ("seq1f1b-interleaved", 2)]
)
def test_nothing_stays_at_the_end_of_a_step(name: str, chunks: int) -> None:
    problem = Problem(2, 4, chunks, segments=3)
    load = Load((1,) * 4 if chunks == 2 else (2, 2), ((30, 20, 14),), rows=2)
    timeline = simulate(build(name, problem), analytic(problem, load))
    for row in timeline.rows:
        assert row[-1].memory == 0
        assert all(event.memory is not None and event.memory >= 0 for event in row)
        assert all(event.peak is not None and event.peak >= event.memory for event in row)


def test_analytic_times_and_messages() -> None:
    problem = Problem(2, 2, segments=(2, 1))
    costs = analytic(problem, Load((3, 1), ((40, 24), (64,)), rows=2, dtype_bytes=4))
    op = Op(Kind.F, 1, 0, 1)
    flops = 2 * op_flops(Kind.F, SHAPE, StageShape(1, last=True), Segment(1, 40, 64))
    assert costs.ticks(op) == pytest.approx(1e-4 + flops / 1e9)
    assert costs.delay(op, 0, 1) == pytest.approx(0.001 + 24 * 2 * 64 * 4 / 1e6)
    assert costs.delay(op, 1, 1) == 0
    assert costs.ticks(Op(Kind.F, 0, 1, 0)) > costs.ticks(Op(Kind.F, 0, 0, 0))


def test_backward_frees_what_forward_keeps_also_split() -> None:
    for stage in stage_shapes((1, 2, 1)):
        segments = segments_from_lengths((30, 20, 14))
        memory = Activations(SHAPE, stage, segments, rows=3)
        kept = sum(memory.holds(Kind.F, segment) for segment in segments)
        assert kept == sum(map(memory.kept, segments)) + stage.layers * memory.layer_kv(64)
        for backward in ((Kind.B,), (Kind.I, Kind.W)):
            freed = sum(memory.holds(kind, segment) for kind in backward for segment in segments)
            assert freed == -kept


def test_more_segments_lower_the_predicted_peak() -> None:
    peaks = []
    for segments in (1, 4, 8):
        problem = Problem(2, 4, segments=segments)
        load = Load((2, 2), ((2048 // segments,) * segments,))
        found = measure(simulate(build("seq1f1b", problem), analytic(problem, load)))
        assert found.peak_memory is not None
        peaks.append(max(found.peak_memory))
    assert peaks[0] > peaks[1] > peaks[2]


@pytest.mark.parametrize(
    ("load", "advice"),
    [
        (Load((1, 2), ((32, 32),)), "add up to the model's 4"),
        (Load((4,), ((32, 32),)), "must be 2 numbers"),
        (Load((2, 2), ((64,),)), "make them agree"),
        (Load((2, 2), ((32, 32),) * 2), "one for each"),
        (Load((2, 2), ((64, 0),)), "at least one token"),
    ],
)
def test_a_load_that_does_not_fit_is_refused(load: Load, advice: str) -> None:
    with pytest.raises(PlanError, match=advice):
        analytic(Problem(2, 3, segments=2), load)


def test_speeds_must_be_speeds() -> None:
    for wrong in (
        lambda: Device(0),
        lambda: Device(1, -1),
        lambda: Link(-1, 1),
        lambda: Link(0, 0),
    ):
        with pytest.raises(PlanError, match="needs a"):
            wrong()


# Measured


def table() -> MeasuredCosts:
    ops = {
        Slot(Kind.F, 0, 0): Measured(0.5, 100, 120),
        Slot(Kind.I, 0, 0): Measured(0.75, -40, 30),
        Slot(Kind.W, 0, 0): Measured(0.25, -60, 80),
        Slot(Kind.B, 1, 0): Measured(1.25, -100, 10),
    }
    return MeasuredCosts(ops, (4000,), {(0, 1): LINK})


def test_measured_costs_answer_as_measured() -> None:
    costs: Costs = table()
    forward = Op(Kind.F, 0, mb=7)
    assert (costs.ticks(forward), costs.holds(forward), costs.scratch(forward)) == (0.5, 100, 120)
    assert costs.delay(forward, 0, 1) == LINK.seconds(4000)
    assert costs.delay(forward, 1, 1) == 0


def test_a_full_backward_is_the_sum_of_its_parts_but_not_the_other_way() -> None:
    costs = table()
    whole = Op(Kind.B, 0, 0)
    assert (costs.ticks(whole), costs.holds(whole), costs.scratch(whole)) == (1.0, -100, 40)
    with pytest.raises(PlanError, match=r"kind I, stage 1, segment 0.*backward split"):
        costs.ticks(Op(Kind.I, 1, 0))


def test_missing_entries_are_named() -> None:
    costs = table()
    with pytest.raises(PlanError, match="kind F, stage 0, segment 3"):
        costs.ticks(Op(Kind.F, 0, 0, 3))
    with pytest.raises(PlanError, match="link from rank 1 to rank 0"):
        costs.delay(Op(Kind.F, 0, 0), 1, 0)
    with pytest.raises(PlanError, match=r"size for the message of 0F0\.1"):
        costs.delay(Op(Kind.F, 0, 0, 1), 0, 1)


def test_measured_costs_round_trip_through_json() -> None:
    assert MeasuredCosts.from_json(table().to_json()) == table()


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"format": "other"}, '"format": "longpipe-costs"'),
        ({"version": 2}, "has version 2, this longpipe reads 1"),
        ({"ops": None}, "wrong or missing entry"),
        ({"ops": [{"kind": "F"}]}, "wrong or missing entry"),
        ({"links": [{"source": 0}]}, "wrong or missing entry"),
    ],
)
def test_wrong_files_are_refused(change: dict[str, object], advice: str) -> None:
    document = json.loads(table().to_json()) | change
    with pytest.raises(PlanError, match=advice):
        MeasuredCosts.from_json(json.dumps(document))


def test_a_file_that_is_no_json_is_refused() -> None:
    with pytest.raises(LongpipeError, match="no JSON"):
        MeasuredCosts.from_json("{")
