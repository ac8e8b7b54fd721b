"""Messages over torch.distributed: gloo between CPUs, NCCL between GPUs."""

from collections import deque
from collections.abc import Sequence
from queue import Queue
from threading import Thread

import torch
import torch.distributed as dist

from longpipe.errors import RunError
from longpipe.ir import Program
from longpipe.runtime.transport import Direction, Handle, Transport, edges_of


class _Outgoing:
    """Waits for the sends of one channel in a thread and drops each buffer once it has arrived.

    With gloo nothing else works: a send completes only when its receive has been posted, asking
    `is_completed` never turns true, and a wait that times out breaks the connection.
    """

    def __init__(self, name: str) -> None:
        self._queue: Queue[tuple[dist.Work, torch.Tensor] | None] = Queue()
        self.error: BaseException | None = None
        Thread(target=self._wait_for_each, name=name, daemon=True).start()

    def put(self, work: dist.Work, tensor: torch.Tensor) -> None:
        """Keep `tensor` until `work` is done."""
        self._queue.put((work, tensor))

    def drain(self) -> None:
        """Block until every send is done."""
        self._queue.join()

    def close(self) -> None:
        """End the thread after the sends under way."""
        self._queue.put(None)

    def _wait_for_each(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                item[0].wait()
            except Exception as error:
                self.error = self.error or error
            del item  # else this loop holds the buffer until the next message
            self._queue.task_done()


class GlooTransport:
    """CPU tensors over gloo.

    `ranks[r]` is the global rank of the pipeline's rank r; `group` a gloo group that holds them
    (None: the default group). Another transport over the same group needs another `lane`.
    """

    def __init__(
        self, ranks: Sequence[int], group: dist.ProcessGroup | None = None, *, lane: int = 0
    ) -> None:
        self._ranks = tuple(ranks)
        self._group = group
        # Messages of one tag between two ranks arrive in order, those of different tags do not wait
        # for each other: a tag per direction makes the channels that `Transport` promises.
        self._tags = {Direction.F: 2 * lane + 1, Direction.B: 2 * lane + 2}
        self._outgoing: dict[tuple[int, Direction], _Outgoing] = {}

    def post_receive(self, source: int, direction: Direction, buffer: torch.Tensor) -> Handle:
        """See `Transport`."""
        work = dist.irecv(buffer, self._ranks[source], group=self._group, tag=self._tags[direction])
        assert work is not None, "this process is not in the pipeline's group"
        return work

    def send(self, destination: int, direction: Direction, tensor: torch.Tensor) -> None:
        """See `Transport`."""
        tensor = tensor.contiguous()
        work = dist.isend(
            tensor, self._ranks[destination], group=self._group, tag=self._tags[direction]
        )
        assert work is not None, "this process is not in the pipeline's group"
        outgoing = self._outgoing.get((destination, direction))
        if outgoing is None:
            outgoing = _Outgoing(f"longpipe sends {direction} to rank {destination}")
            self._outgoing[destination, direction] = outgoing
        outgoing.put(work, tensor)

    def drain(self) -> None:
        """See `Transport`."""
        for (destination, direction), outgoing in self._outgoing.items():
            outgoing.drain()
            if outgoing.error is not None:
                raise RunError(
                    f"a {direction} message to rank {destination} did not arrive: {outgoing.error}"
                )

    def close(self) -> None:
        """See `Transport`."""
        for outgoing in self._outgoing.values():
            outgoing.close()
        self._outgoing.clear()


class NcclTransport:
    """CUDA tensors over NCCL, with a communicator (and so a stream) for each channel.

    Sharing one would make the directions wait for each other, and can deadlock. The groups are
    made in one order on all ranks, each by its two members only.
    """

    def __init__(self, program: Program, rank: int, ranks: Sequence[int]) -> None:
        self._rank = rank
        self._groups = {
            (source, destination, direction): dist.new_group(
                [ranks[source], ranks[destination]], backend="nccl", use_local_synchronization=True
            )
            for source, destination, direction in edges_of(program)
            if rank in (source, destination)
        }
        self._ranks = tuple(ranks)
        self._sent: deque[tuple[dist.Work, torch.Tensor]] = deque()
        self._connect()

    def _connect(self) -> None:
        """Send one element over each channel, in one order on all ranks.

        NCCL connects at the first message and blocks the host until the peer does the same: in
        the middle of a step that could deadlock.
        """
        for source, destination, direction in self._groups:
            token = torch.zeros(1, device="cuda")
            if source == self._rank:
                self.send(destination, direction, token)
            else:
                self.post_receive(source, direction, token).wait()
        self.drain()
        torch.cuda.synchronize()

    def post_receive(self, source: int, direction: Direction, buffer: torch.Tensor) -> Handle:
        """See `Transport`; the handle's wait holds up the current stream, not the host."""
        group = self._groups[source, self._rank, direction]
        work = dist.irecv(buffer, self._ranks[source], group=group)
        assert work is not None, "this process is not in the channel's group"
        return work

    def send(self, destination: int, direction: Direction, tensor: torch.Tensor) -> None:
        """See `Transport`."""
        tensor = tensor.contiguous()
        group = self._groups[self._rank, destination, direction]
        work = dist.isend(tensor, self._ranks[destination], group=group)
        assert work is not None, "this process is not in the channel's group"
        self._sent.append((work, tensor))
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()

    def drain(self) -> None:
        """Hold up the current stream until every send is done; the host goes on."""
        while self._sent:
            work, _ = self._sent.popleft()
            work.wait()

    def close(self) -> None:
        """Give the communicators back."""
        for group in self._groups.values():
            dist.destroy_process_group(group)
        self._groups.clear()


def transport_for(
    program: Program, rank: int, ranks: Sequence[int], device: torch.device
) -> Transport:
    """The transport that suits the device; every rank of the pipeline calls it at the same point.

    `ranks[r]` is the global rank of the pipeline's rank r.
    """
    if device.type == "cuda":
        return NcclTransport(program, rank, ranks)
    return GlooTransport(ranks)
