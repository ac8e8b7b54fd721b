"""The online part of Ada-Grouper: the group follows the network while a run trains.

Every few steps the first rank takes the times of the last ones, works out what ops and messages
have taken (`runtime.observe`), simulates a step with each candidate group, and may choose another
one; all ranks go on with its choice (arXiv:2303.01675). A group changes the order of ops and
nothing else: batches, gradients and losses stay the same to the last bit.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from longpipe.errors import RunError
from longpipe.ir import Program, Timeline, clock, makespan_ticks
from longpipe.runtime import Executor
from longpipe.runtime.observe import observed_costs
from longpipe.train.predict import Forecast

_LOOKED_AT = 8  # steps at most: enough for a median, and all of them of now


@dataclass(frozen=True, slots=True)
class Decision:
    """What a look at the last steps has come to."""

    step: int
    """Steps done."""
    group: int
    """Of the steps that were looked at."""
    chosen: int
    """Of the steps from now on."""
    message_s: float
    """From the end of an op until its result lies on the next rank, on the slowest link."""
    predicted_s: Mapping[int, float]
    """Seconds in the pipeline per step, by group."""

    @property
    def switches(self) -> bool:
        """Whether the group changes."""
        return self.chosen != self.group

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "event": "tune",
            "step": self.step,
            "group": self.group,
            "chosen": self.chosen,
            "message_s": self.message_s,
            "predicted_s": {str(group): time_s for group, time_s in self.predicted_s.items()},
        }

    def line(self) -> str | None:
        """For people, if the group changes."""
        if not self.switches:
            return None
        return (
            f"step {self.step}: messages take {self.message_s * 1e3:.3g} ms; group {self.group} -> "
            f"{self.chosen} (predicted {self.predicted_s[self.chosen]:.3g} s in the pipeline, "
            f"{self.predicted_s[self.group]:.3g} s with group {self.group})"
        )


def decide(
    step: int,
    group: int,
    programs: Mapping[int, Program],
    timelines: Sequence[Timeline],
    hysteresis: float,
) -> Decision:
    """Look at measured steps that ran with `group`, and choose among `programs`, by group."""
    costs = observed_costs(programs[group], timelines)
    predicted_s = {  # the timing alone: memory was not observed, and is as it was
        each: makespan_ticks(clock(programs[each].schedule(), costs)) * costs.tick_s
        for each in sorted(programs)
    }
    return Decision(
        step=step,
        group=group,
        chosen=choose(predicted_s, group, hysteresis),
        message_s=max((link.latency_s for link in costs.links.values()), default=0.0),
        predicted_s=predicted_s,
    )


def choose(predicted_s: Mapping[int, float], group: int, hysteresis: float) -> int:
    """The group to go on with.

    The goal is the smallest group, for memory's sake, whose step is at most half of `hysteresis`
    longer than the fastest one. `group` stays while it is the goal, and while a larger group would
    gain less than `hysteresis`.

    >>> choose({1: 1.00, 2: 0.98, 4: 0.97}, group=1, hysteresis=0.05)
    1
    >>> choose({1: 1.50, 2: 0.98, 4: 0.97}, group=1, hysteresis=0.05)
    2
    """
    fastest_s = min(predicted_s.values())
    near_s = fastest_s * (1 + hysteresis / 2)
    goal = min(each for each, time_s in predicted_s.items() if time_s <= near_s)
    if goal > group and predicted_s[group] <= fastest_s * (1 + hysteresis):
        return group
    return goal


@dataclass(frozen=True, slots=True)
class Way:
    """One group, ready to run on this rank."""

    program: Program
    executor: Executor
    forecast: Forecast


@dataclass(slots=True)
class Tuner:
    """One rank's ways through a step, by group, and which of them the run takes now.

    `recent` is for the first rank: the last measured steps since the look before.
    """

    ways: Mapping[int, Way]
    group: int
    every: int
    hysteresis: float
    recent: deque[Timeline] = field(default_factory=lambda: deque(maxlen=_LOOKED_AT))

    @property
    def way(self) -> Way:
        """The one that the run takes now."""
        return self.ways[self.group]

    def due(self, step: int) -> bool:
        """Whether there is a look after this step."""
        return step % self.every == 0

    def look(self, step: int) -> Decision:
        """What to do after `step`, from the `recent` steps with this group; for the first rank."""
        programs = {group: way.program for group, way in self.ways.items()}
        decision = decide(step, self.group, programs, self.recent, self.hysteresis)
        self.recent.clear()
        return decision

    def follow(self, decision: Decision) -> Way:
        """Go on as the first rank has decided; every rank calls it at the same point."""
        if decision.group != self.group or decision.chosen not in self.ways:
            raise RunError(
                f"this rank runs group {self.group} of {sorted(self.ways)}, the first rank has "
                f"gone from {decision.group} to {decision.chosen}: the ranks do not run the same "
                "program any more. Start again from the last checkpoint"
            )
        self.group = decision.chosen
        return self.way
