"""The figures on the page about groups are those of the benchmark, and its predictions ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from longpipe import Problem, UniformCosts, build, simulate

DOCS = Path(__file__).parents[2] / "docs"
FOUND: dict[str, Any] = json.loads((DOCS / "measured" / "ada_grouper.json").read_text("utf-8"))
PAGE = (DOCS / "ada_grouper.md").read_text("utf-8")


def test_each_ratio_is_as_predicted_and_the_prediction_is_the_simulator_s() -> None:
    problem = Problem(2, 16)
    for row in FOUND["groups"]:
        costs = UniformCosts(problem, comm=row["latency"])
        made = (build("kfkb", problem, group=group) for group in (row["group"], 1))
        own, first = (simulate(schedule, costs).makespan_s for schedule in made)
        assert row["predicted_ratio"] == pytest.approx(own / first)
        assert abs(row["off"]) < 0.1


def test_the_table_shows_them() -> None:
    rows = {(row["latency"], row["group"]): row for row in FOUND["groups"]}
    for latency, text in ((1, "F"), (2, "2 F")):
        for group in (2, 4):
            row = rows[latency, group]
            figures = f"{row['predicted_ratio']:.3f} | {row['measured_ratio']:.3f}"
            assert f"| {text} | {group} | {figures} |" in PAGE
    assert FOUND["date"] in PAGE


def test_the_tuner_goes_up_and_back_at_the_first_look() -> None:
    looks = [row for row in FOUND["tuner"] if "look" in row]
    best = {0: 1, 1: 2, 2: 4}
    assert [row["look"]["chosen"] for row in looks] == [best[row["latency"]] for row in looks]
    assert {row["latency"] for row in looks} == set(best)


def test_the_simulated_gain() -> None:
    gains = [100 * (1 - row["tuner"]) for row in FOUND["bursts"].values()]
    assert f"took {min(gains):.0f} to {max(gains):.0f} % less time" in PAGE
