"""A Plan as a value and as JSON: what it refuses, and the program that it stands for."""

import json
from typing import Any

import pytest

from longpipe.errors import PlanError, ScheduleError
from longpipe.ir import Kind, Op, Problem
from longpipe.plan.plan import Plan
from longpipe.validate import validate

PLAN = Plan(
    "seq-zb-h1", Problem(2, 2, segments=(2, 1)), (3, 1), ((5, 3), (8,)), weight_queue_bytes=None
)


def test_json_round_trip() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN
    assert len(PLAN.to_json().splitlines()) == 12, "a line for each key"


def test_layers_and_segments_cover_model_and_sequences() -> None:
    assert PLAN.layers == (range(3), range(3, 4))
    assert [[segment.tokens for segment in row] for row in PLAN.segments] == [[5, 3], [8]]
    assert PLAN.sequence_length == 8


def test_the_program_is_valid_and_bounded() -> None:
    validate(PLAN.program())
    bounded = Plan(PLAN.schedule, PLAN.problem, PLAN.partition, PLAN.cuts, weight_queue_bytes=10)
    queued = most = 0
    for op in bounded.program(held=lambda _: 5).rows[1]:
        queued += {Kind.I: 5, Kind.W: -5}.get(op.kind, 0)
        most = max(most, queued)
    assert most <= 10
    tight = Plan(PLAN.schedule, PLAN.problem, PLAN.partition, PLAN.cuts, weight_queue_bytes=4)
    with pytest.raises(ScheduleError, match="raise the limit to at least 5"):
        tight.program(held=_five)


def _five(_: Op) -> int:
    return 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"partition": (4,)}, "each of 2 stages"),
        ({"cuts": ((5, 3), (4, 4))}, "segments by micro-batch"),
        ({"cuts": ((5, 3), (9,))}, "same sequence length"),
        ({"cuts": ((8, 0), (8,))}, "at least one token"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], says: str) -> None:
    fields = {
        "schedule": PLAN.schedule,
        "problem": PLAN.problem,
        "partition": PLAN.partition,
        "cuts": PLAN.cuts,
    }
    with pytest.raises(PlanError, match=says):
        Plan(**(fields | change))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no plan"),
        ('{"format": "longpipe plan 1"}', "a plan has the keys"),
        (PLAN.to_json().replace("[3, 1]", '["3", 1]'), "whole numbers"),
        (PLAN.to_json().replace('"ranks": 2', '"ranks": 0'), "ranks must be"),
    ],
)
def test_other_files_are_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Plan.from_json(text)


def test_an_unknown_key_is_refused() -> None:
    content = json.loads(PLAN.to_json()) | {"extra": 1}
    with pytest.raises(PlanError, match="extra"):
        Plan.from_json(json.dumps(content))
