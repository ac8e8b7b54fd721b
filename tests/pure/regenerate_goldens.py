"""The golden pictures: `make goldens` rewrites them, `test_view_goldens.py` compares them.

Every registered schedule has `p4_m4.txt`: 4 ranks, 4 micro-batches, as many chunks as it needs
(2 if any number will do), times F = I = W = 1. Schedules over segments also have `p4_m4_k3.txt`;
those with groups have each of these with 2 in a group too (`_g2`), those with pairs have each with
the pairs fused in a time of 3 (`_fused`). Where a schedule needs more
micro-batches or segments, the fewest that will do stand instead.
"""

import shutil
from pathlib import Path

from longpipe import Problem, Schedule, UniformCosts, build, entries, picture, simulate
from longpipe.schedules import Entry, example

GOLDENS = Path(__file__).parents[1] / "goldens"


def pictures() -> dict[str, str]:
    """Content by path below the folder of goldens."""
    found = {}
    for entry in entries():
        for options in [{}, {"group": 2}] if "group" in entry.options else [{}]:
            for problem in _problems(entry):
                schedule = build(entry.name, problem, **options)
                tail = "" if problem.segments == 1 else f"_k{problem.segments}"
                tail += "".join(f"_{name[0]}{value}" for name, value in options.items())
                name = f"{entry.name}/p{problem.ranks}_m{problem.microbatches}{tail}"
                found[f"{name}.txt"] = _drawn(schedule, UniformCosts(problem))
                if schedule.pairs:
                    found[f"{name}_fused.txt"] = _drawn(schedule, UniformCosts(problem, pair=3))
    return found


def _drawn(schedule: Schedule, costs: UniformCosts) -> str:
    return picture(simulate(schedule, costs)) + "\n"


def _problems(entry: Entry) -> dict[Problem, None]:
    """In order, each once: whole micro-batches, and three segments, or the fewest that will do."""
    counts = (1, 3) if entry.segments else (1,)
    return dict.fromkeys(example(entry, segments=count) for count in counts)


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
