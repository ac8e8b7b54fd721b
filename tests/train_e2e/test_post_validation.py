"""With post-validation a run ends with the bits of one whose optimizer waits for all ranks."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import (
    INTERRUPT,
    Disturbance,
    Start,
    assert_same,
    left_behind,
    run_disturbed,
    said,
)
from small import config, run_here, write_text

from longpipe.runtime.launch import Launch, launch

STEPS = 6
SIZES = (
    "pipeline.ranks=4", "model.layers=8", "pipeline.microbatches=5", "pipeline.segments=1",
    f"train.steps={STEPS}", "optim.warmup_steps=2", "optim.clip_norm=1000", "train.export=false",
    "train.checkpoint_every=0", "train.nan_policy=skip",
)  # fmt: skip
ZB_V = ("pipeline.schedule=zb-v", "pipeline.chunks=2")
SEQ1F1B = ("pipeline.schedule=seq1f1b", "pipeline.segments=3", "pipeline.recompute=full")
ZB_H2 = ("pipeline.schedule=zb-h2",)
SEQ_ZB_H1 = ("pipeline.schedule=seq-zb-h1", "pipeline.segments=2")
DUALPIPE = ("pipeline.schedule=dualpipe", "pipeline.microbatches=8", "model.tie_embeddings=true")
LARGE = 1e6  # brings a rank's gradients far above clip_norm
NAN = math.nan
MIXED: dict[int, tuple[int, Disturbance]] = {2: (1, LARGE), 3: (2, LARGE), 5: (2, NAN)}


@dataclass(frozen=True)
class Case:
    """A run with and without waiting.

    Of rank 0's updates, `early` were made without waiting and right, `back` were taken back.
    """

    settings: tuple[str, ...]
    disturbed: Mapping[int, tuple[int, Disturbance]] = field(default_factory=dict)
    early: int = 0
    back: int = 0


CASES = {
    "nothing to clip": Case(ZB_H2, early=5),
    "no bound": Case((*ZB_H2, "optim.clip_norm=0"), {3: (1, LARGE), 4: (1, math.inf)}, 4, 1),
    "every step clips": Case((*ZB_H2, "optim.clip_norm=1e-6"), early=0, back=0),
    "all but rank 0 clip": Case(ZB_H2, {step: (2, LARGE) for step in range(1, 7)}, back=5),
    "zb-h1": Case(("pipeline.schedule=zb-h1",), MIXED, 2, 3),
    "zb-h2": Case(ZB_H2, MIXED, 2, 3),
    "zb-v": Case(ZB_V, MIXED, 2, 3),
    "seq1f1b, recompute": Case(SEQ1F1B, MIXED, 2, 3),
    "seq-zb-h1": Case(SEQ_ZB_H1, MIXED, 2, 3),
    "dualpipe": Case(DUALPIPE, MIXED, 2, 3),
    "tied, bfloat16": Case(
        ("model.tie_embeddings=true", "train.precision=bfloat16", *ZB_H2), MIXED, 2, 3
    ),
    "first and last rank": Case(ZB_H2, {2: (0, LARGE), 4: (3, NAN), 6: (2, LARGE)}, 3, 1),
    "only after two plain steps": Case(
        (*ZB_H2, "optim.post_validation_after=2", "train.log_every=2"), {4: (1, LARGE)}, 1, 1
    ),
}  # fmt: skip
CHECKED = (*ZB_H2, "optim.decay=constant", "train.checkpoint_every=2")
DOES_NOT_WAIT = ("optim.post_validation=true", "optim.post_validation_after=0")


def starts_of(folder: Path) -> list[Start]:
    """All starts of all runs."""

    def start(out: str, *settings: str, **rest: Any) -> Start:
        out_dir = f"train.out_dir={folder / out}"
        return Start(config(folder, *SIZES, *settings, out_dir), **rest)

    found = []
    for name, case in CASES.items():
        for kind, own in ("waits", ()), ("steps", DOES_NOT_WAIT):
            out = f"{name}, {kind}"
            found.append(start(out, *own, *case.settings, disturbed=case.disturbed))
    interrupted = MIXED | {3: (3, INTERRUPT)}
    found += [
        start("whole", *CHECKED, disturbed={2: (1, LARGE), 5: (2, NAN)}),
        start("in parts", *CHECKED, *DOES_NOT_WAIT, disturbed=interrupted),
        start("in parts", *CHECKED, *DOES_NOT_WAIT, disturbed=MIXED, first=4),
    ]
    unseen = (*ZB_H2, *DOES_NOT_WAIT, "train.log_every=100")
    found.append(start("unseen", *unseen, disturbed={2: (1, INTERRUPT)}))
    stops = (*ZB_H2, "train.nan_policy=stop", "train.checkpoint_every=2")
    found.append(start("stops, waits", *stops, disturbed={3: (2, NAN)}))
    found.append(start("stops, steps", *stops, *DOES_NOT_WAIT, disturbed={3: (2, NAN)}))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs, one after another on the same four processes."""
    folder = tmp_path_factory.mktemp("runs")
    write_text(folder)
    launch(run_disturbed, starts_of(folder), options=Launch(ranks=4, threads=1))
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_does_not_wait_ends_with_the_same_bits(folder: Path, name: str) -> None:
    case, steps = CASES[name], folder / f"{name}, steps"
    assert_same(folder / f"{name}, waits", steps)
    told = re.search(r"in (\d+) of (\d+) steps .* took (\d+) updates back", said(steps))
    assert told is not None
    assert tuple(map(int, told.groups())) == (case.early, STEPS, case.back)


def test_steps_before_a_checkpoint_and_an_interrupt_are_settled(folder: Path) -> None:
    """Stopped after step 3, whose outcome was known in step 4 only; resumed, the run is whole."""
    assert "stopped after step 3, as asked" in said(folder / "in parts")
    assert_same(folder / "whole", folder / "in parts")


def test_a_run_that_is_stopped_before_a_step_was_measured_leaves_a_report(folder: Path) -> None:
    assert "stopped after step 2, as asked" in said(folder / "unseen")
    assert (folder / "unseen" / "report.txt").exists()


def test_a_stop_for_a_number_that_is_not_finite_says_the_same_on_all_ranks(folder: Path) -> None:
    def error(kind: str, rank: int) -> str:
        (found,) = [line for line in said(folder / kind, rank).splitlines() if "error: " in line]
        return found.replace(kind, "")

    expected = error("stops, waits", 0)
    assert "error: step 3: " in expected
    assert "first on rank 2 in the gradient of model.layers.4" in expected
    assert {error("stops, steps", rank) for rank in range(4)} == {expected}
    steps, waits = left_behind(folder / "stops, steps"), left_behind(folder / "stops, waits")
    assert all(torch.equal(steps[name], waits[name]) for name in waits)


def test_one_rank_says_that_it_has_nothing_to_gain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(tmp_path, "optim.post_validation=true", "train.steps=1")
    assert "one rank waits for no other" in capsys.readouterr().out
