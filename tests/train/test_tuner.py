"""The tuner's choices, from simulated steps: it follows the latency up and down, and is calm."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longpipe.cost import UniformCosts
from longpipe.errors import RunError
from longpipe.ir import Problem, Program, Timeline
from longpipe.passes import add_messages, recompute
from longpipe.schedules import build
from longpipe.simulate import simulate
from longpipe.train.tuner import Decision, Tuner, Way, choose, decide

PROBLEM = Problem(4, 24)
PROGRAMS = {
    group: add_messages(build("kfkb", PROBLEM, group=group)) for group in (1, 2, 3, 4, 6, 8, 12, 24)
}


def step(program: Program, latency: float) -> Timeline:
    """What a step is like when messages take so long; F takes 1, B 2."""
    return simulate(program, UniformCosts(PROBLEM, comm=latency))


def look(group: int, *latencies: float, hysteresis: float = 0.05) -> Decision:
    timelines = [step(PROGRAMS[group], latency) for latency in latencies]
    return decide(7, group, PROGRAMS, timelines, hysteresis)


@pytest.mark.parametrize("group", PROGRAMS)
@pytest.mark.parametrize("latency", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
def test_it_finds_the_page_s_group_from_every_other(group: int, latency: float) -> None:
    """g* = 1 + ceil(2c / (f + b)), or the next divisor of m: the least memory that hides c."""
    decision = look(group, latency, hysteresis=0.001)
    best = 1 + ceil(2 * latency / 3)
    assert decision.chosen == min(each for each in PROGRAMS if each >= best)
    assert decision.message_s == pytest.approx(latency)
    for each, time_s in decision.predicted_s.items():
        assert time_s == pytest.approx(step(PROGRAMS[each], latency).makespan_s)


def test_it_follows_a_latency_that_begins_and_ends() -> None:
    """Each look sees the steps with the group that the look before has chosen."""
    group, chosen = 1, []
    for latency in (0.0, 0.0, 2.0, 2.0, 1.0, 0.0, 0.0):
        group = look(group, latency, latency).chosen
        chosen.append(group)
    assert chosen == [1, 1, 3, 3, 2, 1, 1]


def test_orders_that_recompute_are_predicted_too() -> None:
    """R takes as long as F: a group hides more, and is needed for more."""
    programs = {
        group: add_messages(recompute(build("kfkb", PROBLEM, group=group))) for group in PROGRAMS
    }
    timelines = {group: step(program, 2.0) for group, program in programs.items()}
    decision = decide(7, 1, programs, [timelines[1]], 0.001)
    for group, time_s in decision.predicted_s.items():
        assert time_s == pytest.approx(timelines[group].makespan_s)
    assert decision.chosen > 1


def test_one_disturbed_step_of_three_changes_nothing() -> None:
    assert look(1, 0.0, 9.0, 0.0).chosen == 1


@given(
    predicted_s=st.dictionaries(st.integers(1, 64), st.floats(0.1, 10), min_size=1),
    hysteresis=st.floats(0, 0.5),
    data=st.data(),
)
def test_a_choice_is_near_the_fastest_and_stands(
    predicted_s: dict[int, float], hysteresis: float, data: st.DataObject
) -> None:
    group = data.draw(st.sampled_from(sorted(predicted_s)))
    chosen = choose(predicted_s, group, hysteresis)
    fastest_s = min(predicted_s.values())
    assert predicted_s[chosen] <= fastest_s * (1 + hysteresis)
    assert choose(predicted_s, chosen, hysteresis) == chosen
    if predicted_s[group] > fastest_s * (1 + hysteresis):
        assert chosen != group
    if chosen > group:
        assert predicted_s[group] > fastest_s * (1 + hysteresis)


def test_small_changes_around_a_border_do_not_make_it_swing() -> None:
    """Between 1 + h/2 and 1 + h it stays where it is, at either side."""
    for gain in (1.03, 1.04, 1.03, 1.049, 1.026):
        predicted_s = {1: gain, 2: 1.0}
        assert choose(predicted_s, 1, 0.05) == 1
        assert choose(predicted_s, 2, 0.05) == 2


def test_what_is_recorded_and_said() -> None:
    decision = look(1, 1.0)
    assert decision.switches
    assert decision.record() == {
        "event": "tune",
        "step": 7,
        "group": 1,
        "chosen": 2,
        "message_s": pytest.approx(1.0),
        "predicted_s": {str(each): time_s for each, time_s in decision.predicted_s.items()},
    }
    line = decision.line()
    assert line is not None
    assert line.startswith("step 7: messages take 1e+03 ms; group 1 -> 2 (predicted ")
    assert look(2, 1.0).line() is None


def test_a_look_is_at_the_newest_steps_since_the_look_before() -> None:
    """However long it was calm before: what is late now is seen at the next look."""
    ways = {
        group: Way(program, None, None)  # type: ignore[arg-type]  # nothing is run here
        for group, program in PROGRAMS.items()
    }
    tuner = Tuner(ways, group=1, every=50, hysteresis=0.05)
    tuner.recent.extend([step(PROGRAMS[1], 0.0)] * 40)
    assert not tuner.look(50).switches
    assert not tuner.recent
    tuner.recent.extend([step(PROGRAMS[1], 0.0)] * 42 + [step(PROGRAMS[1], 1.0)] * 8)
    decision = tuner.look(100)
    assert (decision.step, decision.chosen) == (100, 2)
    assert tuner.follow(decision) is ways[2]
    assert (tuner.group, tuner.way) == (2, ways[2])


def test_a_rank_that_runs_another_group_than_the_first_one_stops() -> None:
    tuner = Tuner(ways={}, group=2, every=5, hysteresis=0.05)
    assert [step for step in range(1, 12) if tuner.due(step)] == [5, 10]
    with pytest.raises(RunError, match="do not run the same program"):
        tuner.follow(look(1, 1.0))
