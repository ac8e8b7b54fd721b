"""Schedules side by side on a decoder: forecasts, the Pareto front, and the verb."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from longpipe.cli.main import app
from longpipe.cost import DecoderShape, Device, Link
from longpipe.errors import ProblemError
from longpipe.ir import Problem, v
from longpipe.plan.balance import StepFlops
from longpipe.plan.comparison import (
    Contender,
    Forecast,
    Setting,
    compare,
    contenders,
    forecast,
    front,
    order,
)
from longpipe.schedules import entries

SHAPE = DecoderShape(
    hidden=64, layers=16, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=256
)
SETTING = Setting(SHAPE, 2048, 4, 8, Device(1e12), Link(0.0, 1e12))
NAMES = ("1f1b", "seq1f1b", "zb-v", "gpipe", "seq-dualpipe")


def found(setting: Setting = SETTING, names: tuple[str, ...] = NAMES) -> dict[str, Forecast]:
    """Forecasts by the contender's text."""
    results = compare(setting, contenders(setting, (1, 4), names))
    return {str(who): what for who, what in results if isinstance(what, Forecast)}


def test_every_schedule_and_size_is_tried_once() -> None:
    field = list(contenders(SETTING, (1, 2, 4)))
    assert len(set(field)) == len(field)
    assert {each.schedule for each in field} == {entry.name for entry in entries()}
    assert Contender("seq-zb-h1") not in field, "one segment is zb-h1"
    assert Contender("interleaved", 4) in field
    assert Contender("seq1f1b", 1, 4, (), "selective") in field


def test_forecasts_are_ordered_as_the_papers_say() -> None:
    by = found()
    assert by["seq1f1b k=4"].step_s < by["1f1b"].step_s
    assert by["seq1f1b k=4"].peak_bytes < by["1f1b"].peak_bytes < by["gpipe"].peak_bytes
    assert by["1f1b +full"].activation_bytes <= by["1f1b +selective"].activation_bytes
    assert by["1f1b +selective"].activation_bytes < by["1f1b"].activation_bytes
    assert by["1f1b"].step_s < by["1f1b +selective"].step_s < by["1f1b +full"].step_s
    assert by["seq-dualpipe k=4"].state_bytes > 1.8 * by["1f1b"].state_bytes, "it holds two stages"


def test_time_is_flops_over_speed() -> None:
    one = found()["1f1b"]
    slow = found(replace(SETTING, device=Device(1e11), link=Link(0.0, 1e11)))["1f1b"]
    assert slow.step_s == pytest.approx(10 * one.step_s)
    assert slow.global_bubble_rate == pytest.approx(one.global_bubble_rate)
    assert (slow.peak_bytes, slow.layers, sum(slow.cuts)) == (one.peak_bytes, one.layers, 2048)


def test_front_is_what_no_other_beats() -> None:
    every = list(found().values())
    best = front(every)
    for one in every:
        beaten = [
            other
            for other in every
            if (other.step_s, other.peak_bytes) != (one.step_s, one.peak_bytes)
            and other.step_s <= one.step_s
            and other.peak_bytes <= one.peak_bytes
        ]
        assert not (one in best and beaten), one.contender
        assert beaten or any(
            (one.step_s, one.peak_bytes) == (b.step_s, b.peak_bytes) for b in best
        ), one.contender
    limit = best[0].peak_bytes - 1
    assert best[0] not in front(every, limit)
    assert all(one.peak_bytes <= limit for one in front(every, limit))


def test_refusals_say_why() -> None:
    setting = replace(SETTING, microbatches=1)
    results = dict(compare(setting, [Contender("seq-dualpipe", segments=2), Contender("1f1b")]))
    refusal = results[Contender("seq-dualpipe", segments=2)]
    assert isinstance(refusal, ProblemError)
    assert isinstance(results[Contender("1f1b")], Forecast)


def test_searches_get_the_setting_s_costs() -> None:
    """Where communication is dear, the searched order is another one."""
    who = Contender("zb-auto")
    near, far = SETTING, replace(SETTING, link=Link(0.01, 1e12))
    orders = [order(who, each) for each in (near, far)]
    assert orders[0].rows != orders[1].rows
    there = [forecast(who, far, each).step_s for each in orders]
    assert there[1] <= there[0]


def test_balance_counts_the_head() -> None:
    heavy = replace(SHAPE, vocab=16_384)
    layers = StepFlops(heavy).layers(v(4), 2048)
    assert sum(layers) == 16
    assert layers[-1] + layers[0] < layers[3] + layers[4], "rank 0 holds the head"
    cuts = StepFlops(SHAPE).cuts(layers, 2048, 4, multiple=128)
    assert sum(cuts) == 2048
    assert list(cuts) == sorted(cuts, reverse=True)
    assert Problem(4, 8, 2).stages == len(layers)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config.json."""
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 256,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(sizes))
    return path


def run(config: Path, *more: str) -> tuple[int, str, str]:
    """Exit status, standard output and error of the verb."""
    base = ["--tokens", "2048", "--ranks", "4", "--microbatches", "8", "--only", "1f1b,seq1f1b"]
    result = CliRunner().invoke(app, ["compare", "--model", str(config), *base, *more])
    return result.exit_code, result.stdout, result.stderr


def test_the_verb_prints_the_front_and_the_best_of_each(config: Path) -> None:
    status, out, _ = run(config)
    assert status == 0
    assert "* seq1f1b" in " ".join(out.split())
    assert "1f1b" in out


def test_the_verb_as_json_holds_everything(config: Path) -> None:
    status, out, _ = run(config, "--json", "--segments", "1,2")
    rows = json.loads(out)
    assert status == 0
    assert {(row["schedule"], row["segments"], row["recompute"]) for row in rows} == {
        (name, k, again)
        for name, k in (("1f1b", 1), ("seq1f1b", 1), ("seq1f1b", 2))
        for again in (None, "full", "selective")
    }
    assert any(row["front"] for row in rows)


def test_the_verb_says_what_does_not_fit(config: Path) -> None:
    status, _, err = run(config, "--memory-gib", "0.0001")
    assert status == 1
    assert "no schedule fits" in err
    assert run(config, "--tokens", "1000")[0] == 1
    assert run(config, "--segments", "x")[0] == 2
