"""[tune] in real runs: refusals before the start, switches while it trains, the same losses."""

import re
from pathlib import Path

import pytest
from small import config, losses, records, run_several, write_text

from longpipe import UniformCosts
from longpipe.errors import ConfigError, ProblemError
from longpipe.runtime.launch import Launch, launch
from longpipe.simulate import measure, simulate
from longpipe.train.job import Job, prepare

GROUPS = (
    "pipeline.schedule=kfkb", "pipeline.segments=1", "pipeline.microbatches=4", "tune.every=2",
)  # fmt: skip


def job(folder: Path, *settings: str) -> Job:
    return prepare(config(folder, *GROUPS, *settings))


def test_the_candidates_are_all_divisors_each_proved_before_the_start(tmp_path: Path) -> None:
    found = job(tmp_path).layout
    assert list(found.candidates) == [1, 2, 4]
    assert found.candidates[1] == found.program
    over_segments = job(tmp_path, "pipeline.schedule=seq-kfkb", "pipeline.segments=3").layout
    assert list(over_segments.candidates) == [1, 2, 3, 4, 6, 12]
    assert not job(tmp_path, "tune.every=0").layout.candidates


def test_groups_and_memory_bound_the_candidates(tmp_path: Path) -> None:
    some = job(tmp_path, "tune.groups=[4, 2]", "pipeline.group=2").layout
    assert list(some.candidates) == [2, 4]
    assert some.candidates[2] == some.program
    everything = f"tune.memory_bytes={1 << 40}"
    assert list(job(tmp_path, everything).layout.candidates) == [1, 2, 4]
    with pytest.raises(ConfigError, match="activations take") as refused:
        job(tmp_path, "tune.memory_bytes=1")
    least = int(re.findall(r"take (\d+) bytes", str(refused.value))[0])
    assert list(job(tmp_path, f"tune.memory_bytes={least}").layout.candidates) == [1]
    with pytest.raises(ConfigError, match="activations take"):
        job(tmp_path, f"tune.memory_bytes={least}", "pipeline.group=2")


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        (("pipeline.schedule=1f1b",), 'set pipeline.schedule = "kfkb" or "seq-kfkb"'),
        (("tune.groups=[2, 4]",), "add it there, or set pipeline.group to one of them"),
        (("tune.groups=[1, 3]",), "use group=2 or 4"),
        (("pipeline.group=3",), "use group=2 or 4"),
    ],
)
def test_refusals_say_what_to_do(tmp_path: Path, settings: tuple[str, ...], way_out: str) -> None:
    with pytest.raises((ConfigError, ProblemError), match=way_out):
        job(tmp_path, *settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a change; one on a late network that is stopped, and goes on without delay."""
    folder = tmp_path_factory.mktemp("tuning")
    write_text(folder)
    tuned = (f"train.out_dir={folder / 'tuned'}", "tune.groups=[1, 4]")
    settings = (
        ("tune.every=0", f"train.out_dir={folder / 'plain'}", "train.steps=6"),
        (*tuned, "train.steps=4", "train.send_delay_s=0.1"),
        (*tuned, "train.steps=6", "tune.every=5", "train.log_every=4"),
        (*tuned[1:], f"train.out_dir={folder / 'hasty'}", "train.steps=6", "train.send_delay_s=0.1",
         "optim.post_validation=true", "optim.post_validation_after=1"),
    )  # fmt: skip
    all_of_them = (*GROUPS, "optim.decay=constant", "optim.clip_norm=0")
    runs = [config(folder, *all_of_them, *own) for own in settings]
    launch(run_several, runs, options=Launch(ranks=2, threads=1))
    return folder


def test_a_run_whose_group_changes_has_the_same_losses(folder: Path) -> None:
    """To the last bit, also over a resume; steps that are not logged are missing alone."""
    plain = {step["step"]: step for step in records(folder, "plain")}
    tuned = [line for line in records(folder, "tuned") if "event" not in line]
    assert [step["step"] for step in tuned] == [1, 2, 3, 4, 6]
    for step in tuned:
        for name in ("loss", "grad_norm"):
            assert step[name] == plain[step["step"]][name]
    assert losses(folder, "plain") == [plain[step]["loss"] for step in range(1, 7)]


def test_with_an_optimizer_that_does_not_wait_the_losses_are_the_same_too(folder: Path) -> None:
    """A look settles the step before it, and so no early forward runs in the order of before."""
    hasty = records(folder, "hasty")
    assert next(line["chosen"] for line in hasty if "event" in line) == 4
    assert [line["loss"] for line in hasty if "event" not in line] == losses(folder, "plain")


def test_each_look_is_an_event_and_the_steps_after_it_follow(folder: Path) -> None:
    """Messages that take 0.1 s at ops of milliseconds: the larger group, at the first look."""
    lines = records(folder, "tuned")
    looks = {line["step"]: line for line in lines if line.get("event") == "tune"}
    assert list(looks) == [2, 5], "there is no look after the last step"
    assert (looks[2]["group"], looks[2]["chosen"]) == (1, 4)
    assert looks[2]["message_s"] > 0.1
    assert looks[2]["predicted_s"]["4"] < looks[2]["predicted_s"]["1"]
    groups = {line["step"]: line["group"] for line in lines if "event" not in line}
    assert groups == {1: 1, 2: 1, 3: 4, 4: 4, 6: looks[5]["chosen"]}
    assert looks[5]["group"] == 1, "a resume begins with the config's group"
    assert all(line["group"] is None for line in records(folder, "plain"))


def test_the_report_is_about_the_group_that_ran_last(folder: Path) -> None:
    text = (folder / "tuned" / "report.txt").read_text(encoding="utf-8")
    assert text.startswith("kfkb ranks=2 microbatches=4")
    off = [float(change) for change in re.findall(r"MB measured \((.*?)%\)", text)]
    assert len(off) == 2
    assert max(map(abs, off)) < 12, "the memory of the group is as forecast"


def test_the_forecast_of_each_group_is_its_own(tmp_path: Path) -> None:
    """More in a group, more in flight: the memory that [tune] compares with its bound."""
    layout = job(tmp_path, "pipeline.ranks=4", "pipeline.microbatches=8").layout
    peaks = [
        measure(simulate(program, UniformCosts(program.problem))).peak_memory
        for program in layout.candidates.values()
    ]
    assert peaks == [(4, 3, 2, 1), (8, 6, 4, 2), (8, 8, 8, 4), (8, 8, 8, 8)]
