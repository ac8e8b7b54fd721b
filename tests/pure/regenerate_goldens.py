"""The golden pictures: `make goldens` rewrites them, `test_view_goldens.py` compares them.

Every registered schedule has `p4_m4.txt`: 4 ranks, 4 micro-batches, as many chunks as it needs
(2 if any number will do), times F = I = W = 1. Schedules over segments also have `p4_m4_k3.txt`;
those with groups have each of these with 2 in a group too (`_g2`). Where as many segments as ranks
are needed, `p4_m4_k4.txt` stands instead.
"""

import shutil
from itertools import product
from pathlib import Path

from longpipe import Problem, ProblemError, UniformCosts, build, entries, picture, simulate
from longpipe.schedules import Entry

GOLDENS = Path(__file__).parents[1] / "goldens"


def pictures() -> dict[str, str]:
    """Content by path below the folder of goldens."""
    found = {}
    for entry in entries():
        chunks = 2 if entry.chunks is None else entry.chunks
        variants: list[dict[str, int]] = [{}, {"group": 2}] if "group" in entry.options else [{}]
        for segments, options in product(_segments(entry), variants):
            problem = Problem(4, 4, chunks, segments)
            timeline = simulate(build(entry.name, problem, **options), UniformCosts(problem))
            tail = f"_k{segments}" if segments > 1 else ""
            tail += "".join(f"_{name[0]}{value}" for name, value in options.items())
            found[f"{entry.name}/p4_m4{tail}.txt"] = picture(timeline) + "\n"
    return found


def _segments(entry: Entry) -> tuple[int, ...]:
    if not entry.segments:
        return (1,)
    try:
        build(entry.name, Problem(4, 4, 2 if entry.chunks is None else entry.chunks, segments=1))
    except ProblemError:
        return (4,)
    return 1, 3


def main() -> None:
    """Rewrite the folder."""
    shutil.rmtree(GOLDENS, ignore_errors=True)
    for name, content in pictures().items():
        path = GOLDENS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
