"""The command line with hand-written files, absurd sizes, slips, and readers that leave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from longpipe.cli.main import app

TEXT = """# ir 1 | by-hand ranks=2 microbatches=1 segments=2
r0: 0F0 0F0.1 0B0.1 0B0
r1: 1F0 1F0.1 1B0.1 1B0
"""
CSV = "0F0,0F1,0B1,0B0\n1F0,1F1,1B1,1B0\n"


def run(*arguments: object) -> Result:
    """A call of the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments: object) -> str:
    """What a call that must succeed prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A schedule in our form."""
    path = tmp_path / "by-hand.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """The same in torch's."""
    path = tmp_path / "by-hand.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


def test_a_file_takes_the_place_of_a_name(text: Path, csv: Path) -> None:
    costs = ("--costs", "F=2", "--comm", "1", "--json")
    found = json.loads(ok("simulate", text, *costs))
    assert (found["schedule"], found["ranks"], found["segments"]) == ("by-hand", 2, 2)
    named = json.loads(
        ok("simulate", "seq1f1b", "--ranks", 2, "--microbatches", 1, "--segments", 2, *costs)
    )
    again = json.loads(ok("simulate", csv, "--segments", 2, *costs))
    for each in (found, again):
        assert each["makespan"] == named["makespan"]
        assert each["ops"] == 8
    assert ok("show", text).startswith("by-hand:")
    assert ok("export", text) == CSV
    assert (
        ok("export", csv, "--segments", 2, "--format", "text").splitlines()[1:]
        == (TEXT.splitlines()[1:])
    )


def test_a_program_in_a_file_counts_as_its_schedule(text: Path, tmp_path: Path) -> None:
    lowered = tmp_path / "lowered.txt"
    ok("export", text, "--format", "text", "--lowered", "--output", lowered)
    assert json.loads(ok("simulate", lowered, "--json"))["ops"] == 8


def test_a_file_is_validated_and_its_size_is_its_own(text: Path) -> None:
    assert run("simulate", text, "--ranks", 3).exit_code == 2
    assert run("simulate", text, "--segments", 4).exit_code == 2
    assert json.loads(ok("simulate", text, "--ranks", 2, "--json"))["ranks"] == 2
    text.write_text(TEXT.replace("0F0 0F0.1", "0F0.1 0F0"), encoding="utf-8")
    for verb in ("show", "simulate", "export"):
        result = run(verb, text)
        assert result.exit_code == 1
        assert "rank 0, op 0" in result.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no/such/file", "there is no file no/such/file"),
        ("mine.csv", "there is no file mine.csv"),
        ("qqq", "no schedule is called 'qqq'; known are 1f1b, "),
        ("gpip", "did you mean gpipe?"),
    ],
)
def test_an_unknown_name_is_answered_by_what_it_looks_like(name: str, says: str) -> None:
    for verb in ("show", "simulate", "export"):
        result = run(verb, name, "--ranks", 2, "--microbatches", 2)
        assert result.exit_code == 1
        assert says in result.stderr


def test_absurd_sizes_are_refused_before_they_fill_the_memory() -> None:
    for verb in ("show", "simulate", "export"):
        result = run(verb, "gpipe", "--ranks", 100_000, "--microbatches", 100_000)
        assert result.exit_code == 1
        assert "20,000,000,000 ops, more than the 10,000,000" in result.stderr
        assert "lower --ranks" in result.stderr
        result = run(verb, "1f1b", "--ranks", 1_000_000, "--microbatches", 1)
        assert "1,000,000 ranks are more than the 16,384" in result.stderr


def test_show_has_a_size_of_its_own_and_the_others_ask_for_it() -> None:
    assert "ranks=4 microbatches=4" in ok("show", "1f1b")
    assert "ranks=2 microbatches=2" in ok("show", "1f1b", "--ranks", 2)
    assert "ranks must be" in run("show", "1f1b", "--ranks", 0).stderr
    for verb in ("simulate", "export"):
        assert "--microbatches" in run(verb, "1f1b", "--ranks", 2).stderr
        assert run(verb, "1f1b", "--microbatches", 2).exit_code == 2


def test_b_is_no_cost_of_its_own() -> None:
    result = run("show", "1f1b", "--costs", "F=1,B=2")
    assert result.exit_code == 2
    assert "B is I + W" in result.stderr


@pytest.mark.parametrize("content", ["hello\n", "", "\n\n", "a,b\n1,2\n", '{"x": 1}'])
def test_a_file_of_neither_form_is_told_both(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(content, encoding="utf-8")
    result = run("validate", path)
    assert result.exit_code == 1
    assert "neither our text" in result.stderr
    assert "0F0,0F1,0B0,0B1" in result.stderr


def test_validate_counts_in_singular_and_plural(text: Path, tmp_path: Path) -> None:
    expected = "ok: schedule of 8 ops on 2 ranks, 2 stages, 1 micro-batch in 2 segments\n"
    assert ok("validate", text) == expected
    (tmp_path / "one").write_text("0F0,0B0\n", encoding="utf-8")
    assert ok("validate", tmp_path / "one") == (
        "ok: schedule of 2 ops on 1 rank, 1 stage, 1 micro-batch\n"
    )


@pytest.mark.parametrize(
    "arguments", [["x.toml", "--train.steps=3"], ["--train.steps=3", "x.toml"]]
)
def test_settings_have_no_dashes(arguments: list[str]) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert "write train.steps=3 without dashes" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["zoo", "--json"], ["zoo"], ["export", "x.txt"]])
def test_a_reader_that_leaves_ends_it_quietly(arguments: list[str], text: Path) -> None:
    words = [str(text) if word == "x.txt" else word for word in arguments]
    code = "from longpipe.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait()
    process.stderr.close()
