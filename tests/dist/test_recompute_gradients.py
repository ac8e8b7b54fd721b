"""On real gloo processes recompute, full and selective, gives the unsplit decoder's gradients.

float64, uneven segments, packed documents, tied embeddings, split backwards; whole and in part.
"""

import pytest
from decoder_cases import Case, run_cases

from longpipe.model import parameter_shapes
from longpipe.runtime.launch import Launch, launch

TOLERANCE = 1e-10
SCHEDULES = (  # name, chunks, segments, stages that recompute
    ("chronos", 2, 1, "chunk:0"),
    ("seq-chronos", 2, 3, "all"),
    ("seq1f1b", 1, 4, "all"),
    ("zb-v", 2, 1, "all"),
    ("zb-v", 2, 1, "chunk:1"),
    ("seq-zb-h1", 1, 3, "all"),
    ("seq-zb-h1", 1, 3, "1"),
    ("interleaved", 2, 1, "all"),
    ("gpipe", 1, 3, "all"),
)


def cases_for(ranks: int) -> tuple[Case, ...]:
    """Each of them with both decoders and both ways to recompute."""
    return tuple(
        Case(name, ranks, ranks, chunks, segments, family, mode, redone)
        for name, chunks, segments, redone in SCHEDULES
        for family, mode in (
            ("qwen3", "full"),
            ("qwen3", "selective"),
            ("qwen2", "selective" if redone == "all" else "full"),
        )
    )


@pytest.mark.parametrize("ranks", [2, 4], ids=["two", "four"])
def test_loss_and_every_gradient_equal_the_unsplit_model(ranks):
    cases = cases_for(ranks)
    found = launch(run_cases, cases, options=Launch(ranks=ranks, threads=1, hang_timeout_s=60))
    wrong = []
    for case in cases:
        assert set(found[str(case)]) == {"loss", *parameter_shapes(case.config())}
        wrong += [
            f"{case}: {name} is off by {error:.1e}"
            for name, error in found[str(case)].items()
            if not error < TOLERANCE
        ]
    assert not wrong, "\n".join(wrong)
