"""A Plan: how one model is trained over a pipeline, as a value and as JSON."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from longpipe.errors import LongpipeError, PlanError
from longpipe.ir import (
    Costs,
    Op,
    Problem,
    Program,
    Segment,
    from_text,
    segments_from_lengths,
)
from longpipe.passes import add_messages, bound_weights, recompute
from longpipe.schedules import Option, build
from longpipe.validate import validate

_FORMAT = "longpipe plan 1"
_KEYS = (
    "schedule", "problem", "partition", "cuts", "weight_queue_bytes", "options", "order",
    "recompute", "recompute_stages",
)  # fmt: skip
RECOMPUTE = ("none", "full", "selective")


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule by name, the Problem it orders, and how layers and sequences are divided.

    `partition` counts the layers of each stage; `cuts` holds for each micro-batch the lengths of
    its segments, in tokens; `weight_queue_bytes` bounds the deferred weight gradients of a rank
    (None: as the schedule says). `options` are the schedule's own, by name. `order` is the text of
    a schedule or program that somebody has written; where it is not empty, it counts instead of
    the name. `recompute` says what an R makes again: all activations ("full"), or all but
    attention's outputs ("selective"); `recompute_stages` have one before each backward.

    >>> plan = Plan("seq1f1b", Problem(2, 1, segments=2), partition=(1, 1), cuts=((5, 3),))
    >>> plan.layers, plan.segments[0][1]
    ((range(0, 1), range(1, 2)), Segment(index=1, start=5, stop=8))
    >>> Plan.from_json(plan.to_json()) == plan
    True
    """

    schedule: str
    problem: Problem
    partition: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    weight_queue_bytes: int | None = None
    options: tuple[tuple[str, Option], ...] = ()
    order: str = ""
    recompute: str = "none"
    recompute_stages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        stages, counts = self.problem.stages, tuple(map(len, self.cuts))
        if len(self.partition) != stages or min(self.partition) < 0:
            raise PlanError(
                f"the partition {list(self.partition)} must give a number of layers for each of "
                f"{stages} stages"
            )
        want = tuple(map(self.problem.segments_of, range(self.problem.microbatches)))
        if counts != want:
            raise PlanError(
                f"the problem has {list(want)} segments by micro-batch, the cuts give "
                f"{list(counts)}: give one length for each segment"
            )
        if len({sum(lengths) for lengths in self.cuts}) > 1:
            raise PlanError("the cuts of all micro-batches must add up to the same sequence length")
        segments_from_lengths([length for lengths in self.cuts for length in lengths])
        if self.recompute not in RECOMPUTE or (self.recompute_stages and self.recompute == "none"):
            raise PlanError(
                f"recompute is one of {', '.join(RECOMPUTE)}, the last two with the stages that "
                f"have it; got {self.recompute!r} and stages {list(self.recompute_stages)}"
            )

    @property
    def layers(self) -> tuple[range, ...]:
        """The layers of each stage."""
        borders = pairwise(accumulate(self.partition, initial=0))
        return tuple(range(first, stop) for first, stop in borders)

    @property
    def segments(self) -> tuple[tuple[Segment, ...], ...]:
        """The segments of each micro-batch."""
        return tuple(map(segments_from_lengths, self.cuts))

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return sum(self.cuts[0])

    def program(
        self, costs: Costs | None = None, held: Callable[[Op], int] | None = None
    ) -> Program:
        """What the ranks execute: the schedule with its R's, weight queue bounded, messages placed.

        The result is validated under rendezvous sends, so that it cannot deadlock. `costs` is for
        a schedule that searches (None: all ops equal); `held` gives the bytes that a W's queue
        entry holds, needed where `weight_queue_bytes` is set. Raises ProblemError if the schedule
        cannot order the problem, ScheduleError if the order of a file is wrong, or the bound too
        small for one entry.
        """
        if self.order:
            what = from_text(self.order)
            validate(what)
        else:
            what = build(self.schedule, self.problem, costs, **dict(self.options))
        if isinstance(what, Program):
            program = recompute(what, self.recompute_stages)
        else:
            program = add_messages(recompute(what, self.recompute_stages))
        if self.weight_queue_bytes is not None:
            assert held is not None, "a bound needs the bytes of each entry"
            program = bound_weights(program, held, self.weight_queue_bytes)
        validate(program)
        return program

    def to_json(self) -> str:
        """As text, a line for each key."""
        problem = self.problem
        content = {
            "format": _FORMAT,
            "schedule": self.schedule,
            "problem": {
                "ranks": problem.ranks,
                "microbatches": problem.microbatches,
                "chunks": problem.chunks,
                "segments": problem.segments,
            },
            "partition": self.partition,
            "cuts": self.cuts,
            "weight_queue_bytes": self.weight_queue_bytes,
            "options": dict(self.options),
            "order": self.order,
            "recompute": self.recompute,
            "recompute_stages": self.recompute_stages,
        }
        lines = (f' "{key}": {json.dumps(value)}' for key, value in content.items())
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The reverse of `to_json`; raises PlanError on anything else."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"no JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f'no plan: expected a JSON object with "format": "{_FORMAT}"')
        if set(content) != {"format", *_KEYS}:
            raise PlanError(f"a plan has the keys {', '.join(_KEYS)}, got {', '.join(content)}")
        try:
            return cls(
                schedule=str(content["schedule"]),
                problem=_problem(content["problem"]),
                partition=_numbers(content["partition"]),
                cuts=tuple(map(_numbers, content["cuts"])),
                weight_queue_bytes=content["weight_queue_bytes"],
                options=tuple(sorted(content["options"].items())),
                order=str(content["order"]),
                recompute=str(content["recompute"]),
                recompute_stages=_numbers(content["recompute_stages"]),
            )
        except (TypeError, AttributeError, LongpipeError) as error:
            raise PlanError(f"a plan of another form than {_FORMAT}: {error}") from error


def _problem(content: Mapping[str, Any]) -> Problem:
    segments = content.get("segments", 1)
    known = {**content, "segments": segments if isinstance(segments, int) else _numbers(segments)}
    return Problem(**known)


def _numbers(content: Any) -> tuple[int, ...]:
    if not all(type(number) is int for number in content):
        raise PlanError(f"expected whole numbers, got {content}")
    return tuple(content)
