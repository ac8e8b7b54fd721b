"""Faults put into the real decoder on purpose make the gradient check fail.

All ranks in one process: the check is the one that the gloo processes use.
"""

import pytest
import torch
from decoder_cases import Case, errors_of, run_stages

from longpipe.model.attention import KVStore
from longpipe.model.linear import WeightQueue
from longpipe.runtime.local import LocalFabric, run_ranks

CASE = Case("seq-zb-h1", ranks=2, microbatches=2, segments=4, family="qwen2")


def worst_error() -> float:
    """Of the loss and every parameter, in a step of CASE."""
    fabric = LocalFabric(CASE.ranks, rendezvous=True, timeout_s=20)

    def work(rank: int) -> float:
        loss_sum, modules = run_stages(CASE, rank, fabric.transport(rank))
        return max(errors_of(CASE, loss_sum, modules).values())

    torch.set_num_threads(1)
    return max(run_ranks(fabric, work))


def test_without_a_fault_the_check_passes():
    assert worst_error() < 1e-10


def test_dropped_gradients_of_keys_and_values(monkeypatch):
    settle = KVStore.settle

    def forgetful(self, *args):
        self._due.clear()
        settle(self, *args)

    monkeypatch.setattr(KVStore, "settle", forgetful)
    assert worst_error() > 1e-3


@pytest.mark.parametrize("times", [0, 2])
def test_weight_gradients_dropped_or_doubled(monkeypatch, times):
    run = WeightQueue.run

    def faulty(self, key):
        if key == (1, 2):
            self._products[key] = self._products[key] * times
        run(self, key)

    monkeypatch.setattr(WeightQueue, "run", faulty)
    assert worst_error() > 1e-3
