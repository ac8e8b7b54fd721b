"""The steps of a run, as one rank sees them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from torch.optim import AdamW

from longpipe.cost.flops import training_flops_per_token
from longpipe.data import Loader
from longpipe.ir import Event, Program, Timeline
from longpipe.model import MicroBatch
from longpipe.runtime import Executor, StepResult
from longpipe.runtime.early import early_ops
from longpipe.runtime.launch import World
from longpipe.runtime.trace import gather_timeline
from longpipe.simulate import measure, title
from longpipe.train.checkpoint import save, training_tensors
from longpipe.train.interrupt import Interrupt
from longpipe.train.job import Job
from longpipe.train.manifest import TrainState
from longpipe.train.metrics import MetricsLog, StepMetrics, peak_memory_bytes
from longpipe.train.optim import learning_rate, sum_of_squares
from longpipe.train.part import Part, microbatches
from longpipe.train.peers import Peers
from longpipe.train.post_validation import PostValidation
from longpipe.train.tuner import Tuner
from longpipe.train.update import Outcome, Ran, Row, Update

# The report shows a typical one of the last steps, not an outlier; bounded, for memory's sake.
_KEPT_TIMELINES = 64
_KEPT_EVENTS = 500_000


@dataclass(frozen=True, slots=True)
class _Timed:
    """The times of a step that are to be told, on this rank."""

    step_s: float
    events: tuple[Event, ...]


@dataclass(slots=True)
class Trainer:
    """Batch, pipeline, clipping, optimizer, metrics, checkpoint: again and again.

    `say` speaks to people, on one rank; `clock_offset_s` brings this rank's times onto rank 0's
    clock. Rank 0 keeps the measured timelines of the last steps that were logged, all of them of
    the program that runs now; a `tuner` may change it between steps. With `post` a step may begin,
    by its early forwards, before the update of the step before is settled.
    """

    job: Job
    world: World
    peers: Peers
    part: Part
    executor: Executor
    optimizer: AdamW
    loader: Loader
    say: Callable[[str], None]
    predicted_bubble: float
    clock_offset_s: float
    interrupt: Interrupt
    update: Update
    post: PostValidation | None = None
    tuner: Tuner | None = None
    program: Program = field(init=False)
    measured: deque[Timeline] = field(init=False)
    _early: int = 0
    _timed: _Timed | None = None
    _stops: bool = False

    def __post_init__(self) -> None:
        self._take(self.job.layout.program)
        ops = sum(map(len, self.program.rows))
        self.measured = deque(maxlen=max(1, min(_KEPT_TIMELINES, _KEPT_EVENTS // ops)))

    def _take(self, program: Program) -> None:
        self.program = program
        self._early = early_ops(program)[self.world.rank] if self.post is not None else 0

    def run(self, log: MetricsLog, done: int) -> int:
        """Go on after `done` steps until the run's end or an interrupt; return the steps done.

        Raises:
            RunError: a rank failed, or a loss or gradient is not finite and the policy is to stop.
            CheckpointError: a checkpoint cannot be written.
        """
        train = self.job.config.train
        step = done
        while step < train.steps and not self._stops:
            due = step + 1 == train.steps
            if train.checkpoint_every:
                due = due or (step + 1) % train.checkpoint_every == 0
            step += self._step(step + 1, log, settle=due or self._tunes(step + 1))
            if self._tunes(step):
                self._tune(step, log)
            if due or self._stops:
                self._save(step)
        if self.post is not None:
            self.say(self.post.summary())
        return step

    def _step(self, step: int, log: MetricsLog, *, settle: bool) -> bool:
        """Step number `step`, the first is 1; False if the run ends with the one before.

        With `settle` its update is made, and known to be right, when this returns.
        """
        config = self.job.config
        started_s = perf_counter()
        place = self.loader.state()
        batch = self.loader.next_batch(config.pipeline.microbatches, config.train.microbatch_size)
        lr = learning_rate(step - 1, config.optim, config.train.steps)
        ran = Ran(step, 1.0 / max(1, batch.global_valid_tokens), lr)
        self._begin(microbatches(batch, self.world.device), ran.scale, log)
        if self._stops:
            self.loader.load_state(place)
            return False
        self.part.zero_gradients()
        result = self.executor.finish()
        row = self._row(step, result)
        if self.post is None:
            outcome: Outcome | None = self.update.together(ran, row)
        else:
            outcome = self.post.end(ran, row, settle=settle)
        step_s = perf_counter() - started_s
        self._stops = outcome is not None and outcome.asked
        told = self._logged(step) or self._tunes(step)
        self._timed = _Timed(step_s, result.events()) if told else None
        if self._timed is not None and self.world.rank:
            self._timeline(step, self._timed)
        if outcome is not None:
            self._report(outcome, log)
        return True

    def _begin(self, made: list[MicroBatch], scale: float, log: MetricsLog) -> None:
        """Start the ops of a step; settle the step before on the way, if it is pending."""
        post = self.post
        if post is None or post.pending is None:
            self.executor.begin(made, scale)
            return
        self.executor.begin(made, scale, self._early)
        outcome = post.hear()
        again = not post.stands(outcome)
        self._stops = outcome.asked
        if again or self._stops:
            self.executor.drop()
        post.settle(outcome)
        self._report(outcome, log)
        if again and not self._stops:
            self.executor.begin(made, scale)

    def _row(self, step: int, result: StepResult) -> Row:
        with self.peers.waiting(f"the gradients of step {step}"):
            self.part.sum_tied()
        return Row(
            square=sum_of_squares(self.part.parameters, self.part.counted_elsewhere),
            loss_sum=0.0 if result.loss_sum is None else float(result.loss_sum),
            peak_bytes=float(peak_memory_bytes(self.world.device)),
            asked=float(self.interrupt.asked),
        )

    def _logged(self, step: int) -> bool:
        train = self.job.config.train
        return not step % train.log_every or step == train.steps or self._stops

    def _report(self, outcome: Outcome, log: MetricsLog) -> None:
        """Keep the step's times and log it, where that is due, on rank 0."""
        if self._timed is None or self.world.rank:
            return
        step = outcome.ran.step
        timeline = self._timeline(step, self._timed)
        assert timeline is not None, "this is rank 0"
        self.measured.append(timeline)
        if self.tuner is not None:
            self.tuner.recent.append(timeline)
        if self._logged(step):
            log.write(self._metrics(outcome, self._timed.step_s))

    def _tunes(self, step: int) -> bool:
        """Whether the tuner looks at the steps after this one."""
        last = step == self.job.config.train.steps or self._stops
        return self.tuner is not None and self.tuner.due(step) and not last

    def _tune(self, step: int, log: MetricsLog) -> None:
        """Go on in the order that the first rank chooses; on all ranks alike."""
        tuner = self.tuner
        assert tuner is not None, "the caller has asked"
        decision = self.peers.on_first(lambda: tuner.look(step), "looking at what messages take")
        log.note(decision)
        if decision.switches:
            way = tuner.follow(decision)
            self._take(way.program)
            self.executor = way.executor
            self.predicted_bubble = measure(way.forecast.predicted).global_bubble_rate
            self.measured.clear()

    def _timeline(self, step: int, timed: _Timed) -> Timeline | None:
        """What happened on all ranks in this step, at rank 0; the others tell it."""
        program, world = self.program, self.world
        with self.peers.waiting(f"the times of step {step}"):
            found = gather_timeline(
                program,
                timed.events,
                world.store,
                world.rank,
                key=f"step {step}",
                offset_s=self.clock_offset_s,
            )
        return found and replace(found, name=title(program))

    def _metrics(self, outcome: Outcome, step_s: float) -> StepMetrics:
        config, layout = self.job.config, self.job.layout
        length = config.data.sequence_length
        tokens = config.pipeline.microbatches * config.train.microbatch_size * length
        flops = tokens * training_flops_per_token(layout.shape, length)
        peak_tflops = config.train.device_tflops
        return StepMetrics(
            step=outcome.ran.step,
            loss=outcome.loss,
            grad_norm=outcome.norm,
            lr=outcome.ran.lr,
            tokens=tokens,
            step_s=step_s,
            flops=flops,
            peak_memory_bytes=outcome.peak_bytes,
            global_bubble_predicted=self.predicted_bubble,
            global_bubble_measured=measure(self.measured[-1]).global_bubble_rate,
            mfu=flops / step_s / (peak_tflops * 1e12 * self.peers.ranks) if peak_tflops else None,
            group=self.tuner.group if self.tuner else None,
        )

    def _save(self, step: int) -> None:
        config, job = self.job.config, self.job
        state = TrainState(step, self.loader.state(), config.plain())
        with self.peers.busy(f"writing the checkpoint of step {step}"):
            save(
                job.checkpoints,
                training_tensors(self.part.parameters, self.optimizer),
                state,
                group=self.peers.group,
                keep=config.train.keep,
            )
