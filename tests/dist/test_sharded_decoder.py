"""Weights sharded over two copies of the pipeline, on four gloo processes, exact."""

from collections import Counter

import pytest
from decoder_cases import Case
from sharded_cases import program_of, run_sharded

from longpipe.ir import SHARDING
from longpipe.runtime.launch import Launch, launch

# qwen2's embedding and head are not tied: a sharded stage owns its parameters.
CASES = {
    Case("looped-bfs", 2, 3, 4, 3, "qwen2"): (6, 4),
    Case("looped-bfs", 2, 4, 2, 1, "qwen2"): (2, 2),
    Case("interleaved", 2, 4, 4, 1, "qwen2"): None,
    Case("interleaved", 2, 4, 2, 1, "qwen2"): (2, 4),
    Case("seq1f1b-interleaved", 2, 2, 3, 4, "qwen2"): None,
    Case("zb-v", 2, 4, 2, 1, "qwen2"): None,
    Case("slimpipe", 2, 2, 2, 4, "qwen2"): None,
}


@pytest.fixture(scope="module")
def found():
    options = Launch(ranks=4, threads=1, hang_timeout_s=60)
    return launch(run_sharded, tuple(CASES), options=options)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_the_unsplit_model_over_the_data_of_both_copies(found, case):
    error, counts = found[str(case)]
    assert error < 1e-10
    row = program_of(case).rows[0]
    assert counts == Counter(op.kind.value for op in row if op.kind in SHARDING)
    if CASES[case]:
        assert (counts["UNSHARD"], counts["REDUCE_GRAD"]) == CASES[case]
