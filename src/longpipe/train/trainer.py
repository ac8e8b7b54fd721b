"""The steps of a run, as one rank sees them."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from torch.optim import AdamW

from longpipe.cost.flops import training_flops_per_token
from longpipe.data import Loader
from longpipe.errors import RunError
from longpipe.ir import Program, Timeline
from longpipe.runtime import Executor, StepResult
from longpipe.runtime.launch import World
from longpipe.runtime.trace import gather_timeline
from longpipe.simulate import measure, title
from longpipe.train.checkpoint import latest, save, training_tensors
from longpipe.train.interrupt import Interrupt
from longpipe.train.job import Job
from longpipe.train.manifest import TrainState
from longpipe.train.metrics import MetricsLog, StepMetrics, peak_memory_bytes
from longpipe.train.optim import clip_grad_norm, learning_rate, set_learning_rate
from longpipe.train.part import Part, microbatches
from longpipe.train.peers import Peers
from longpipe.train.tuner import Tuner

# The report shows a typical one of the last steps, not an outlier; bounded, for memory's sake.
_KEPT_TIMELINES = 64
_KEPT_EVENTS = 500_000


@dataclass(slots=True)
class Trainer:
    """Batch, pipeline, clipping, optimizer, metrics, checkpoint: again and again.

    `say` speaks to people, on one rank; `clock_offset_s` brings this rank's times onto rank 0's
    clock. Rank 0 keeps the measured timelines of the last steps that were logged, all of them of
    the program that runs now; a `tuner` may change it between steps.
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
    tuner: Tuner | None = None
    program: Program = field(init=False)
    measured: deque[Timeline] = field(init=False)
    _stops: bool = False

    def __post_init__(self) -> None:
        self.program = self.job.layout.program
        ops = sum(map(len, self.program.rows))
        self.measured = deque(maxlen=max(1, min(_KEPT_TIMELINES, _KEPT_EVENTS // ops)))

    def run(self, log: MetricsLog, done: int) -> int:
        """Go on after `done` steps until the run's end or an interrupt; return the steps done.

        Raises:
            RunError: a rank failed, or a loss or gradient is not finite and the policy is to stop.
            CheckpointError: a checkpoint cannot be written.
        """
        train = self.job.config.train
        step = done
        while step < train.steps and not self._stops:
            step += 1
            metrics = self._step(step)
            if metrics is not None:
                log.write(metrics)
            if self._tunes(step):
                self._tune(step, log)
            due = train.checkpoint_every and step % train.checkpoint_every == 0
            if due or self._stops or step == train.steps:
                self._save(step)
        return step

    def _step(self, step: int) -> StepMetrics | None:
        """Step number `step`, the first is 1; its metrics on rank 0, if it is one to log."""
        config = self.job.config
        started_s = perf_counter()
        batch = self.loader.next_batch(config.pipeline.microbatches, config.train.microbatch_size)
        scale = 1.0 / max(1, batch.global_valid_tokens)
        self.part.zero_gradients()
        result = self.executor.run_step(microbatches(batch, self.world.device), scale)
        with self.peers.waiting(f"the gradients of step {step}"):
            self.part.sum_tied()
            norm = clip_grad_norm(
                self.part.parameters,
                config.optim.clip_norm,
                group=self.peers.group,
                counted_elsewhere=self.part.counted_elsewhere,
            )
        loss_sum = 0.0 if result.loss_sum is None else float(result.loss_sum)
        mine = (loss_sum, float(peak_memory_bytes(self.world.device)), float(self.interrupt.asked))
        shared = self.peers.share(mine, f"the loss of step {step}")
        losses, peaks, asked = zip(*shared, strict=True)
        self._stops = any(asked)
        loss = sum(losses) * scale
        lr = learning_rate(step - 1, config.optim, config.train.steps)
        if math.isfinite(loss) and math.isfinite(norm):
            set_learning_rate(self.optimizer, lr)
            self.optimizer.step()
            self.part.refresh()
        else:
            self._not_finite(step, loss, norm)
        logged = not step % config.train.log_every or step == config.train.steps or self._stops
        if not logged and not self._tunes(step):
            return None
        step_s = perf_counter() - started_s
        timeline = self._timeline(step, result)
        if timeline is None:
            return None
        self.measured.append(timeline)
        if not logged:
            return None
        return self._metrics(step, loss, norm, lr, step_s, int(max(peaks)))

    def _tunes(self, step: int) -> bool:
        """Whether the tuner looks at the steps after this one."""
        last = step == self.job.config.train.steps or self._stops
        return self.tuner is not None and self.tuner.due(step) and not last

    def _tune(self, step: int, log: MetricsLog) -> None:
        """Go on in the order that the first rank chooses; on all ranks alike."""
        tuner = self.tuner
        assert tuner is not None, "the caller has asked"
        decision = self.peers.on_first(
            lambda: tuner.look(step, self.measured), "looking at what messages take"
        )
        log.note(decision)
        if decision.switches:
            way = tuner.follow(decision)
            self.program, self.executor = way.program, way.executor
            self.predicted_bubble = measure(way.forecast.predicted).global_bubble_rate
            self.measured.clear()

    def _timeline(self, step: int, result: StepResult) -> Timeline | None:
        """What happened on all ranks in this step, at rank 0."""
        program, world = self.program, self.world
        with self.peers.waiting(f"the times of step {step}"):
            found = gather_timeline(
                program,
                result.events(),
                world.store,
                world.rank,
                key=f"step {step}",
                offset_s=self.clock_offset_s,
            )
        return found and replace(found, name=title(program))

    def _metrics(
        self, step: int, loss: float, norm: float, lr: float, step_s: float, peak_bytes: int
    ) -> StepMetrics:
        config, layout = self.job.config, self.job.layout
        length = config.data.sequence_length
        tokens = config.pipeline.microbatches * config.train.microbatch_size * length
        flops = tokens * training_flops_per_token(layout.shape, length)
        peak_tflops = config.train.device_tflops
        return StepMetrics(
            step=step,
            loss=loss,
            grad_norm=norm,
            lr=lr,
            tokens=tokens,
            step_s=step_s,
            flops=flops,
            peak_memory_bytes=peak_bytes,
            global_bubble_predicted=self.predicted_bubble,
            global_bubble_measured=measure(self.measured[-1]).global_bubble_rate,
            mfu=flops / step_s / (peak_tflops * 1e12 * self.peers.ranks) if peak_tflops else None,
            group=self.tuner.group if self.tuner else None,
        )

    def _not_finite(self, step: int, loss: float, norm: float) -> None:
        """Stop or go on without the update, as the config says; all ranks alike."""
        bad = (
            name
            for name, parameter in self.part.parameters.items()
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all())
        )
        found = self.peers.gather(next(bad, None), "looking for numbers that are not finite")
        where = next(
            (
                f", first on rank {rank} in the gradient of {name}"
                for rank, name in enumerate(found)
                if name is not None
            ),
            "",
        )
        text = f"step {step}: loss {loss:g}, gradient norm {norm:g}{where}"
        if self.job.config.train.nan_policy == "skip":
            self.say(f"{text}: the update is left out (train.nan_policy = skip)")
            return
        newest = latest(self.job.checkpoints)
        kept = (
            f"The newest checkpoint, {newest}, is complete" if newest else "No checkpoint was due"
        )
        raise RunError(
            f"{text}. {kept}; the weights have not been touched by this step. Lower optim.lr, look "
            'at the data of this step, or set train.nan_policy = "skip" to leave such updates out'
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
