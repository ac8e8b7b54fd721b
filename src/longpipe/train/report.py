"""What a run says before its steps and leaves behind after them."""

from collections.abc import Iterator, Sequence

from longpipe.data.files import write_atomically
from longpipe.ir import Timeline
from longpipe.model import parameter_shapes
from longpipe.simulate import Metrics, measure
from longpipe.train.config_file import save_resolved
from longpipe.train.job import Job
from longpipe.view import chrome_trace, compare, html_page, save_text, save_timelines

_WIDTH = 100
_MB = 1e6


def describe_job(job: Job) -> str:
    """The run in a few lines: model, pipeline, step."""
    config, plan, model = job.config, job.layout.plan, job.model
    numbers = sum(_product(shape) for shape in parameter_shapes(model).values())
    problem, rows = plan.problem, config.train.microbatch_size
    lengths = " ".join(map(str, plan.cuts[0]))
    return "\n".join(
        [
            f"model     {numbers / 1e6:.3g} M parameters, {model.layers} layers of "
            f"{model.hidden}, vocabulary {model.vocab}, {config.train.precision} on {job.device}",
            f"pipeline  {plan.schedule} over {problem.ranks} ranks; layers by stage "
            f"{' '.join(map(str, plan.partition))}",
            f"step      {problem.microbatches} micro-batches of {rows} x {plan.sequence_length} "
            f"tokens, in segments of {lengths}",
            f"folder    {job.folder}",
        ]
    )


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


def describe_forecast(predicted: Timeline) -> str:
    """The prediction in a few lines."""
    found = measure(predicted)
    return "\n".join(
        [
            f"forecast  {found.makespan_s:.3g} s in the pipeline per step, bubble "
            f"global {found.global_bubble_rate:.1%} span {found.span_bubble_rate:.1%}",
            *_idle_lines(found),
        ]
    )


def _idle_lines(found: Metrics) -> Iterator[str]:
    peaks = found.peak_memory or (None,) * len(found.idle)
    for rank, (idle, peak) in enumerate(zip(found.idle, peaks, strict=True)):
        flying = "" if idle.communication_s is None else f", messages {idle.communication_s:.2f}"
        memory = "" if peak is None else f"; peak activations {peak / _MB:,.0f} MB"
        yield (
            f"          rank {rank} idle {idle.total_s:.2f} s: warm-up {idle.warm_up_s:.2f}, "
            f"imbalance {idle.imbalance_s:.2f}{flying}, cool-down {idle.cool_down_s:.2f}{memory}"
        )


def write_setup(job: Job, predicted: Timeline) -> None:
    """Before the first step: the resolved config, the plan and the prediction."""
    save_resolved(job.config, job.folder / "config.toml")
    write_atomically(job.folder / "plan.json", job.layout.plan.to_json().encode())
    save_timelines(job.folder / "predicted.json", [predicted])


def write_report(job: Job, predicted: Timeline, steps: Sequence[Timeline]) -> str:
    """After the last step: what was measured, beside what was predicted; returns it as text."""
    measured = sorted(steps, key=lambda timeline: timeline.makespan_s)[len(steps) // 2]
    both = [predicted, measured]
    save_timelines(job.folder / "measured.json", [measured])
    save_text(job.folder / "trace.html", html_page(both))
    save_text(job.folder / "trace.json", chrome_trace(both))
    text = compare(both, _WIDTH)
    save_text(job.folder / "report.txt", text + "\n")
    return text


def read_report(job: Job, done: int) -> str:
    """The report of a run that had done all its steps already."""
    path = job.folder / "report.txt"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return (
        f"{text}The {done} steps of this run are done already. To go on, set train.steps higher; "
        f"to start anew, set another train.out_dir or remove {job.folder}"
    )
