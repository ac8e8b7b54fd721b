"""Timelines of one step above each other in text: what was predicted, what was measured."""

from collections.abc import Sequence

from longpipe.ir import Timeline
from longpipe.simulate import Metrics, measure
from longpipe.view.picture import strip


def compare(timelines: Sequence[Timeline], width: int = 100) -> str:
    """Strips of all timelines on one time axis, rank by rank, with the idle share of each.

    The first is the reference: the head says by how much each other makespan differs from it.
    Idle is everything up to the timeline's own makespan.

    >>> from longpipe.cost import UniformCosts
    >>> from longpipe.ir import Problem
    >>> from longpipe.schedules import build
    >>> from longpipe.simulate import simulate
    >>> problem = Problem(ranks=2, microbatches=2)
    >>> schedule = build("1f1b", problem)
    >>> fast = simulate(schedule, UniformCosts(problem))
    >>> print(compare([fast, simulate(schedule, UniformCosts(problem, comm=1))], width=70))
    1f1b ranks=2 microbatches=2
    simulated makespan 9, bubble global 33.3% span 33.3%
    simulated makespan 11 (+22.2%), bubble global 45.5% span 45.5%
    r0 simulated 0F0-0F1-........0B0------....0B1-----........ idle  33.3%
       simulated 0F0-0F1-.................0B0-----....0B1----- idle  45.5%
    r1 simulated ....1F0-1B0-----1F1-1B1------................ idle  33.3%
       simulated ........1F0-1B0-----1F1--1B1-----............ idle  45.5%
    """
    until = max((timeline.makespan_s for timeline in timelines), default=0.0)
    found = [measure(timeline) for timeline in timelines]
    sources = [timeline.source for timeline in timelines]
    margin = max(map(len, sources), default=0)
    lines = _heads(timelines, found, margin)
    ranks = max((timeline.ranks for timeline in timelines), default=0)
    label = len(f"r{ranks - 1}")
    columns = max(width - label - margin - len("   idle 99.9 %"), 10)
    for rank in range(ranks):
        name = f"r{rank}".ljust(label)
        for timeline, metrics, source in zip(timelines, found, sources, strict=True):
            if rank < timeline.ranks:
                row = strip(timeline.rows[rank], until, columns)
                idle = _share(metrics.idle[rank].total_s, metrics.makespan_s)
                lines.append(f"{name} {source:{margin}} {row} idle {idle}")
                name = " " * label
    return "\n".join(lines)


def _heads(timelines: Sequence[Timeline], found: Sequence[Metrics], margin: int) -> list[str]:
    """The name, once, and a line for each timeline: makespan and both bubbles."""
    lines: list[str] = []
    name = None
    for timeline, metrics in zip(timelines, found, strict=True):
        if timeline.name != name:
            name = timeline.name
            lines.append(name)
        change = metrics.makespan_s / found[0].makespan_s - 1 if found[0].makespan_s else 0.0
        versus = "" if metrics is found[0] else f" ({change:+.1%})"
        lines.append(
            f"{timeline.source:{margin}} makespan {metrics.makespan_s:.5g}{versus}, bubble"
            f" global {metrics.global_bubble_rate:.1%} span {metrics.span_bubble_rate:.1%}"
        )
    return lines


def _share(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0.0:6.1%}"
