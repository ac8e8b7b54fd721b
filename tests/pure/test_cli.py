"""The command line as scripts and people meet it: numbers, exit codes, messages, help."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from longpipe import Problem, Program, UniformCosts, build, entries, from_text, simulate
from longpipe.cli.main import app
from longpipe.schedules import Entry, example
from longpipe.view import save_timelines

PURE_VERBS = ("zoo", "show", "simulate", "validate", "export", "trace", "view")


def run(*arguments: object) -> Result:
    """A call of the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments: object) -> str:
    """What a call that must succeed prints."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def simulated(*arguments: object) -> dict[str, Any]:
    """The JSON of `longpipe simulate`."""
    return dict(json.loads(ok("simulate", *arguments, "--json")))


@pytest.mark.parametrize(
    ("arguments", "makespan", "global_bubble", "span_bubble", "peaks", "ops"),
    [
        (["gpipe"], 33, 9, 9, [8] * 4, 64),
        (["1f1b"], 33, 9, 9, [4, 3, 2, 1], 64),
        (["interleaved"], 28.5, 4.5, 4.5, [5.5, 4.5, 3.5, 2.5], 128),
        (["interleaved", "--chunks", 2], 28.5, 4.5, 4.5, [5.5, 4.5, 3.5, 2.5], 128),
        (["seq1f1b", "--segments", 4], 26.25, 2.25, 2.25, [1.75, 1.5, 1.25, 1], 256),
        (["zb-h1"], 27, 3, 3, [4] * 4, 96),
        (["seq-zb-h1", "--segments", 2], 25.5, 1.5, 1.5, [2.5] * 4, 192),
        (["zb-v"], 25.5, 1.5, 0, [4] * 4, 192),
    ],
)
def test_simulate_prints_the_papers_numbers(
    arguments: list[object],
    makespan: float,
    global_bubble: float,
    span_bubble: float,
    peaks: list[float],
    ops: int,
) -> None:
    """Exactly, with the chunks that the schedule needs if none are given."""
    found = simulated(*arguments, "--ranks", 4, "--microbatches", 8)
    assert found["makespan"] == makespan
    assert found["global_bubble"] == global_bubble
    assert found["span_bubble"] == span_bubble
    assert found["peak_activations"] == peaks
    assert found["ops"] == ops


@pytest.mark.parametrize(
    ("arguments", "makespan"),
    [(["1f1b"], 33.8), (["seq1f1b", "--segments", 2], 29.8)],
)
def test_skewed_costs_and_messages(arguments: list[object], makespan: float) -> None:
    """The table's second set of costs: (F, I, W, c) = (1, 1.2, .8, .05)."""
    costs = ["--costs", "F=1,I=1.2,W=.8", "--comm", ".05"]
    assert simulated(*arguments, "--ranks", 4, "--microbatches", 8, *costs)["makespan"] == makespan


def test_costs_not_named_are_one() -> None:
    """`--costs I=2` leaves F and W alone."""
    size = ["1f1b", "--ranks", 2, "--microbatches", 3]
    assert simulated(*size, "--costs", "I=2") == simulated(*size, "--costs", "W=1,F=1,I=2")
    pairs = ["dualpipe-v", "--ranks", 4, "--microbatches", 8]
    assert simulated(*pairs)["makespan"] == 25.5
    assert simulated(*pairs, "--costs", "FB=3")["makespan"] == 27
    assert simulated(*size) == simulated(*size, "--costs", "")
    assert simulated(*size, "--costs", "I=2")["makespan"] == 16


def test_segments_may_differ_by_microbatch() -> None:
    """A list has a count for each."""
    found = simulated("seq1f1b", "--ranks", 2, "--microbatches", 3, "--segments", "4,1,2")
    assert found["segments"] == [4, 1, 2]
    assert found["ops"] == 2 * 2 * 7


def test_the_json_of_simulate_keeps_its_names() -> None:
    """Scripts read them; idle has one entry for each rank."""
    found = simulated("1f1b", "--ranks", 2, "--microbatches", 2)
    assert list(found) == [
        "schedule", "ranks", "microbatches", "chunks", "segments", "kinds", "ops", "makespan",
        "global_bubble", "global_bubble_rate", "span_bubble", "span_bubble_rate",
        "peak_activations", "busy", "idle",
    ]  # fmt: skip
    assert found["idle"][1] == {
        "warm_up": 1, "imbalance": 0, "communication": 0, "cool_down": 2
    }  # fmt: skip


def test_simulate_for_people() -> None:
    """The same numbers in a line and a table that fits 80 columns."""
    lines = ok("simulate", "zb-v", "--ranks", 4, "--microbatches", 8).splitlines()
    assert lines[0] == ("ops 192 | makespan 25.5 | global bubble 1.5 (5.9%) | span bubble 0 (0.0%)")
    assert lines[2].split() == ["0", "24", "1.5", "0", "0", "0", "1.5", "4"]
    assert max(map(len, lines)) <= 80


def test_zoo_lists_every_schedule() -> None:
    """In 80 columns, and as JSON with the fields of the registry."""
    text = ok("zoo")
    assert max(map(len, text.splitlines())) <= 80
    records = json.loads(ok("zoo", "--json"))
    assert [record["name"] for record in records] == [entry.name for entry in entries()]
    for record in records:
        assert record["name"] in text
        assert {"name", "title", "paper", "chunks", "segments", "splits", "bubble", "peak"} <= set(
            record
        )


def test_sharded_weights_are_gathered_and_reduced() -> None:
    """The counts of arXiv:2211.05953's order, and a step that waits for slow gathers."""
    size = ["--ranks", 4, "--microbatches", 8, "--chunks", 4, "--shard-buffers", 2]
    found = simulated("breadth-first", *size)
    assert [(row["UNSHARD"], row["REDUCE_GRAD"]) for row in found["kinds"]] == [(6, 4)] * 4
    slow = simulated("breadth-first", *size, "--costs", "UNSHARD=8,REDUCE_GRAD=8")
    assert slow["makespan"] > found["makespan"] == 26.25
    assert "rank 3: 6 gathers, 4 reductions" in ok("simulate", "breadth-first", *size)


@pytest.mark.parametrize("name", [entry.name for entry in entries()])
def test_show(name: str) -> None:
    """Picture and numbers of each schedule, in a terminal's width, of a size that it takes."""
    lines = ok("show", name).splitlines()
    assert any(line.startswith(f"# ir 1 | {name} ranks=4 microbatches=") for line in lines)
    assert max(len(line) for line in lines if not line.startswith("#")) <= 80
    assert any(line.startswith("r3 ") for line in lines)


@pytest.mark.parametrize("about", entries(), ids=lambda entry: entry.name)
def test_what_is_exported_validates(about: Entry, tmp_path: Path) -> None:
    """Torch's CSV, our text, and our text with messages, all accepted by `validate`."""
    problem = example(about, microbatches=8, segments=3 if about.segments else 1)
    size = ["--ranks", 4, "--microbatches", problem.microbatches, "--chunks", problem.chunks]
    size += ["--segments", problem.segments_max]
    built = build(about.name, problem)
    for file, form in (
        ("a.csv", ["--format", "torch-csv"]),
        ("a.txt", ["--format", "text"]),
        ("b.txt", ["--format", "text", "--lowered"]),
    ):
        if file == "a.csv" and len(built.placement.by_mb) > 1:
            continue  # torch knows one rank for each stage
        ok("export", about.name, *size, *form, "--output", tmp_path / file)
        torch_says = ["--segments", problem.segments_max] if file == "a.csv" else []
        assert ok("validate", tmp_path / file, *torch_says).startswith("ok: ")
    assert "ok: program of" in ok("validate", tmp_path / "b.txt")
    program = from_text((tmp_path / "b.txt").read_text(encoding="utf-8"))
    assert isinstance(program, Program)
    assert program.schedule() == built


def test_export_for_trace_viewers(tmp_path: Path) -> None:
    """Chrome's JSON and an HTML page, both of the simulation; printed without --output."""
    size = ["1f1b", "--ranks", 2, "--microbatches", 2]
    ok("export", *size, "--format", "html", "--output", tmp_path / "x.html")
    assert (tmp_path / "x.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    trace = json.loads(ok("export", *size, "--format", "chrome", "--costs", "F=3"))
    assert max(event.get("dur", 0) for event in trace["traceEvents"]) == 3e6
    assert ok("export", *size) == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


def test_validate_reads_segments_of_a_csv(tmp_path: Path) -> None:
    """Torch's CSV does not say them; a wrong order over segments is found only with them."""
    path = tmp_path / "s.csv"
    size = ["--ranks", 2, "--microbatches", 2, "--segments", 2]
    ok("export", "seq1f1b", *size, "--output", path)
    assert "2 micro-batches in 4 segments" in ok("validate", path, "--segments", 2)
    path.write_text(path.read_text(encoding="utf-8").replace("0F0,0F1", "0F1,0F0"))
    assert run("validate", path).exit_code == 0
    result = run("validate", path, "--segments", 2)
    assert result.exit_code == 1
    assert "rank 0, op 0" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("form", ["torch-csv", "text"])
def test_validate_reads_files_from_windows(form: str, tmp_path: Path) -> None:
    """Spreadsheets and editors there put a byte order mark first, and end lines in two bytes."""
    text = ok("export", "1f1b", "--ranks", 2, "--microbatches", 2, "--format", form)
    path = tmp_path / "schedule"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert ok("validate", path).startswith("ok")


@pytest.mark.parametrize(
    "text",
    [
        "0F1" + 5000 * "0",
        "# ir 1 | x ranks=1 microbatches=1\nr0: 0F1" + 5000 * "0",
        "# ir 1 | x ranks=1 microbatches=1\nr1" + 5000 * "0" + ": 0F0 0B0",
        "# ir 1 | x ranks=1 microbatches=1 segments=" + 100_000 * "[",
    ],
    ids=["csv", "op", "row", "field"],
)
def test_validate_says_what_is_wrong_with_absurd_numbers(text: str, tmp_path: Path) -> None:
    path = tmp_path / "schedule"
    path.write_text(text, encoding="utf-8")
    result = run("validate", path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: line")


def test_trace_compares_what_a_run_left(tmp_path: Path) -> None:
    """Text, JSON, and both files; timelines of several files count together."""
    problem = Problem(2, 2)
    schedule = build("1f1b", problem)
    slow = UniformCosts(problem, 2, 2, 2)
    save_timelines(tmp_path / "a.json", [simulate(schedule, UniformCosts(problem))])
    save_timelines(tmp_path / "b.json", [simulate(schedule, slow)])
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    text = ok("trace", *files, "--html", tmp_path / "t.html", "--chrome", tmp_path / "t.json")
    assert "makespan 18 (+100.0%)" in text
    assert (tmp_path / "t.html").read_text(encoding="utf-8").count('"source": "simulated"') == 2
    assert json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["traceEvents"]
    records = json.loads(ok("trace", *files, "--json"))
    assert [record["makespan"] for record in records] == [9, 18]
    assert records[0]["peak_memory"] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "zbv"], "did you mean zb-v"),
        (["simulate", "1f1b", "--ranks", 0, "--microbatches", 4], "ranks must be"),
        (["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--chunks", 2], "chunks=1"),
        (["simulate", "zb-h1", "--ranks", 2, "--microbatches", 4, "--segments", 2], "seq-zb-h1"),
        (["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--costs", "F=x"], "forward"),
        (["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--comm", "-1"], "comm"),
        (["validate", "missing.txt"], "cannot read missing.txt"),
        (["validate", "."], "cannot read ."),
        (["trace", "missing.json"], "cannot read missing.json"),
        (
            ["export", "1f1b", "--ranks", 2, "--microbatches", 2, "--output", "no/such/x.csv"],
            "cannot write no/such/x.csv",
        ),
    ],
)
def test_faults_of_the_user_end_with_1(arguments: list[object], message: str) -> None:
    """The message alone, on stderr, in one piece."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "1f1b"],
        ["simulate", "1f1b", "--ranks", "two", "--microbatches", 4],
        ["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--costs", "X=1"],
        ["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--costs", "F"],
        ["simulate", "1f1b", "--ranks", 2, "--microbatches", 4, "--segments", "a"],
        ["export", "1f1b", "--ranks", 2, "--microbatches", 4, "--format", "pdf"],
        ["export", "1f1b", "--ranks", 2, "--microbatches", 4, "--lowered"],
        ["nonsense"],
        ["trace"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[object]) -> None:
    """As every command line tool does."""
    assert run(*arguments).exit_code == 2


def test_no_bytes_are_read_as_text(tmp_path: Path) -> None:
    """A binary file is refused with its name."""
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    result = run("validate", tmp_path / "x")
    assert result.exit_code == 1
    assert "no text file" in result.stderr


def verbs() -> list[str]:
    """Every registered verb, those of other parts too."""
    return [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("verb", verbs())
def test_each_help_shows_an_example(verb: str) -> None:
    """And says what the verb does."""
    text = ok(verb, "--help")
    assert f"longpipe {verb}" in text.partition("Example")[2]


def test_all_verbs_are_there() -> None:
    """A file in the folder is enough."""
    assert set(PURE_VERBS) <= set(verbs())
    overview = ok("--help")
    for verb in PURE_VERBS:
        assert verb in overview


def test_the_command_itself(tmp_path: Path) -> None:
    """As a process: version, no torch on import, an error without traceback."""
    code = "import sys; import longpipe.cli.main as m; assert 'torch' not in sys.modules; m.main()"

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip

    assert call("--version").stdout.startswith("longpipe ")
    wrong = call("show", "nonsense")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: no schedule is called 'nonsense'")
