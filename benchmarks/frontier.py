"""Every schedule on the cost model of a 7B decoder at 32k to 1M tokens: `make frontier`.

Simulates what `longpipe compare` simulates, for several lengths, ranks and batch sizes, and writes
`docs/frontier.md` with its pictures. Needs no torch; minutes on two cores.

    python -m benchmarks.frontier [--csv FILE]
"""

import argparse
import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from rich.progress import track

from benchmarks.frontier_page import Column, page, pictures
from benchmarks.sizes import LLAMA_7B
from longpipe.cost import Device, Link
from longpipe.plan.comparison import Forecast, Setting, compare, contenders

DOCS = Path(__file__).parents[1] / "docs"
SEGMENTS = (1, 2, 4, 8, 16)
SLOW = ("v-adaptive", "seq-v-adaptive", "v-zb", "seq-v-zb")  # seconds for each order
LENGTHS = tuple(2**power for power in range(15, 21))  # 32k to 1M
# A rank is a machine of eight H100s: 8 times 400 TFLOP/s achieved in bfloat16, and 8 times a link
# of 50 GB/s. An op starts its kernels in 0.2 ms, whatever its size.
NODE = Setting(
    LLAMA_7B,
    tokens=LENGTHS[0],
    ranks=8,
    microbatches=8,
    device=Device(flops_per_s=3.2e15, op_overhead_s=2e-4),
    link=Link(latency_s=2e-5, bytes_per_s=4e11),
)


def settings() -> list[Setting]:
    """The lengths on 8 ranks; twice the batch; fewer and more ranks."""
    by_length = [replace(NODE, tokens=tokens) for tokens in LENGTHS]
    others = [
        replace(each, **change)
        for change in ({"microbatches": 16}, {"ranks": 4}, {"ranks": 16})
        for each in by_length[::2][:2]
    ]
    return by_length + others


def simulated(setting: Setting) -> Column:
    """Every schedule at one setting; those that search for long at fewer sizes, or not at all."""
    segments = (1, 16) if setting in settings()[: len(LENGTHS)] else ()
    field = (
        contender
        for contender in contenders(setting, SEGMENTS)
        if contender.schedule not in SLOW or contender.segments in segments
    )
    found = compare(setting, field)
    return Column(setting, tuple(what for _, what in found if isinstance(what, Forecast)))


def write_csv(path: Path, columns: Iterable[Column]) -> None:
    """Every forecast as a row."""
    rows = [
        {
            "tokens": column.setting.tokens,
            "ranks": column.setting.ranks,
            "microbatches": column.setting.microbatches,
            **_flat(one),
        }
        for column in columns
        for one in column.forecasts
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _flat(one: Forecast) -> dict[str, object]:
    facts = asdict(one)
    contender = facts.pop("contender")
    options = " ".join(f"{name}={value:g}" for name, value in contender.pop("options"))
    lists = {name: " ".join(map(str, facts.pop(name))) for name in ("layers", "cuts")}
    return contender | {"options": options} | facts | lists


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="write every forecast here as well")
    options = parser.parse_args()
    asked = settings()
    with ProcessPoolExecutor() as workers:
        # The longest first: they must not be the last to begin.
        found = workers.map(simulated, reversed(asked))
        columns = list(track(found, "simulating", total=len(asked)))[::-1]
    if options.csv:
        write_csv(options.csv, columns)
    write_page(columns)


def write_page(columns: Sequence[Column]) -> None:
    """The page and its pictures."""
    words = (DOCS / "frontier_words.md").read_text(encoding="utf-8")
    (DOCS / "frontier.md").write_text(page(columns, words), encoding="utf-8")
    (DOCS / "frontier").mkdir(exist_ok=True)
    for name, picture in pictures(columns):
        (DOCS / "frontier" / name).write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
