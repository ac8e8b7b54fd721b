"""Pictures, comparison, trace files: what they show, and that they stay readable at any size."""

import json
from pathlib import Path

import pytest

from longpipe import Event, LongpipeError, Op, Problem, Timeline, UniformCosts, build, simulate
from longpipe.errors import DataError
from longpipe.passes import add_sharding
from longpipe.view import (
    chrome_trace,
    compare,
    load_timelines,
    picture,
    save_text,
    save_timelines,
    timelines_from_json,
    timelines_to_json,
)


def predicted(name: str = "1f1b", microbatches: int = 4, **costs: object) -> Timeline:
    """A simulated timeline on 4 ranks."""
    problem = Problem(4, microbatches)
    return simulate(build(name, problem), UniformCosts(problem, **costs))  # type: ignore[arg-type]


def measured(timeline: Timeline, stretch: float = 1.0371) -> Timeline:
    """The same ops at times that share no tick."""
    rows = tuple(
        tuple(
            Event(e.op, e.start_s * stretch + e.op.mb * 1e-5, e.end_s * stretch + e.op.mb * 1e-5)
            for e in row
        )
        for row in timeline.rows
    )
    return Timeline(timeline.name, "measured", rows)


def test_1f1b_as_the_paper_draws_it() -> None:
    """Unit forward, backward of two, one column for each tick."""
    assert picture(predicted()).splitlines() == [
        "# ir 1 | 1f1b ranks=4 microbatches=4 | makespan 21",
        "r0 0F0 0F1 0F2 0F3 .   .   .   .   .   .   0B0 -   .   0B1 -   .   0B2 -   .   0B3 -",
        "r1 .   1F0 1F1 1F2 .   .   .   .   1B0 -   1F3 1B1 -   .   1B2 -   .   1B3 -   .   .",
        "r2 .   .   2F0 2F1 .   .   2B0 -   2F2 2B1 -   2F3 2B2 -   .   2B3 -   .   .   .   .",
        "r3 .   .   .   3F0 3B0 -   3F1 3B1 -   3F2 3B2 -   3F3 3B3 -   .   .   .   .   .   .",
    ]


def test_a_wide_grid_folds() -> None:
    """Each block says when it begins; together they show every tick."""
    lines = picture(predicted(), width=60).splitlines()
    assert [line for line in lines if line.startswith("time")] == ["time 0", "time 14"]
    cells = [cell for line in lines if line.startswith("r0") for cell in line.split()[1:]]
    assert cells == picture(predicted()).splitlines()[1].split()[1:]
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("microbatches", [1, 4, 20, 200])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_picture_fits(microbatches: int, width: int) -> None:
    """However many ops there are; one line for each rank and block."""
    lines = picture(predicted(microbatches=microbatches), width).splitlines()
    assert max(map(len, lines[1:])) <= width
    assert len(lines) <= 1 + 3 * 5


def test_times_that_share_no_tick_are_drawn_in_proportion() -> None:
    """Names where there is room, at the place that the time has on the line."""
    head, *rows = picture(measured(predicted()), width=103).splitlines()
    assert head == "# ir 1 | 1f1b ranks=4 microbatches=4 | measured | makespan 21.7791"
    assert all(len(row) == 103 for row in rows)
    assert rows[0].startswith("r0 0F0--0F1-")
    assert rows[0].index("0B0") - 3 == round(10 / 21 * 100)
    assert rows[3].endswith("." * 28)


def test_of_ops_in_one_cell_the_longest_shows() -> None:
    """A short op never hides a long one."""
    ops = (
        Event(Op.parse("0F0"), 0, 0.1),
        Event(Op.parse("0B0"), 0.1, 1),
        Event(Op.parse("0F1"), 1, 9),
    )
    row = picture(Timeline("", "measured", (ops,)), width=13).splitlines()[1]
    assert row == "r0 B0F1------"


def test_nothing_at_all_is_drawn_too() -> None:
    """No op, or ops that take no time: a line of dots."""
    empty = Timeline("none", "measured", ((), (Event(Op.parse("0F0"), 0, 0),)))
    assert set("".join(picture(empty, width=20).splitlines()[1:])) <= set("r01 .")


def test_messages_are_not_drawn() -> None:
    """A measured timeline may hold them; the picture is of compute."""
    row = (
        Event(Op.parse("0F0"), 0, 1),
        Event(Op.parse("0SEND_F0"), 1, 2),
        Event(Op.parse("0B0"), 3, 4),
    )
    run = Timeline("", "measured", (row,))
    assert picture(run).splitlines()[1] == "r0 0F0 .   .   0B0"


def test_compare_puts_each_rank_above_itself_on_one_axis() -> None:
    """The measured run is slower: its first op is drawn longer, and the head says by how much."""
    lines = compare([predicted(), measured(predicted(), 2.0)], width=100).splitlines()
    assert lines[0] == "1f1b ranks=4 microbatches=4"
    assert lines[1] == "simulated makespan 21, bubble global 42.9% span 42.9%"
    assert lines[2].startswith("measured  makespan 42 (+100.0%)")
    assert [line[:12] for line in lines[3:5]] == ["r0 simulated", "   measured "]
    assert all(len(line) <= 100 for line in lines)
    assert lines[3].rstrip().endswith("idle  42.9%")


def test_compare_takes_runs_of_other_sizes() -> None:
    """Ranks that one of them lacks are left out of it."""
    small = predicted()
    problem = Problem(2, 2)
    other = simulate(build("gpipe", problem), UniformCosts(problem))
    lines = compare([small, other]).splitlines()
    assert sum("simulated" in line for line in lines) == 2 + 4 + 2


def test_chrome_trace() -> None:
    """A slice for each op, a counter for memory, an arrow for each message, one process each."""
    content = json.loads(chrome_trace([predicted(), measured(predicted())]))
    events = content["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 2 * 4 * 8
    first = slices[0]
    assert (first["name"], first["cat"], first["pid"], first["tid"]) == ("0F0", "F", 0, 0)
    assert (first["ts"], first["dur"]) == (0.0, 1e6)
    assert {event["pid"] for event in slices} == {0, 1}
    assert sum(event["ph"] == "C" for event in events) == 4 * 8  # only the first knows memory
    begins = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys()
    assert len(begins) == 2 * 2 * 3 * 4  # timelines, directions, neighbours, micro-batches
    assert all(begins[key]["ts"] <= ends[key]["ts"] for key in begins)
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names[1] == "measured: 1f1b ranks=4 microbatches=4"


def test_timelines_keep_every_bit(tmp_path: Path) -> None:
    """What is read is equal to what was saved, floats and unknown values too."""
    runs = (predicted(comm="0.1"), measured(predicted()))
    save_timelines(tmp_path / "run.json", runs)
    assert load_timelines(tmp_path / "run.json") == runs


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1, 2]",
        '{"format": "longpipe timelines 2", "timelines": []}',
        '{"format": "longpipe timelines 1"}',
        '{"format": "longpipe timelines 1", "timelines": [{}]}',
        '{"format": "longpipe timelines 1", "timelines": 5}',
        timelines_to_json([predicted()])[:-40],
        timelines_to_json([predicted()]).replace("0F0", "0G0"),
        timelines_to_json([predicted()]).replace('"waits_s": [[0.0, ', '"waits_s": [['),
    ],
)
def test_any_other_file_is_refused(tmp_path: Path, content: str) -> None:
    """Cut off, of another version, with an unknown op: an error that names the file."""
    path = tmp_path / "run.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json"):
        load_timelines(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, no text."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", ".", "bytes"):
        with pytest.raises(LongpipeError, match=str(tmp_path)):
            load_timelines(tmp_path / name)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """And no half-written file beside it."""
    path = tmp_path / "picture.txt"
    save_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        save_text(path, "\ud800")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="nowhere"):
        save_text(tmp_path / "nowhere" / "x", "new")
    with pytest.raises(DataError, match="No space left"):
        save_text(Path("/dev/full"), "new")


def test_json_without_file() -> None:
    """For those who keep timelines elsewhere."""
    assert timelines_from_json(timelines_to_json([])) == ()


def test_gathers_and_reductions_are_drawn_beside_the_ops() -> None:
    """A thread of their own; the text picture has the compute alone."""
    problem = Problem(2, 2, chunks=3)
    sharded = add_sharding(build("looped-bfs", problem))
    timeline = simulate(sharded, UniformCosts(problem, gather=1, reduce=1))
    slices = [e for e in json.loads(chrome_trace([timeline]))["traceEvents"] if e["ph"] == "X"]
    beside = {e["tid"] for e in slices if e["cat"] in ("UNSHARD", "RESHARD", "REDUCE_GRAD")}
    assert beside == {2, 3}
    assert {e["tid"] for e in slices} - beside == {0, 1}
    lines = picture(timeline).splitlines()
    assert "UNSHARD" not in picture(timeline)
    assert len({len(line.split()) for line in lines[1:]}) == 1
    assert lines[1].split()[-1] == "."  # the last gradients are on their way
