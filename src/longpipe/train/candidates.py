"""The groups that a run may change between, each as a proved program."""

from collections.abc import Callable
from dataclasses import replace

from longpipe.errors import ConfigError
from longpipe.ir import Costs, Op, Program
from longpipe.plan import named
from longpipe.plan.plan import Plan
from longpipe.simulate import measure, simulate
from longpipe.train.config import Config


def candidates(
    config: Config, plan: Plan, costs: Costs, held: Callable[[Op], int]
) -> dict[int, Program]:
    """By group, what [tune] may choose from; empty where it is off.

    `costs` gives the bytes of each op, `held` those of a weight queue's entry. Raises ConfigError
    where the schedule has no groups, or the group that the run starts with is not among them.
    """
    pipeline, tune = config.pipeline, config.tune
    if not tune.every:
        return {}
    entry = None if plan.order else named(plan.schedule)
    if entry is None or "group" not in entry.options:
        raise ConfigError(
            f"tune.every = {tune.every} changes a schedule's group, but pipeline.schedule = "
            f'"{pipeline.schedule}" has none: set pipeline.schedule = "kfkb" or "seq-kfkb", or '
            "tune.every = 0"
        )
    units = len(plan.problem.units())
    groups = sorted(tune.groups) or [size for size in range(1, units + 1) if units % size == 0]
    found, too_large = {}, {}
    for group in groups:
        options = tuple(sorted({**dict(plan.options), "group": group}.items()))
        program = replace(plan, options=options).program(costs, held)
        peak_bytes = int(max(measure(simulate(program, costs)).peak_memory or (0,)))
        if tune.memory_bytes is not None and peak_bytes > tune.memory_bytes:
            too_large[group] = peak_bytes
        else:
            found[group] = program
    _check_start(config, found, too_large)
    return found


def first_group(config: Config) -> int:
    """The group that a run starts with, and goes on with after a resume."""
    return config.pipeline.group or 1


def _check_start(config: Config, found: dict[int, Program], too_large: dict[int, int]) -> None:
    start, tune = first_group(config), config.tune
    if start in found:
        return
    if start in too_large:
        raise ConfigError(
            f"the run starts with pipeline.group = {start}, whose activations take "
            f"{too_large[start]} bytes on a rank, but tune.memory_bytes = {tune.memory_bytes}: "
            f"raise it, or use a smaller group or more segments"
        )
    raise ConfigError(
        f"the run starts with pipeline.group = {start}, which tune.groups = "
        f"{list(tune.groups)} leaves out: add it there, or set pipeline.group to one of them"
    )
