"""On real gloo processes every schedule gives the loss and gradients of the unsplit decoder.

float64, uneven segments, packed documents, micro-batches fewer than ranks, tied embeddings, split
backwards. One launch of processes runs all cases of a rank count.
"""

import pytest
from decoder_cases import Case, run_cases

from longpipe.errors import ProblemError
from longpipe.model import parameter_shapes
from longpipe.runtime.launch import Launch, launch
from longpipe.schedules import entries

TOLERANCE = 1e-10


def buildable(case: Case) -> bool:
    """Whether the schedule orders this problem at all."""
    try:
        case.program()
    except ProblemError:
        return False
    return True


def cases_for(ranks: int, sizes: tuple[int, ...]) -> tuple[Case, ...]:
    """Each registered schedule over micro-batch counts `sizes`; both decoders."""
    found = []
    for entry in entries():
        chunks = 2 if entry.chunks is None else entry.chunks
        segments = (4, 3) if entry.segments else (1, 1)
        own = (2 * ranks,) if "dualpipe" in entry.name else ()  # it needs so many
        for microbatches in sorted({*sizes, *own}):
            for family, count in zip(("qwen3", "qwen2"), segments, strict=True):
                found.append(Case(entry.name, ranks, microbatches, chunks, count, family))
    return tuple(filter(buildable, found))


CASES = {2: cases_for(2, (1, 2, 4)), 4: cases_for(4, (1, 2, 4))}


@pytest.fixture(scope="module", params=[2, 4], ids=["two", "four"])
def errors(request):
    """Errors by case, for the cases of one rank count."""
    ranks = request.param
    options = Launch(ranks=ranks, threads=1, hang_timeout_s=60)
    return launch(run_cases, CASES[ranks], options=options), CASES[ranks]


def test_loss_and_every_gradient_equal_the_unsplit_model(errors):
    found, cases = errors
    wrong = []
    for case in cases:
        want = {"loss", *parameter_shapes(case.config())}
        assert set(found[str(case)]) == want, f"{case}: parameters are missing"
        wrong += [
            f"{case}: {name} is off by {error:.1e}"
            for name, error in found[str(case)].items()
            if not error < TOLERANCE
        ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_schedule_is_among_the_cases(ranks):
    assert {case.name for case in CASES[ranks]} == {entry.name for entry in entries()}
    assert any(case.microbatches < ranks for case in CASES[ranks])
