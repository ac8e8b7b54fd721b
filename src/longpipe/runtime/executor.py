"""Runs one rank's row of a Program.

The runtime knows no schedule: it looks at one op after another and calls the handler of its kind.
Everything that does not change from step to step (which message an op reads, where its result
goes, shapes, peers) is worked out once, in the constructor.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from longpipe.errors import RunError
from longpipe.ir import (
    COMPUTE,
    MESSAGES,
    RECEIVES,
    SHARDING,
    Event,
    Kind,
    Op,
    Program,
    matching,
    message_of,
)
from longpipe.runtime.boundary import Boundary
from longpipe.runtime.progress import Progress, Wait
from longpipe.runtime.recorder import Meter, Recorder, in_range, recorder_for
from longpipe.runtime.sharded import Shards
from longpipe.runtime.stage import Stage, StageModule, check_stages
from longpipe.runtime.transport import Handle, Transport, direction_of, in_words, receive_for

Run = Callable[[int, int, torch.Tensor | None], torch.Tensor | None]
Blame = Callable[[str], str]

_SENDS_ARRIVE = Wait("its sends to arrive", None)


@dataclass(frozen=True, slots=True)
class _Step:
    """A compute op with all that is fixed about it."""

    op: Op
    number: int  # among the rank's ops that are timed: all but messages
    whole: Callable[[], None] | None  # waits for the stage's weights, where they are sharded
    run: Run
    reads: Op | None  # the RECV whose message it takes (also for a hand-over on the same rank)
    sends: Op | None  # the SEND that will take its result to another rank
    feeds: Op | None  # the RECV under which a neighbouring stage on this rank finds its result


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a rank knows after a step: the loss sum, if it holds the last stage, and its times."""

    loss_sum: torch.Tensor | None
    _recorder: Recorder

    def events(self) -> tuple[Event, ...]:
        """This rank's ops, without messages, as they ran, in seconds of its own clock.

        Gathers and reductions end where they have been waited for. Valid until the next step
        begins; on a GPU it waits for the device.
        """
        return self._recorder.events()


class Executor:
    """Executes `program.rows[rank]` over this rank's stages, again and again.

    `stages` maps the number of each stage that the rank holds to its module. `blame` turns the
    text of a failure into one that names its true cause and tells the other ranks (see
    `watchdog`); `meter` adds memory to the events; `ranges` opens a profiler range per op. After
    an exception messages and segments are left half-way: it is not to be used again.
    """

    def __init__(
        self,
        program: Program,
        rank: int,
        stages: Mapping[int, StageModule],
        transport: Transport,
        boundary: Boundary,
        *,
        progress: Progress | None = None,
        blame: Blame | None = None,
        meter: Meter | None = None,
        ranges: bool = False,
    ) -> None:
        boundary.check(program.problem)
        check_stages(program, rank, stages)
        self._program = program
        self._rank = rank
        self._row = program.rows[rank]
        self._transport = transport
        self._boundary = boundary
        self._progress = progress or Progress()
        self._blame: Blame = blame or (lambda text: text)
        count = program.problem.stages
        self._stages = {
            index: Stage(module, index, count, boundary.segments)
            for index, module in stages.items()
        }
        timed = tuple(op for op in self._row if op.kind not in MESSAGES)
        self._recorder = recorder_for(timed, boundary.device, meter)
        self._shards = Shards(self._row, stages, self._recorder, self._progress)
        self._metered = meter is not None
        self._inbox: dict[Op, tuple[Handle | None, torch.Tensor, Wait | None]] = {}
        self._outbox: dict[Op, torch.Tensor] = {}
        self._begun = 0  # ops of the row that `begin` has run
        self._code = self._compile()
        if ranges:
            self._code = [
                (in_range(handler, op), op_or_step)
                for (handler, op_or_step), op in zip(self._code, self._row, strict=True)
            ]

    def run_step(self, batches: Sequence[Any], scale: float) -> StepResult:
        """Run the row once over one batch per micro-batch; gradients add up in `.grad`.

        `scale` is the gradient of the loss sum: 1 / (valid tokens of the global batch). Raises
        RunError, naming rank, op and message, when this rank or another one fails.
        """
        self.begin(batches, scale)
        return self.finish()

    def begin(self, batches: Sequence[Any], scale: float, early: int = 0) -> None:
        """Start a step as `run_step` does, and run the first `early` ops of the row (`early_ops`).

        Then `finish` runs the others, or `drop` undoes the start.
        """
        if len(batches) != self._program.problem.microbatches:
            raise RunError(
                f"the program orders {self._program.problem.microbatches} micro-batches, "
                f"the step was given {len(batches)}"
            )
        progress = self._progress
        progress.row = self._row
        progress.position = 0
        progress.step += 1
        progress.step_runs = True
        with self._blaming():
            for stage in self._stages.values():
                stage.start(batches, scale)
            self._run(0, early)
        self._begun = early

    def finish(self) -> StepResult:
        """Run the ops that `begin` has left."""
        with self._blaming():
            self._run(self._begun, len(self._code))
            losses = self._end()
            self._settle_sends()
        self._progress.activity = "between steps"
        self._progress.step_runs = False
        loss_sum = next((loss for loss in losses if loss is not None), None)
        return StepResult(loss_sum, self._recorder)

    def drop(self) -> None:
        """Forget the step that `begin` has started; every rank calls it, or none.

        Afterwards nothing is in flight. Gradients are as they were: only forwards have run.
        """
        with self._blaming():
            for receive in tuple(self._inbox):
                self._take(receive)
            self._outbox.clear()
            self._settle_sends()
            for stage in self._stages.values():
                stage.start((), 1.0)
        self._progress.step -= 1
        self._progress.step_runs = False

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise RunError(self._blame(self._describe(error))) from error

    def _settle_sends(self) -> None:
        self._progress.waiting = _SENDS_ARRIVE
        self._transport.drain()
        self._progress.waiting = None

    def _run(self, begin: int, end: int) -> None:
        progress = self._progress
        for position, (handler, step) in enumerate(self._code[begin:end], begin):
            progress.position = position
            if progress.stop is not None:
                raise RunError(progress.stop)
            handler(step)

    def _end(self) -> list[torch.Tensor | None]:
        if left := [*self._inbox, *self._outbox]:
            raise RunError(
                f"the step ended with messages that no op took: {' '.join(map(str, left))}; "
                "validate the program before a run"
            )
        self._shards.finish()
        return [stage.finish() for stage in self._stages.values()]

    def _compute(self, step: _Step) -> None:
        value = None if step.reads is None else self._take(step.reads)
        if step.whole is not None:
            step.whole()
        _, _, mb, seg = step.op
        recorder = self._recorder
        recorder.begin(step.number)
        result = step.run(mb, seg, value)
        recorder.end(step.number)
        if step.sends is not None:
            assert result is not None, f"{step.op} gave no tensor to send"
            self._outbox[step.sends] = result
        elif step.feeds is not None:
            assert result is not None, f"{step.op} gave no tensor to hand over"
            self._inbox[step.feeds] = (None, result, None)
        if self._metered:
            del value, result
            recorder.settle(step.number)

    def _take(self, receive: Op) -> torch.Tensor:
        if receive not in self._inbox:
            raise RunError(f"no {receive} (or hand-over) comes before it in the row")
        handle, tensor, wait = self._inbox.pop(receive)
        if handle is not None:
            self._progress.waiting = wait
            handle.wait()
            self._progress.waiting = None
        return tensor

    def _receive(self, step: tuple[Op, int, Wait]) -> None:
        op, peer, wait = step
        buffer = self._boundary.empty(op.mb, op.seg)
        handle = self._transport.post_receive(peer, direction_of(op), buffer)
        self._inbox[op] = (handle, buffer, wait)

    def _send(self, step: tuple[Op, int, Wait]) -> None:
        op, peer, wait = step
        if op not in self._outbox:
            raise RunError("nothing to send: its compute op does not come before it in the row")
        tensor = self._outbox.pop(op)
        shape = self._boundary.shape(op.mb, op.seg)
        if tensor.shape != shape or tensor.dtype != self._boundary.dtype:
            raise RunError(
                f"stage {op.stage} made {tuple(tensor.shape)} {tensor.dtype}, its neighbour "
                f"expects {shape} {self._boundary.dtype}: cuts or dtype are not the model's"
            )
        self._progress.waiting = wait  # a transport may block, or find that the peer is gone
        self._transport.send(peer, direction_of(op), tensor)
        self._progress.waiting = None

    def _compile(self) -> list[tuple[Callable[[Any], None], Any]]:
        code: list[tuple[Callable[[Any], None], Any]] = []
        light = {op._replace(kind=Kind.F) for op in self._row if op.kind is Kind.R}
        number = 0
        for op in self._row:
            if op.kind in COMPUTE:
                code.append((self._compute, self._fixed(op, number, op in light)))
            elif op.kind in SHARDING:
                code.append((self._shards.run, (op, number)))
            elif op.kind in RECEIVES:
                peer = self._program.peer(op)
                code.append((self._receive, (op, peer, Wait(in_words(matching(op)), peer))))
            else:
                peer = self._program.peer(op)
                code.append((self._send, (op, peer, Wait(f"the start of {in_words(op)}", peer))))
            number += op.kind not in MESSAGES
        return code

    def _fixed(self, op: Op, number: int, light: bool) -> _Step:
        stage = self._stages[op.stage]
        run: Run = {
            Kind.F: stage.light_forward if light else stage.forward,
            Kind.B: stage.backward,
            Kind.I: stage.input_backward,
            Kind.W: stage.weight_backward,
            Kind.R: stage.recompute,
        }[op.kind]
        stages = self._program.problem.stages
        sends = feeds = None
        if message := message_of(op, stages):
            send, receive = message
            if self._program.placement(receive.stage, op.mb) == self._rank:
                feeds = receive
            else:
                sends = send
        whole = self._shards.before(op.stage)
        return _Step(op, number, whole, run, receive_for(op, stages), sends, feeds)

    def _describe(self, error: Exception) -> str:
        """`error` with this rank's place in the step, and the message it waited for."""
        wait = self._progress.waiting
        waiting = "" if wait is None else f", waiting for {wait.what}"
        if wait is not None and wait.rank is not None:
            waiting += f" from rank {wait.rank}"
        place = f"rank {self._rank}, {self._progress.place()}{waiting}"
        return f"{place}: {type(error).__name__}: {error}"
