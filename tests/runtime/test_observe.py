"""Costs from the times of a step: a simulated step gives back the costs that it was made of."""

from dataclasses import dataclass
from itertools import product

import pytest

from longpipe.errors import RunError
from longpipe.ir import Kind, Op, Problem, Timeline
from longpipe.passes import add_messages
from longpipe.runtime.observe import observed_costs
from longpipe.schedules import build
from longpipe.simulate import simulate


@dataclass(frozen=True)
class Known:
    """Ops that differ by stage and segment, latencies that differ by link and direction."""

    latency_s: float
    tick_s: float = 1.0
    cell_bytes: float = 1.0

    def ticks(self, op: Op) -> float:
        return (2 if op.kind is Kind.B else 1) * (1 + 0.1 * op.stage + 0.05 * op.seg)

    def delay(self, op: Op, source: int, destination: int) -> float:
        if source == destination:
            return 0
        return self.latency_s * (1 + 0.2 * source + 0.1 * (source < destination))

    def pair_ticks(self, first: Op, second: Op) -> None:
        return None

    holds = scratch = saves = lambda self, op: 0


def step(problem: Problem, group: int, costs: Known) -> tuple[object, Timeline]:
    program = add_messages(build("seq-kfkb", problem, group=group))
    return program, simulate(program, costs)


@pytest.mark.parametrize("latency_s", [0.0, 0.3, 1.0, 4.0])
def test_a_simulated_step_gives_its_costs_back(latency_s: float) -> None:
    """Also where a large group hides the messages of the steady state."""
    known = Known(latency_s)
    for p, m, k in product((2, 3, 4), (1, 4, 6), (1, 2)):
        problem = Problem(p, m, segments=k)
        for group in (g for g in (1, 2, 4, m * k) if m * k % g == 0):
            program, timeline = step(problem, group, known)
            found = observed_costs(program, [timeline])
            for op in (op for row in program.schedule().rows for op in row):
                assert found.ticks(op) == pytest.approx(known.ticks(op))
            for rank in range(p - 1):
                for ends in ((rank, rank + 1), (rank + 1, rank)):
                    op = Op(Kind.F, rank, 0)
                    assert found.delay(op, *ends) == pytest.approx(known.delay(op, *ends))


def test_other_groups_are_predicted_from_one_that_ran() -> None:
    """What a step with one group shows is enough to simulate any other."""
    known, problem = Known(1.5), Problem(4, 12)
    steps = {group: step(problem, group, known) for group in (1, 2, 3, 4, 6, 12)}
    for program, timeline in steps.values():
        costs = observed_costs(program, [timeline])
        for other, wanted in steps.values():
            assert simulate(other, costs).makespan_s == pytest.approx(wanted.makespan_s)


def test_clocks_that_differ_do_not_change_what_is_predicted() -> None:
    """A rank whose clock is 0.2 ahead: the error cancels between the two ways of its links."""
    known, problem = Known(1.0), Problem(3, 6)
    program, timeline = step(problem, 1, known)
    rows = list(timeline.rows)
    rows[1] = tuple(e._replace(start_s=e.start_s + 0.2, end_s=e.end_s + 0.2) for e in rows[1])
    shifted = Timeline("", "measured", tuple(rows))
    costs = observed_costs(program, [shifted])
    first = Op(Kind.F, 0, 0)
    assert costs.delay(first, 0, 1) == pytest.approx(known.delay(first, 0, 1) + 0.2)
    for group in (1, 2, 3):
        other, wanted = step(problem, group, known)
        assert simulate(other, costs).makespan_s == pytest.approx(wanted.makespan_s)


def test_the_median_of_several_steps_ignores_one_that_was_disturbed() -> None:
    known, problem = Known(1.0), Problem(2, 4)
    program, timeline = step(problem, 1, known)
    _, disturbed = step(problem, 1, Known(9.0))
    found = observed_costs(program, [timeline, disturbed, timeline])
    assert found.delay(Op(Kind.F, 0, 0), 0, 1) == pytest.approx(1.1)


def test_nothing_measured_is_an_error() -> None:
    program = add_messages(build("kfkb", Problem(2, 2)))
    with pytest.raises(RunError, match="no step has been measured"):
        observed_costs(program, [])
