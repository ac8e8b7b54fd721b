"""A whole training run: from a checked job to the report that it leaves behind."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch.optim import AdamW

from longpipe.data import Batch, Loader, Tokenizer
from longpipe.ir import Program
from longpipe.runtime import Boundary, Executor, Transport
from longpipe.runtime.launch import Launch, World, launch
from longpipe.runtime.trace import clock_offset_s
from longpipe.simulate import measure
from longpipe.train.candidates import first_group
from longpipe.train.checkpoint import clean, resume, training_tensors
from longpipe.train.config_changes import changes
from longpipe.train.connect import prove_alike, transports
from longpipe.train.console import Narrator
from longpipe.train.corpus import Corpus, open_corpus
from longpipe.train.export import export_model
from longpipe.train.interrupt import Interrupt, interruptible
from longpipe.train.job import Job
from longpipe.train.lock import sole_run
from longpipe.train.metrics import (
    JsonlSink,
    MetricsLog,
    MetricsSink,
    TensorBoardSink,
    console_sink,
)
from longpipe.train.optim import build_adamw
from longpipe.train.part import COMPUTE, Part, build_part
from longpipe.train.peers import Peers
from longpipe.train.post_validation import PostValidation
from longpipe.train.predict import Forecast, forecasts
from longpipe.train.report import (
    describe_candidates,
    describe_forecast,
    describe_job,
    read_report,
    write_report,
    write_setup,
)
from longpipe.train.trainer import Trainer
from longpipe.train.tuner import Tuner, Way
from longpipe.train.update import Update, update_of


def train(job: Job, *, joins: bool = False) -> str | None:
    """Run the job on local processes of its own or, with `joins`, as a rank that others started.

    Returns the report as text on the first rank (and where the processes were started here), else
    None, as where all steps were done already. Raises LongpipeError with the cause, whichever rank
    it came from.
    """
    config = job.config
    if not joins:
        with Narrator(sys.stdout).phase("preparing the data"):
            open_corpus(config.data)  # here all cores work on it, and faults come before a start
    options = Launch(
        ranks=config.pipeline.ranks,
        device=job.device,
        threads=config.train.threads,
        pin=config.train.pin,
        hang_timeout_s=config.train.hang_timeout_s,
    )
    text: str | None = launch(run_rank, job, options=options)
    return text


@dataclass(frozen=True, slots=True)
class _Rank:
    """What a rank has built before its first step."""

    world: World
    job: Job
    peers: Peers
    narrator: Narrator
    part: Part
    optimizer: AdamW
    tokenizer: Tokenizer | None
    loader: Loader
    sample: Batch
    boundary: Boundary
    transport: Transport
    chain: Transport  # for the rows of post-validation


def run_rank(world: World, job: Job) -> str | None:
    """One rank of the run; the first one returns the report.

    Raises KeyboardInterrupt where the user has stopped it; the last step is in a checkpoint. Raises
    RunError where another run is in the folder.
    """
    with sole_run(job.folder) if world.rank == 0 else nullcontext():
        return _run(world, job)


def _run(world: World, job: Job) -> str | None:
    narrator = Narrator(sys.stdout if world.rank == 0 else None)
    peers = Peers(world)
    narrator.say(describe_job(job))
    with peers.busy("setting up"):
        rank = _set_up(world, job, peers, narrator)
    try:
        done = _resume(rank)
        if done >= job.config.train.steps:
            narrator.say(read_report(job, done))
            return None
        with narrator.phase("measuring what each op costs"), peers.busy("measuring costs"):
            by_group = forecasts(world, job, rank.part, rank.transport, rank.boundary, rank.sample)
        found = by_group[first_group(job.config)]
        if world.rank == 0:
            narrator.say(describe_forecast(found))
            if job.layout.candidates:
                narrator.say(describe_candidates(job, by_group))
            write_setup(job, found)
        world.watchdog.progress.step = done
        sinks = _sinks(job, done) if world.rank == 0 else []
        with interruptible() as interrupt, MetricsLog(sinks) as log:
            trainer = _trainer(rank, by_group, interrupt)
            done = trainer.run(log, done)
        found = trainer.tuner.way.forecast if trainer.tuner else found
        report = None
        if found.rehearsed is not None:  # the first rank; a run may stop before a step is measured
            report = write_report(job, found, trainer.measured or [found.rehearsed])
        if done < job.config.train.steps:
            narrator.say(f"stopped after step {done}, as asked; the same command goes on from it")
            raise KeyboardInterrupt
        if job.config.train.export:
            export_model(job, rank.part, rank.tokenizer, peers)
        return report
    finally:
        rank.transport.close()
        rank.chain.close()


def _set_up(world: World, job: Job, peers: Peers, narrator: Narrator) -> _Rank:
    """Data, model, optimizer and connections, and the proof that all ranks mean the same."""
    config, layout = job.config, job.layout
    plan, placement = layout.plan, layout.program.placement
    with narrator.phase("opening the data"):
        corpus = _open_corpus(peers, job)
    with narrator.phase("building the model"):
        part = build_part(config, job.model, plan.layers, placement, world.rank, world.device)
        part.zero_gradients()
    boundary = Boundary(
        config.train.microbatch_size,
        job.model.hidden,
        plan.segments,
        COMPUTE[config.train.precision],
        world.device,
    )
    loader = Loader(corpus.rows, config.data.seed)
    prove_alike(world, job, boundary, str(loader.state()["data"]))
    transport, chain = transports(world, job, peers)
    return _Rank(
        world=world,
        job=job,
        peers=peers,
        narrator=narrator,
        part=part,
        optimizer=build_adamw(part.parameters, config.optim),
        tokenizer=corpus.tokenizer,
        loader=loader,
        sample=Loader(corpus.rows, config.data.seed).next_batch(
            config.pipeline.microbatches, config.train.microbatch_size
        ),
        boundary=boundary,
        transport=transport,
        chain=chain,
    )


def _open_corpus(peers: Peers, job: Job) -> Corpus:
    """The first rank makes and checks the token files; the others open what it has made."""
    data = job.config.data
    made: list[Corpus] = []

    def prepare() -> None:
        if peers.rank == 0:
            made.append(open_corpus(data))

    peers.on_all(prepare, "preparing the data")
    return made[0] if made else open_corpus(data, verify=False)


def _resume(rank: _Rank) -> int:
    """Steps done by the checkpoint that this run goes on from; 0 without one."""
    job, config = rank.job, rank.job.config
    if not config.train.resume:
        return 0
    tensors = training_tensors(rank.part.parameters, rank.optimizer)
    with rank.narrator.phase("looking for a checkpoint"), rank.peers.busy("resuming"):
        if rank.world.rank == 0:
            clean(job.checkpoints)
        found = resume(
            job.checkpoints,
            tensors,
            group=rank.peers.group,
            fall_back=config.train.fall_back,
        )
    if found is None:
        return 0
    rank.loader.load_state(found.state.loader)
    rank.part.refresh()
    for why in found.passed_over:
        rank.narrator.say(f"passed over: {why}")
    rank.narrator.say(f"going on after step {found.state.step}, from {found.path}")
    if changed := changes(found.state.config, config.plain()):
        what = "\n  ".join(
            ("the configuration is not the one that wrote this checkpoint:", *changed)
        )
        rank.narrator.say(f"note: {what}")
    return found.state.step


def _trainer(rank: _Rank, by_group: Mapping[int, Forecast], interrupt: Interrupt) -> Trainer:
    job, world = rank.job, rank.world
    update = update_of(job, rank.peers, rank.part, rank.optimizer, rank.narrator.say)
    tuner, group = None, first_group(job.config)
    if job.layout.candidates:
        ways = {
            each: Way(program, _executor(rank, program), by_group[each])
            for each, program in job.layout.candidates.items()
        }
        tuner = Tuner(ways, group, job.config.tune.every, job.config.tune.hysteresis)
    return Trainer(
        job=job,
        world=world,
        peers=rank.peers,
        part=rank.part,
        executor=tuner.way.executor if tuner else _executor(rank, job.layout.program),
        optimizer=rank.optimizer,
        loader=rank.loader,
        say=rank.narrator.say,
        predicted_bubble=measure(by_group[group].predicted).global_bubble_rate,
        clock_offset_s=clock_offset_s(world.store, world.rank, world.ranks),
        interrupt=interrupt,
        update=update,
        post=_post_validation(rank, update),
        tuner=tuner,
    )


def _post_validation(rank: _Rank, update: Update) -> PostValidation | None:
    optim, peers = rank.job.config.optim, rank.peers
    if not optim.post_validation:
        return None
    if peers.ranks == 1:
        rank.narrator.say(
            "optim.post_validation: one rank waits for no other, so it changes nothing"
        )
        return None
    tensors = training_tensors(rank.part.parameters, rank.optimizer)
    return PostValidation.over(
        peers, rank.chain, update, tensors.values(), after=optim.post_validation_after
    )


def _executor(rank: _Rank, program: Program) -> Executor:
    watchdog = rank.world.watchdog
    return Executor(
        program,
        rank.world.rank,
        rank.part.stages,
        rank.transport,
        rank.boundary,
        progress=watchdog.progress,
        blame=watchdog.blame,
    )


def _sinks(job: Job, done: int) -> list[MetricsSink]:
    train = job.config.train
    sinks: list[MetricsSink] = [JsonlSink(job.folder / "metrics.jsonl", done)]
    if train.tensorboard:
        sinks.append(TensorBoardSink(job.folder / "tensorboard", done))
    return [*sinks, console_sink(sys.stdout, train.steps, done)]
