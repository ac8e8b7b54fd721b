"""On real gloo processes a group changes when the ops run, and nothing else: not one bit."""

import pytest
from decoder_cases import Case
from group_work import Turn, run_turns

from longpipe.runtime.launch import Launch, launch

CASES = {
    Case("kfkb", 2, 4): (1, 2, 4),
    Case("seq-kfkb", 2, 4, segments=3, family="qwen2"): (1, 2, 3, 4, 6, 12),
    Case("seq-kfkb", 4, 2, segments=3): (1, 2, 3, 6),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_do_not_depend_on_the_group_or_on_late_messages(case: Case) -> None:
    """One executor per group over the same stages, in turn, as the tuner switches them."""
    late = tuple(Turn(group, 0.01) for group in CASES[case])
    at_once = tuple(Turn(group, 0.0) for group in reversed(CASES[case]))
    found = launch(
        run_turns,
        case,
        late + at_once,
        options=Launch(ranks=case.ranks, threads=1, hang_timeout_s=60),
    )
    assert len(found) == 2 * len(CASES[case])
    assert all(error < 1e-10 for error, _ in found)
    assert len({digests for _, digests in found}) == 1
