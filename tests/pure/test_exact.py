"""The exact search is exact, says what it has proven, and finds the searched schedule optimal."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_schedules_numbers import SKEW
from typer.testing import CliRunner
from zero_bubble_costs import Uneven, found, within

from longpipe.cli.main import app
from longpipe.cost import UniformCosts
from longpipe.errors import PlanError, ProblemError
from longpipe.ir import EqualCosts, Problem, read
from longpipe.plan import solve_exact
from longpipe.plan._exact_solver import solver
from longpipe.plan.exact import _scaled, _Search
from longpipe.schedules import build
from longpipe.schedules._zb_streams import Streams, allowed, one_by_one, run, to_letters
from longpipe.validate import validate

pytest.importorskip("highspy")


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_searched_schedule_is_optimal_on_small_problems(p: int, skewed: bool) -> None:
    for m, limit in itertools.product((1, 2, 3, 4), range(p, 2 * p + 1)):
        problem = Problem(p, m)
        costs = UniformCosts(problem, comm="0.05", **SKEW) if skewed else UniformCosts(problem)
        exact = solve_exact(problem, costs, memory_limit=limit)
        assert exact.optimal
        assert exact.cost_ticks == exact.bound_ticks
        searched = build("zb-auto", problem, costs, memory_limit=limit)
        assert found(searched, costs)[0] == exact.cost_ticks == found(exact.schedule, costs)[0]


@pytest.mark.parametrize(
    ("m", "limit", "span"), [(4, 4, 15), (6, 4, 21), (6, 5, 20), (8, 5, 26), (8, 4, 27), (8, 7, 24)]
)
def test_four_ranks(m: int, limit: int, span: int) -> None:
    exact = solve_exact(Problem(4, m), EqualCosts(), memory_limit=limit)
    assert (exact.cost_ticks, exact.bound_ticks, exact.gap) == (span, span, 0)


@pytest.mark.parametrize("limit", [4, 6, 8])
def test_four_ranks_with_skewed_costs(limit: int) -> None:
    problem = Problem(4, 8)
    costs = UniformCosts(problem, comm="0.05", **SKEW)
    exact = solve_exact(problem, costs, memory_limit=limit)
    assert exact.optimal
    assert found(build("zb-auto", problem, costs, memory_limit=limit), costs)[0] == exact.cost_ticks


def every_row(ops: Streams, rank: int) -> list[str]:
    """All legal rows of a rank, one by one."""

    def grow(row: str, left: tuple[int, int, int]) -> Iterator[str]:
        if not any(left):
            yield row
        for at, letter in enumerate("FIW"):
            if left[at]:
                fewer = (*left[:at], left[at] - 1, *left[at + 1 :])
                yield from grow(row + letter, fewer)

    return [row for row in grow("", (ops.units,) * 3) if allowed(ops, rank, row)]


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("ranks", "segments"), [(2, (1, 1, 1)), (3, (1, 1)), (2, (2, 1)), (2, (3,)), (3, (2,))]
)
@pytest.mark.parametrize("limit", [1.4, 2])
def test_no_order_is_better(
    ranks: int, segments: tuple[int, ...], limit: float, early: bool
) -> None:
    """Against every legal order, with ticks, delays and cells that all differ."""
    problem = Problem(ranks, len(segments), 1, segments)
    costs = Uneven(seed=ranks + len(segments), early=early)
    ops = within(problem, costs, limit)
    orders = itertools.product(*(every_row(ops, rank) for rank in range(ranks)))
    times = (run(ops, order) for order in orders)
    least = min(each.outcome.span for each in times if each is not None)
    exact = solve_exact(problem, costs, memory_limit=limit)
    assert (exact.cost_ticks, exact.bound_ticks) == (least, least)
    validate(exact.schedule)

    scaled, unit, whole = _scaled(ops)  # the solver alone, from the worst start
    search = _Search(scaled, whole, (one_by_one(problem),) * ranks)
    search.improve(solver(), 60, lambda elapsed_s, value, bound: None)
    assert search.cost * unit == pytest.approx(least)
    assert search.bound * unit == pytest.approx(least)
    assert all(allowed(ops, rank, row) for rank, row in enumerate(search.letters))

    search = _Search(scaled, whole, (one_by_one(problem),) * ranks)
    search.cost = least / unit + 1  # as if an order one tick worse were known: no window may cut
    search.improve(solver(), 60, lambda elapsed_s, value, bound: None)
    assert search.cost * unit == pytest.approx(least)


def test_ticks_that_are_no_whole_numbers() -> None:
    class Odd(EqualCosts):
        def delay(self, op: object, source: int, destination: int) -> float:
            return 0.1234567

    exact = solve_exact(Problem(3, 4), Odd(), memory_limit=4)
    assert exact.optimal
    assert exact.gap <= exact.tolerance == 2e-6
    assert exact.bound_ticks <= exact.cost_ticks
    assert exact.cost_ticks == found(exact.schedule, Odd())[0]


def test_what_time_did_not_allow_is_not_called_optimal() -> None:
    problem = Problem(4, 4, segments=4)
    costs = UniformCosts(problem, input_grad="1.2", weight_grad="0.7", comm="0.05")
    exact = solve_exact(problem, costs, memory_limit=1.75, time_limit_s=0)
    assert not exact.optimal
    assert 0 < exact.gap < 1
    searched = build("seq-zb-auto", problem, costs, memory_limit=1.75)
    assert to_letters(exact.schedule) == to_letters(searched)
    ideal = sum(map(costs.ticks, searched.rows[0]))
    assert ideal <= exact.bound_ticks < exact.cost_ticks


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match="use the schedule zb-auto"):
        solve_exact(Problem(8, 64), EqualCosts())
    with pytest.raises(ProblemError, match="set chunks=1"):
        solve_exact(Problem(2, 2, chunks=2), EqualCosts())
    with pytest.raises(ProblemError, match="set memory_limit=1"):
        solve_exact(Problem(2, 2), EqualCosts(), memory_limit=float("nan"))
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(PlanError, match=r"pip install 'longpipe\[exact\]'"):
        solve_exact(Problem(2, 2), EqualCosts())


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "best.txt"
    size = ["solve", "--ranks", "3", "--microbatches", "4", "--memory-limit", "4"]
    size += ["--costs", "I=1.2,W=0.8", "--comm", "0.05"]
    done = CliRunner().invoke(app, [*size, "--output", str(path)])
    assert (done.exit_code, "optimal, no order is better" in done.stdout) == (0, True), done.output
    schedule = read(path.read_text())
    costs = UniformCosts(Problem(3, 4), input_grad="1.2", weight_grad="0.8", comm="0.05")
    numbers = json.loads(CliRunner().invoke(app, [*size, "--json"]).stdout)
    assert numbers["optimal"] is True
    assert numbers["span"] == numbers["bound"]
    assert numbers["span"] == pytest.approx(found(schedule, costs)[0] * costs.tick_s)

    hard = "solve --ranks 4 --microbatches 4 --segments 4 --memory-limit 1.75 --costs I=1.2,W=0.7"
    done = CliRunner().invoke(app, [*hard.split(), "--comm", "0.05", "--time-limit", "0"])
    assert "not proven" in done.stdout
