"""Stages whose weights take no gradient: the others have the gradients of the unsplit model.

All ranks in one process, as in `test_decoder_mutations`.
"""

import decoder_cases
import pytest
import torch
from decoder_cases import Case, errors_of, run_stages

from longpipe.runtime.local import LocalFabric, run_ranks

CASES = (
    Case("1f1b", 2, 3, family="qwen2"),
    Case("seq-zb-h1", 3, 2, segments=3, family="qwen2"),
    Case("zb-v", 2, 3, chunks=2, family="qwen2"),
    Case("seq1f1b", 2, 3, segments=3, family="qwen2", recompute="full"),
    Case("seq-zb-h1", 2, 3, segments=3, family="qwen2", recompute="selective"),
)


@pytest.mark.parametrize("frozen", [(0,), (0, 1), (1,)], ids=["first", "first two", "second"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_the_other_stages(monkeypatch, case, frozen):
    make_stage = decoder_cases.make_stage

    def make_frozen(config, partition, stage, build):
        made = make_stage(config, partition, stage, build)
        return made.requires_grad_(stage not in frozen)

    monkeypatch.setattr(decoder_cases, "make_stage", make_frozen)
    fabric = LocalFabric(case.ranks, rendezvous=True, timeout_s=20)

    def work(rank: int) -> dict[str, float]:
        torch.set_num_threads(1)
        loss_sum, modules = run_stages(case, rank, fabric.transport(rank))
        learning = {}
        for stage, module in modules.items():
            if stage not in frozen:
                learning[stage] = module
            else:
                assert all(parameter.grad is None for parameter in module.parameters())
        return errors_of(case, loss_sum, learning)

    errors = {name: error for found in run_ranks(fabric, work) for name, error in found.items()}
    assert max(errors.values()) < 1e-10, errors
    assert "loss" in errors
