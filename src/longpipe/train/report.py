"""What a run says before its steps and leaves behind after them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod

from longpipe.ir import Timeline
from longpipe.model import parameter_shapes
from longpipe.simulate import Metrics, measure
from longpipe.train.config_file import save_resolved
from longpipe.train.job import Job
from longpipe.train.predict import Forecast
from longpipe.view import (
    chrome_trace,
    compare,
    html_page,
    of_run,
    save_text,
    save_timelines,
)

_WIDTH = 100
_MB = 1e6


def describe_job(job: Job) -> str:
    """The run in a few lines: model, pipeline, step."""
    config, plan, model = job.config, job.layout.plan, job.model
    numbers = sum(prod(shape) for shape in parameter_shapes(model).values())
    problem, rows = plan.problem, config.train.microbatch_size
    lengths = " ".join(map(str, plan.cuts[0]))
    return "\n".join(
        [
            f"model     {numbers / 1e6:,.2f} M parameters, {model.layers} layers of "
            f"{model.hidden}, vocabulary {model.vocab}, {config.train.precision} on {job.device}",
            f"pipeline  {plan.schedule} over {problem.ranks} ranks; layers by stage "
            f"{' '.join(map(str, plan.partition))}",
            f"step      {problem.microbatches} micro-batches of {rows} x {plan.sequence_length} "
            f"tokens, in segments of {lengths}",
            f"folder    {job.folder}",
        ]
    )


def describe_forecast(found: Forecast) -> str:
    """The prediction in a few lines: time, both bubbles, idle time by reason, memory."""
    numbers = measure(found.predicted)
    return "\n".join(
        [
            f"forecast  {numbers.makespan_s:.3g} s in the pipeline per step, bubble "
            f"global {numbers.global_bubble_rate:.1%} span {numbers.span_bubble_rate:.1%}",
            *_idle_lines("forecast", numbers),
        ]
    )


def describe_candidates(job: Job, by_group: Mapping[int, Forecast]) -> str:
    """What [tune] chooses from, in a few lines."""
    lines = [f"tune      looks at what messages take every {job.config.tune.every} steps"]
    for group, found in by_group.items():
        numbers = measure(found.predicted)
        peak = max(numbers.peak_memory or (0.0,)) / _MB
        lines.append(
            f"          group {group}: {numbers.makespan_s:.3g} s in the pipeline per step, up to "
            f"{peak:.2f} MB of activations"
        )
    return "\n".join(lines)


def _idle_lines(source: str, numbers: Metrics) -> Iterator[str]:
    for rank, idle in enumerate(numbers.idle):
        messages = 0.0 if idle.communication_s is None else idle.communication_s
        yield (
            f"r{rank} {source:9} idle {idle.total_s:.3f} s: warm-up {idle.warm_up_s:.3f}, "
            f"imbalance {idle.imbalance_s:.3f}, messages {messages:.3f}, "
            f"cool-down {idle.cool_down_s:.3f}"
        )


def _memory_lines(predicted: Timeline, measured: Timeline) -> Iterator[str]:
    pairs = (measure(timeline).peak_memory or () for timeline in (predicted, measured))
    for rank, (forecast, found) in enumerate(zip(*pairs, strict=True)):
        change = f" ({found / forecast - 1:+.1%})" if forecast else ""
        yield (
            f"r{rank} peak activations {forecast / _MB:.2f} MB predicted, "
            f"{found / _MB:.2f} MB measured{change}"
        )


def write_setup(job: Job, found: Forecast) -> None:
    """Before the first step: the resolved config, the plan, the costs and the prediction."""
    save_resolved(job.config, job.folder / "config.toml")
    save_text(job.folder / "plan.json", job.layout.plan.to_json())
    save_text(job.folder / "costs.json", found.costs.to_json() + "\n")
    save_timelines(job.folder / "predicted.json", [found.predicted])


def write_report(job: Job, found: Forecast, steps: Sequence[Timeline]) -> str:
    """After the last step: what was measured, beside what was predicted; returns it as text."""
    typical = sorted(steps, key=lambda timeline: timeline.makespan_s)[len(steps) // 2]
    assert found.rehearsed is not None, "the first rank reports"
    measured = _with_memory(typical, found.rehearsed)
    both = [found.predicted, measured]
    save_timelines(job.folder / "measured.json", [measured])
    save_text(job.folder / "trace.html", html_page(of_run(both)))
    save_text(job.folder / "trace.json", chrome_trace(both))
    text = "\n".join(
        [
            compare(both, _WIDTH),
            *_idle_lines("predicted", measure(found.predicted)),
            *_idle_lines("measured", measure(measured)),
            *_memory_lines(found.predicted, measured),
            f"in {job.folder}: trace.html for a browser, trace.json for ui.perfetto.dev",
        ]
    )
    save_text(job.folder / "report.txt", text + "\n")
    return text


def _with_memory(timed: Timeline, weighed: Timeline) -> Timeline:
    """Times of one step, memory of another: the order of ops, which fixes memory, is the same."""
    rows = tuple(
        tuple(
            event._replace(memory=other.memory, peak=other.peak)
            for event, other in zip(row, others, strict=True)
        )
        for row, others in zip(timed.rows, weighed.rows, strict=True)
    )
    return replace(timed, rows=rows)


def read_report(job: Job, done: int) -> str:
    """The report of a run that had done all its steps already."""
    path = job.folder / "report.txt"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return (
        f"{text}The {done} steps of this run are done already. To go on, set train.steps higher; "
        f"to start anew, set another train.out_dir or remove {job.folder}"
    )
