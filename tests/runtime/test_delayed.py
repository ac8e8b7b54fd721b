"""The transport that delays: nothing is lost, nothing overtakes, the sender goes on at once."""

from time import perf_counter

import pytest
import torch
from local_step import batches_of, boundary_of
from toy_stages import ToyStage, scale_of, summed_gradients

from longpipe.errors import RunError
from longpipe.ir import Problem, Program
from longpipe.passes import add_messages
from longpipe.runtime import Executor
from longpipe.runtime.delayed import DelayedTransport
from longpipe.runtime.local import LocalFabric, run_ranks
from longpipe.runtime.transport import Direction
from longpipe.schedules import build

F, B = Direction.F, Direction.B


class Recording:
    """A transport that notes what is sent, and when; one message fails if asked."""

    def __init__(self, fails: float | None = None) -> None:
        self.sent: list[tuple[int, Direction, float, float]] = []
        self.fails = fails

    def post_receive(self, source, direction, buffer):
        raise NotImplementedError

    def send(self, destination, direction, tensor):
        if float(tensor) == self.fails:
            raise RunError("broken")
        self.sent.append((destination, direction, float(tensor), perf_counter()))

    def drain(self):
        pass

    def close(self):
        self.sent.append((-1, F, -1.0, perf_counter()))


def test_messages_are_held_and_the_sender_goes_on() -> None:
    inner = Recording()
    transport = DelayedTransport(inner, 0.5)
    begin_s = perf_counter()
    for number in range(3):
        transport.send(1, F, torch.tensor(float(number)))
    handed_over_s = perf_counter()
    assert not inner.sent
    transport.drain()
    assert [value for _, _, value, _ in inner.sent] == [0, 1, 2]
    assert all(at_s >= begin_s + 0.5 for _, _, _, at_s in inner.sent)
    assert handed_over_s < inner.sent[0][3], "the sender has not waited"
    transport.close()


def test_a_shorter_delay_lets_nothing_overtake() -> None:
    inner = Recording()
    transport = DelayedTransport(inner, 0.5)
    transport.send(1, F, torch.tensor(0.0))
    transport.delay_s = 0.0
    transport.send(1, F, torch.tensor(1.0))
    transport.send(1, B, torch.tensor(2.0))
    transport.drain()
    order = [value for _, _, value, _ in inner.sent]
    assert order.index(0) < order.index(1), "the same channel keeps its order"
    assert order[0] == 2, "another channel does not wait"
    transport.close()


def test_a_send_that_fails_is_raised_at_the_next_call() -> None:
    transport = DelayedTransport(Recording(fails=1.0))
    transport.send(1, F, torch.tensor(1.0))
    with pytest.raises(RunError, match="a F message to rank 1 could not be sent: broken"):
        transport.drain()
    with pytest.raises(RunError, match="could not be sent"):
        transport.send(1, F, torch.tensor(2.0))
    transport.close()


def test_close_ends_the_threads_and_the_transport_below() -> None:
    inner = Recording()
    transport = DelayedTransport(inner, 0.05)
    transport.send(1, F, torch.tensor(0.0))
    transport.close()
    assert [destination for destination, *_ in inner.sent] == [1, -1]


@pytest.mark.parametrize("rendezvous", [False, True])
@pytest.mark.parametrize("ranks", [3, 8])
def test_gradients_do_not_depend_on_group_or_delay(ranks: int, rendezvous: bool) -> None:
    """Bit for bit: a group changes when a micro-batch's gradients are added, not in which order."""
    problem = Problem(ranks, 4, segments=2)
    found = [
        gradients(add_messages(build("seq-kfkb", problem, group=group)), delay_s, rendezvous)
        for group, delay_s in ((1, 0.0), (1, 0.004), (2, 0.004), (4, 0.0), (8, 0.002))
    ]
    for each in found[1:]:
        assert each.keys() == found[0].keys()
        assert all(torch.equal(each[name], found[0][name]) for name in each)


def gradients(program: Program, delay_s: float, rendezvous: bool) -> dict[str, torch.Tensor]:
    problem = program.problem
    batches = batches_of(problem)
    fabric = LocalFabric(problem.ranks, rendezvous=rendezvous, timeout_s=20)

    def work(rank: int) -> ToyStage:
        torch.set_num_threads(1)
        module = ToyStage(rank, problem.ranks)
        transport = DelayedTransport(fabric.transport(rank), delay_s)
        executor = Executor(program, rank, {rank: module}, transport, boundary_of(problem))
        executor.run_step(batches, scale_of(batches))
        transport.close()
        return module

    return summed_gradients(run_ranks(fabric, work))
