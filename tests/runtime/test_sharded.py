"""Sharded stages under the executor: gradients, counted gathers and reductions, memory, faults.

Here each rank has a process group of its own, with itself alone; `tests/dist` has several copies.
"""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
from local_step import batches_of, boundary_of, run_local
from toy_stages import ToyStage, reference, scale_of

from longpipe.errors import PlanError, RunError
from longpipe.ir import COMPUTE, SHARDING, Kind, Problem, from_text, to_text
from longpipe.passes import add_messages, add_sharding
from longpipe.runtime import Executor, ShardedStage
from longpipe.runtime.early import early_ops
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.schedules import build


@pytest.fixture(scope="module", autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Watched(ShardedStage):
    """Counts the stages of its rank that are whole."""

    def __init__(self, module, group, whole: set[int], most: list[int]) -> None:
        super().__init__(module, group)
        self._whole, self._most = whole, most

    def unshard(self):
        self._whole.add(id(self))
        self._most.append(len(self._whole))
        return super().unshard()

    def reshard(self) -> None:
        if hasattr(self, "_whole"):
            self._whole.remove(id(self))
        super().reshard()


def run_sharded(program, steps: int = 1):
    """(events, stages by number, most stages whole at a time) of each rank."""
    problem = program.problem
    fabric = LocalFabric(problem.ranks, rendezvous=True, timeout_s=20)
    groups = [dist.new_group([0]) for _ in range(problem.ranks)]
    boundary, batches = boundary_of(problem), batches_of(problem)

    def work(rank: int):
        torch.set_num_threads(1)
        whole, most = set(), [0]
        stages = {
            index: Watched(ToyStage(index, problem.stages), groups[rank], whole, most)
            for index in program.placement.stages_of(rank)
        }
        executor = Executor(program, rank, stages, fabric.transport(rank), boundary)
        for _ in range(steps):
            events = executor.run_step(batches, scale_of(batches)).events()
        return events, stages, max(most)

    return run_ranks(fabric, work)


def gradients(found) -> dict[str, torch.Tensor]:
    """By parameter name, from the shards; the tied embedding's two are added."""
    summed: dict[str, torch.Tensor] = {}
    for _, stages, _ in found:
        for stage in stages.values():
            views = stage._views(stage.shard.grad)
            for (name, _), view in zip(stage.module.named_parameters(), views, strict=True):
                summed[name] = summed.get(name, 0) + view
    return summed


CASES = [
    ("looped-bfs", Problem(4, 8, 4), {0: (6, 4), 3: (6, 4)}),
    ("interleaved", Problem(4, 8, 4), {0: (20, 8), 1: (12, 8), 2: (16, 8), 3: (24, 8)}),
    ("looped-bfs", Problem(4, 8, 2), {0: (2, 2)}),
    ("interleaved", Problem(4, 8, 2), {0: (2, 4)}),
    ("looped-bfs", Problem(2, 3, 3, segments=4), {1: (4, 3)}),
    ("zb-v", Problem(2, 4, 2), {}),
    ("dualpipe-v", Problem(2, 4, 2), {}),
    ("slimpipe", Problem(2, 2, 2, segments=4), {}),
]


@pytest.mark.parametrize(("name", "problem", "counts"), CASES)
def test_gradients_and_counted_events(name, problem, counts):
    program = add_messages(add_sharding(build(name, problem)))
    found = run_sharded(program)
    _, want = reference(problem.stages, batches_of(problem))
    got = gradients(found)
    for key, gradient in want.items():
        assert (got[key] - gradient).abs().max() / gradient.abs().max() < 1e-10, key
    for rank, (events, stages, most) in enumerate(found):
        assert [e.op for e in events] == [
            op for op in program.rows[rank] if op.kind in COMPUTE | SHARDING
        ]
        kinds = Counter(event.op.kind for event in events)
        if rank in counts:
            assert (kinds[Kind.UNSHARD], kinds[Kind.REDUCE_GRAD]) == counts[rank]
        assert most <= 2
        assert all(event.end_s >= event.start_s > 0 for event in events)
        for stage in stages.values():
            assert stage._flat.untyped_storage().nbytes() == 0
            assert all(p.grad is None for p in stage.module.parameters())
            assert list(stage.parameters()) == [stage.shard]


def test_gradients_add_up_over_steps_and_an_update_is_seen():
    program = add_messages(add_sharding(build("looped-bfs", Problem(2, 2, 3))))
    once, twice = gradients(run_sharded(program)), gradients(run_sharded(program, steps=2))
    for name, gradient in once.items():
        torch.testing.assert_close(twice[name], 2 * gradient)
    stage = ShardedStage(ToyStage(0, 2))
    with torch.no_grad():
        stage.shard.add_(1)
    before = ToyStage(0, 2)
    stage.unshard().wait()
    for (_, old), (_, new) in zip(
        before.named_parameters(), stage.module.named_parameters(), strict=True
    ):
        torch.testing.assert_close(new, old + 1)


def test_a_program_that_does_not_fit_the_stages():
    plain = add_messages(build("looped-bfs", Problem(2, 2, 2)))
    with pytest.raises(RunError, match=r"gathers and reduces stages \[\d, \d\].*ShardedStage"):
        run_local(add_sharding(plain))
    with pytest.raises(RunError, match=r"stages \[\d, \d\] are sharded, but .*add_sharding"):
        run_sharded(plain)


def test_parameters_of_two_types_are_refused():
    stage = ToyStage(1, 3)
    stage.register_parameter("other", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(PlanError, match="one type"):
        ShardedStage(stage)


def test_a_failed_gather_names_what_it_waited_for():
    program = add_sharding(add_messages(build("looped-bfs", Problem(1, 1, 2))))

    class Broken(ShardedStage):
        def unshard(self):
            super().unshard()
            return Gone()

    class Gone:
        def wait(self):
            raise ConnectionError("closed by peer")

    stages = {stage: Broken(ToyStage(stage, 2)) for stage in (0, 1)}
    problem = program.problem
    fabric = LocalFabric(1)
    executor = Executor(program, 0, stages, fabric.transport(0), boundary_of(problem))
    batches = batches_of(problem)
    with pytest.raises(RunError, match="waiting for the weights of stage 0 from its copies"):
        executor.run_step(batches, scale_of(batches))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (" 2UNSHARD0", "", "weights of stage 2 are not gathered"),
        (" 0RESHARD1", "", r"stages \[0\] are still whole"),
    ],
)
def test_a_row_that_was_not_validated(old, new, fault):
    """Freed memory is never read, and nothing stays behind."""
    text = to_text(add_sharding(add_messages(build("looped-bfs", Problem(1, 1, 3)))))
    assert old in text
    with pytest.raises(RunError, match=fault):
        run_sharded(from_text(text.replace(old, new)))


def test_no_op_of_a_sharded_step_is_early():
    """A dropped step would leave weights whole."""
    assert early_ops(add_messages(add_sharding(build("looped-bfs", Problem(2, 2, 2))))) == (0, 0)


def test_nothing_of_sharding_is_left_where_there_is_none():
    """The events of an ordinary program are its compute ops."""
    program = add_messages(build("1f1b", Problem(2, 2)))
    _, _, events = run_local(program)
    assert all(event.op.kind in COMPUTE for row in events for event in row)
