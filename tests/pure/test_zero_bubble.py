"""Zero-bubble orders have the papers' numbers: table of schedules, Table 5, formulas."""

from dataclasses import replace

import pytest
from test_schedules_numbers import SKEW
from zero_bubble_costs import Profiled, found, published, within

from longpipe.cost import UniformCosts
from longpipe.errors import ProblemError
from longpipe.ir import EqualCosts, Problem
from longpipe.schedules import build
from longpipe.schedules._zb_streams import fits, to_letters
from longpipe.simulate import measure, simulate

# name, p, m, v, k: makespan, global bubble, span bubble, peak (the same on all ranks)
TABLE = {
    ("zb-h2", 4, 8, 1, 1): (27, 3, 0, 7),
    ("zb-h2", 8, 16, 1, 1): (55, 7, 0, 15),
    ("seq-zb-h2", 4, 8, 1, 2): (25.5, 1.5, 0, 4),
    ("seq-zb-h2", 4, 8, 1, 4): (24.75, 0.75, 0, 2.5),
    ("zb-interleaved", 4, 8, 2, 1): (25.5, 1.5, 1.5, 4),
    ("zb-interleaved", 8, 16, 2, 1): (51.5, 3.5, 3.5, 8),
}
SKEWED = {4: (28.8, 0.1667), 5: (27.7, 0.1336), 6: (27.15, 0.1078), 7: (27.15, 0.0805)}
SKEWED[8] = (27.15, 0.0588)  # what the heuristic finds; the search does better

# Table 5 of arXiv:2401.10241: p, m, (F, I, W, message) in ms, and the rates of the span bubble
MODELS = {
    "1.5B": (2304, 24, 3),
    "6.2B": (4096, 32, 4),
    "14.6B": (5120, 40, 3),
    "28.3B": (6144, 48, 2),
}
COLUMNS = ("1f1b", "interleaved", "zb-h1", "zb-h2", "ZB-1p", "ZB-2p")
TABLE_5 = """
1.5B   8  24 18.522 18.086  9.337 .601 .2431 .1055 .1585 .1083 .1585 .0433
1.5B   8  32 18.513 18.086  9.331 .626 .1985 .0818 .1242 .0837 .1242 .0039
1.5B   8  64 18.546 18.097  9.321 .762 .1240 .0443 .0674 .0444 .0674 .0026
6.2B   8  24 29.718 29.444 19.927 .527 .2347 .0808 .1323 .0698 .1323 .0029
6.2B   8  32 29.802 29.428 19.530 .577 .1898 .0628 .1045 .0559 .1045 .0022
6.2B   8  64 29.935 29.621 19.388 .535 .1091 .0320 .0554 .0294 .0554 .0010
14.6B 16  48 11.347 11.248  8.132 .377 .2552 .1104 .1397 .0672 .1397 .0066
14.6B 16  64 11.307 11.254  8.101 .379 .2082 .0852 .1088 .0516 .1088 .0054
14.6B 16 128 11.325 11.308  8.109 .378 .1251 .0445 .0576 .0266 .0576 .0028
28.3B 32  96 10.419 10.207  7.715 .408 .2646 .1493 .1421 .0641 .1421 .0038
28.3B 32 128 10.408 10.204  7.703 .408 .2168 .1164 .1106 .0490 .1106 .0029
28.3B 32 256 10.402 10.248  7.698 .460 .1352 .0624 .0594 .0257 .0594 .0018
"""


@pytest.mark.parametrize("key", TABLE)
def test_the_table(key: tuple[str, int, int, int, int]) -> None:
    name, *sizes = key
    problem = Problem(*sizes)
    numbers = measure(simulate(build(name, problem), UniformCosts(problem)))
    times = numbers.makespan_s, numbers.global_bubble_s, numbers.span_bubble_s
    assert (*times, numbers.peak_memory) == (*TABLE[key][:3], (TABLE[key][3],) * problem.ranks)


@pytest.mark.parametrize(("p", "m"), [(2, 4), (3, 6), (4, 8), (8, 16)])
def test_each_micro_batch_more_buys_one_f_of_span(p: int, m: int) -> None:
    problem = Problem(p, m)
    for limit in range(p, 2 * p + 1):
        schedule = build("zb-auto", problem, memory_limit=limit)
        numbers = measure(simulate(schedule, UniformCosts(problem)))
        assert numbers.makespan_s == 3 * m + p - 1
        assert numbers.span_bubble_s == max(0, 2 * p - 1 - limit)
        assert max(numbers.peak_memory) <= limit


@pytest.mark.parametrize("limit", SKEWED)
def test_the_search_with_skewed_costs_and_latency(limit: int) -> None:
    problem = Problem(4, 8)
    costs = UniformCosts(problem, comm="0.05", **SKEW)
    makespan, rate = SKEWED[limit]
    numbers = measure(simulate(build("zb-auto", problem, costs, memory_limit=limit), costs))
    assert numbers.makespan_s == pytest.approx(makespan, rel=1e-12)
    assert numbers.span_bubble_rate <= rate + 5e-5
    theirs = published(within(problem, costs, limit))
    assert 1 - 24 / (theirs.span * costs.tick_s) == pytest.approx(rate, abs=5e-5)


@pytest.mark.parametrize(("m", "limit", "span"), [(4, 4, 15), (6, 4, 21), (6, 5, 20), (8, 5, 26)])
def test_optima_that_an_exact_search_proved(m: int, limit: int, span: int) -> None:
    problem = Problem(4, m)
    assert found(build("zb-auto", problem, memory_limit=limit), EqualCosts())[0] == span


@pytest.mark.parametrize("line", TABLE_5.strip().splitlines())
def test_table_5_of_the_paper(line: str) -> None:
    """Rates of the span bubble, four decimals; 1F1B-I within .004: they count fewer messages."""
    model, *numbers = line.split()
    p, m = map(int, numbers[:2])
    *times, message = map(float, numbers[2:6])
    wanted = dict(zip(COLUMNS, map(float, numbers[6:]), strict=True))
    hidden, heads, chunks = MODELS[model]
    ideal = m * sum(times)
    plain = Profiled(tuple(times), message, hidden, heads)
    rates = {
        name: 1 - ideal / found(build(name, Problem(p, m)), plain)[0]
        for name in ("1f1b", "zb-h1", "zb-h2")
    }
    for name, limit in (("ZB-1p", p), ("ZB-2p", 2 * p)):
        rates[name] = 1 - ideal / published(within(Problem(p, m), plain, limit)).span
    problem, costs = Problem(p, m, chunks), replace(plain, chunks=chunks)
    interleaved = 1 - ideal / found(build("interleaved", problem), costs)[0]
    assert interleaved == pytest.approx(wanted.pop("interleaved"), abs=4e-3)
    assert rates == pytest.approx(wanted, abs=5.1e-5)


@pytest.mark.parametrize("line", TABLE_5.strip().splitlines()[:6])
def test_the_search_is_never_behind_table_5(line: str) -> None:
    model, *numbers = line.split()
    p, m = map(int, numbers[:2])
    *times, message = map(float, numbers[2:6])
    costs = Profiled(tuple(times), message, *MODELS[model][:2])
    for limit, rate in ((p, float(numbers[-2])), (2 * p, float(numbers[-1]))):
        schedule = build("zb-auto", Problem(p, m), costs, memory_limit=limit)
        assert 1 - m * sum(times) / found(schedule, costs)[0] <= rate + 5e-5
        assert fits(within(Problem(p, m), costs, limit), to_letters(schedule))


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 2), (2, 6), (3, 9), (4, 8), (8, 16)])
@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("segments", [1, 2, 3, 5, 8, 11])
def test_interleaved_over_segments(
    segments: int, chunks: int, ranks: int, microbatches: int
) -> None:
    problem = Problem(ranks, microbatches, chunks, segments)
    try:
        schedule = build("seq-zb-interleaved", problem)
    except ProblemError:
        pytest.skip("no equal groups")
    numbers = measure(simulate(schedule, UniformCosts(problem)))
    assert numbers.global_bubble_s == pytest.approx((ranks - 1) / chunks / segments)
    costs = UniformCosts(problem, **SKEW)
    bubble = measure(simulate(schedule, costs)).global_bubble_s
    assert bubble == pytest.approx((ranks - 1) * (1 + 1.2 - 0.8) / chunks / segments)
    least = -(-ranks // segments)
    if microbatches % least == 0:
        units = microbatches * segments * chunks
        warm = (chunks - 1) * least * segments + ranks + segments - 1
        peak = min(warm, units) / (chunks * segments)
        assert numbers.peak_memory == pytest.approx([peak] * ranks)


def test_groups_of_twice_the_size_are_refused() -> None:
    with pytest.raises(ProblemError, match="groups of 4 to 7, got microbatches=13"):
        build("zb-interleaved", Problem(4, 13, chunks=2))
    with pytest.raises(ProblemError, match="same number of segments"):
        build("seq-zb-interleaved", Problem(2, 2, chunks=2, segments=(2, 3)))
    spelled = build("seq-zb-interleaved", Problem(2, 2, chunks=2, segments=(3, 3)))
    assert spelled.rows == build("seq-zb-interleaved", Problem(2, 2, 2, segments=3)).rows
