"""Checkpoints without faults: what is written, kept and read, alone and over ranks."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import run_ranks
from saving import assert_holds, leftovers, state_of, tensors_of
from torch import Tensor
from torch.nn import Parameter

from longpipe.data import Loader, open_tokens, pack, write_tokens
from longpipe.errors import CheckpointError, DataError
from longpipe.train.checkpoint import latest, load, resume, save, training_tensors
from longpipe.train.config import OptimConfig
from longpipe.train.manifest import TrainState, read_manifest
from longpipe.train.optim import build_adamw, clip, norm_of, sum_of_squares
from longpipe.train.together import on_all, on_first

torch.set_num_threads(1)


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    path = save(tmp_path, tensors_of(7), state_of(7))
    assert path.name == "step-00000007"
    held = tensors_of(0)
    assert load(path, held) == state_of(7)
    assert_holds(held, 7)
    assert not leftovers(tmp_path)


def test_the_manifest_is_json_and_names_every_tensor_and_file(tmp_path: Path) -> None:
    path = save(tmp_path, tensors_of(7), state_of(7))
    content = json.loads((path / "manifest.json").read_text())
    assert content["format"] == 2
    assert content["state"]["loader"] == {"sequences": 21, "data": "d"}
    assert content["tensors"]["model.b.weight"] == {"shape": [64], "dtype": "float64"}
    files = {entry.name for entry in path.iterdir()} - {"manifest.json"}
    assert set(content["files"]) == files
    for name, info in content["files"].items():
        assert (path / name).stat().st_size == info["size_bytes"]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for step in (3, 10, 200, 1000):
        save(tmp_path, tensors_of(step), state_of(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000200", "step-00001000"]
    newest = latest(tmp_path)
    assert newest is not None
    assert newest.name == "step-00001000"


def test_there_may_be_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "absent") is None
    assert resume(tmp_path / "absent", tensors_of(0)) is None


def test_a_step_is_not_written_twice(tmp_path: Path) -> None:
    save(tmp_path, tensors_of(7), state_of(7))
    with pytest.raises(CheckpointError, match="exists and is whole: resume from it"):
        save(tmp_path, tensors_of(7), state_of(7))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model.a.wight": torch.zeros(64, 4)},
            r"no tensor model\.a\.wight \(it has model\.a\.weight\)",
        ),
        ({"model.a.weight": torch.zeros(64, 5)}, r"float32 of shape \[64, 4\], the run needs"),
        ({"model.a.weight": torch.zeros(64, 4).double()}, "needs float64 of shape"),
        ({"model.a.weight": None}, r"holds 1 tensors that this model has not, such as model\.a\.w"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    tmp_path: Path, change: Mapping[str, Tensor | None], expected: str
) -> None:
    path = save(tmp_path, tensors_of(7), state_of(7))
    changed = {**tensors_of(0), **change}
    held = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=expected):
        load(path, held)


class Run:
    """A tiny run: a linear language model over packed tokens."""

    def __init__(self, data: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        self.held = {
            "embed.weight": Parameter(torch.randn(16, 8, generator=generator)),
            "out.weight": Parameter(torch.randn(16, 8, generator=generator)),
            "norm.weight": Parameter(torch.ones(8)),
        }
        self.optimizer = build_adamw(self.held, OptimConfig(lr=0.05))
        self.loader = Loader(pack([open_tokens(data)], 16), seed=3)
        self.step = 0

    def train(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            batch = self.loader.next_batch(2, 1)
            tokens, labels = torch.from_numpy(batch.tokens), torch.from_numpy(batch.labels)
            hidden = self.held["embed.weight"][tokens] * self.held["norm.weight"]
            logits = hidden @ self.held["out.weight"].T
            total = torch.nn.functional.cross_entropy(
                logits.flatten(0, 2), labels.flatten(), reduction="sum", ignore_index=-100
            )
            loss = total / batch.global_valid_tokens
            loss.backward()  # type: ignore[no-untyped-call]
            clip(self.held, norm_of([sum_of_squares(self.held)]), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(float(loss.detach()))
            self.step += 1
        return losses

    def save(self, folder: Path) -> None:
        state = TrainState(self.step, self.loader.state())
        save(folder, training_tensors(self.held, self.optimizer), state)

    def resume(self, folder: Path) -> None:
        resumed = resume(folder, training_tensors(self.held, self.optimizer))
        assert resumed is not None
        self.loader.load_state(resumed.state.loader)
        self.step = resumed.state.step


def test_a_resumed_run_has_the_losses_of_an_undisturbed_one(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 16, 500)
    documents = np.split(ids, [40, 41, 200])
    data = write_tokens(
        tmp_path / "t", documents, vocab_size=16, eos_id=None, tokenizer="t", source="s"
    )
    expected = Run(data).train(40)
    first = Run(data)
    before = first.train(17)
    first.save(tmp_path / "run")
    second = Run(data)
    second.resume(tmp_path / "run")
    assert before + second.train(23) == expected
    assert expected[-1] < expected[0]


def _shards(ranks: int, rank: int, step: int) -> dict[str, Tensor]:
    """Rank r of `ranks` holds every ranks-th of six tensors, and all hold a tied one."""
    mine = {f"model.layers.{i}.weight": torch.full((3, i + 1), step + i / 10) for i in range(6)}
    held = {name: t for i, (name, t) in enumerate(mine.items()) if i % ranks == rank}
    return held | {"model.tied.weight": torch.full((5,), float(step))}


def _save_on_ranks(rank: int, folder: Path) -> None:
    group = dist.group.WORLD
    save(folder, _shards(2, rank, 4), state_of(4), group=group)
    save(folder, _shards(2, rank, 6), state_of(6), group=group)
    held = _shards(2, rank, 0)
    resumed = resume(folder, held, group=group)
    assert resumed is not None
    assert resumed.state == state_of(6)
    for name, expected in _shards(2, rank, 6).items():
        assert torch.equal(held[name], expected)
    # What one rank refuses, all refuse, and each says why.
    wrong = held | ({"model.more.weight": torch.zeros(1)} if rank == 1 else {})
    with pytest.raises(CheckpointError, match=r"rank 1: .*has no tensor model\.more\.weight"):
        load(resumed.path, wrong, group=group)
    unlike = {"model.x.weight": torch.zeros(2 + rank)}
    with pytest.raises(CheckpointError, match=r"model\.x\.weight is .* on rank 1, but .*earlier"):
        save(folder, unlike, state_of(8), group=group)
    _fail_together(rank)


def _fail_together(rank: int) -> None:
    def fails() -> int:
        if rank == 1:
            raise DataError("this file")
        return rank

    group = dist.group.WORLD
    assert on_all(group, lambda: rank * 10) == [0, 10]
    with pytest.raises(DataError, match="rank 1: this file"):
        on_all(group, fails)
    assert on_first(group, fails) == 0


def test_ranks_save_together_and_any_layout_loads(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run_ranks(_save_on_ranks, 2, tmp_path, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000006"]
    held = _shards(1, 0, 0)
    newest = latest(folder)
    assert newest is not None
    assert load(newest, held) == state_of(6)
    for name, expected in _shards(1, 0, 6).items():
        assert torch.equal(held[name], expected)
    assert len([f for f in read_manifest(newest).files if f.endswith(".distcp")]) == 2
