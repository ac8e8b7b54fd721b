"""Checkpoints that any pipeline layout can load, and that a kill at any moment leaves whole.

A checkpoint is a folder `step-00000010` with the tensors as PyTorch's distributed checkpoint writes
them, under names without a layout (`model.<name>`, `optim.<name>.exp_avg`), and a manifest. It is
written under the name `step-00000010.tmp-...`, synced to disk and then renamed, so a folder without
`.tmp-` in its name is complete. Functions with a `group` are called by all of its ranks.
"""

import difflib
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, islice
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.nn import Parameter
from torch.optim import AdamW

from longpipe.data.files import sync_folder
from longpipe.errors import CheckpointError
from longpipe.train.checkpoint_folder import (
    check_room,
    check_seen,
    is_whole,
    newest_first,
    newest_whole,
    remove,
    step_path,
)
from longpipe.train.checkpoint_folder import clean as clean
from longpipe.train.checkpoint_folder import latest as latest
from longpipe.train.manifest import (
    FileInfo,
    Manifest,
    TensorInfo,
    TrainState,
    check_files,
    describe_files,
    describe_tensors,
    read_manifest,
    write_manifest,
)
from longpipe.train.optim import optimizer_tensors
from longpipe.train.together import on_all, on_first

Group = dist.ProcessGroup | None


@dataclass(frozen=True, slots=True)
class Resumed:
    """What `resume` loaded."""

    path: Path
    state: TrainState
    passed_over: tuple[str, ...]
    """Why newer checkpoints were not taken; show this to the user."""


def training_tensors(parameters: Mapping[str, Parameter], optimizer: AdamW) -> dict[str, Tensor]:
    """All tensors of a rank that a checkpoint holds, under their names in it."""
    tensors: dict[str, Tensor] = {f"model.{name}": p for name, p in parameters.items()}
    state = optimizer_tensors(optimizer, parameters)
    return tensors | {f"optim.{name}": value for name, value in state.items()}


def save(
    folder: Path,
    tensors: Mapping[str, Tensor],
    state: TrainState,
    *,
    group: Group = None,
    keep: int = 2,
) -> Path:
    """Write the checkpoint of `state.step`, then remove all but the last `keep` up to it.

    Args:
        folder: of the run's checkpoints; seen by all ranks.
        tensors: this rank's; several ranks may hold one name if they hold the same values.
        state: the same on all ranks.
        group: ranks that hold the rest; None: this process holds everything.

    Raises:
        CheckpointError: on every rank, if any rank cannot write; older checkpoints are untouched.
    """
    sizes = on_all(group, lambda: {name: tensor.nbytes for name, tensor in tensors.items()})
    needed_bytes = sum({name: size for held in sizes for name, size in held.items()}.values())
    staging = Path(on_first(group, partial(_begin, folder, state.step)))
    try:
        on_first(group, partial(check_room, staging, needed_bytes))
        written = on_all(group, partial(_write, staging, tensors, group))
        on_first(group, partial(_publish, folder, staging, state, written))
    except CheckpointError as error:
        if group is None or group.rank() == 0:
            shutil.rmtree(staging, ignore_errors=True)
        why = _why_not_written(folder, state.step, needed_bytes, error)
        raise CheckpointError(why) from error
    target = step_path(folder, state.step)
    on_first(group, partial(_retain, target, keep))
    return target


def load(path: Path, tensors: Mapping[str, Tensor], *, group: Group = None) -> TrainState:
    """Verify a checkpoint and read it into the tensors that this rank holds now.

    Ranks and stages may be others than at the time of writing.

    Raises:
        CheckpointError: a file is damaged, or names, shapes or types are not those of the tensors.
    """
    return _load_verified(path, _verify(path, group), tensors, group)


def resume(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    group: Group = None,
    fall_back: bool = False,
) -> Resumed | None:
    """Load the newest checkpoint of a run; None if there is none.

    Args:
        folder, tensors, group: as in `save` and `load`.
        fall_back: if the newest is damaged, take the newest whole one instead of raising.

    Raises:
        CheckpointError: damaged (names the file and the newest whole checkpoint), or of another
            model.
    """
    passed_over: list[str] = []
    for path in on_first(group, lambda: list(newest_first(folder))):
        try:
            manifest = _verify(path, group)
        except CheckpointError as error:
            passed_over.append(str(error))
            if not fall_back:
                break
            continue
        state = _load_verified(path, manifest, tensors, group)
        return Resumed(path, state, tuple(passed_over))
    if not passed_over:
        return None
    whole = on_first(group, partial(newest_whole, folder))
    way_out = (
        f"The newest whole checkpoint is {whole}: set train.fall_back = true to go on from it"
        if whole
        else f"No checkpoint in {folder} is whole: start again in another train.out_dir"
    )
    raise CheckpointError(f"{'; '.join(passed_over)}. {way_out}")


def _begin(folder: Path, step: int) -> str:
    target = step_path(folder, step)
    if target.exists() and is_whole(target):
        raise CheckpointError(
            f"{target} exists and is whole: resume from it, or use another train.out_dir"
        )
    staging = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(
            f"{staging} cannot be made: {error.strerror or error}. Set train.out_dir to a folder "
            "on a disk with room"
        ) from error
    return str(staging)


def _write(
    staging: Path, tensors: Mapping[str, Tensor], group: Group
) -> tuple[dict[str, TensorInfo], dict[str, FileInfo]]:
    """Write this rank's part; says what it wrote."""
    with _quiet():
        dcp_save(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_writer=FileSystemWriter(staging, sync_files=True),
            process_group=group,
            no_dist=group is None,
        )
    rank = 0 if group is None else group.rank()
    own = [path.name for path in staging.glob(f"__{rank}_*")]
    return describe_tensors(tensors), describe_files(
        staging, [*own, ".metadata"] if rank == 0 else own
    )


def _publish(
    folder: Path,
    staging: Path,
    state: TrainState,
    written: list[tuple[dict[str, TensorInfo], dict[str, FileInfo]]],
) -> None:
    tensors: dict[str, TensorInfo] = {}
    files: dict[str, FileInfo] = {}
    for rank, (held, wrote) in enumerate(written):
        for name, info in held.items():
            if tensors.setdefault(name, info) != info:
                raise CheckpointError(
                    f"{name} is {info} on rank {rank}, but {tensors[name]} on an earlier rank"
                )
        check_seen(staging, wrote, rank)
        files |= wrote
    write_manifest(staging, Manifest(state, tensors, files))
    sync_folder(staging)
    target = step_path(folder, state.step)
    if target.exists():
        # `_begin` found it damaged; it makes room under a name that does not count as complete.
        remove(target)
    staging.rename(target)
    sync_folder(folder)


def _retain(newest: Path, keep: int) -> None:
    # Later steps than the newest are damaged ones that a resume passed over: they do not count.
    older = dropwhile(lambda path: path != newest, newest_first(newest.parent))
    for old in islice(older, keep, None):
        try:
            remove(old)
        except OSError as error:
            raise CheckpointError(
                f"the new checkpoint is written, but {old} cannot be removed: "
                f"{error.strerror or error}. Remove it, or set train.keep higher"
            ) from error


def _verify(path: Path, group: Group) -> Manifest:
    """Check every file, each on one of the ranks; all ranks agree."""
    manifest = on_first(group, lambda: read_manifest(path))
    rank, ranks = (0, 1) if group is None else (group.rank(), group.size())
    mine = dict(sorted(manifest.files.items())[rank::ranks])
    on_all(group, lambda: check_files(path, mine))
    return manifest


def _load_verified(
    path: Path, manifest: Manifest, tensors: Mapping[str, Tensor], group: Group
) -> TrainState:
    on_all(group, partial(_match, path, manifest.tensors, tensors))
    asked = set().union(*on_all(group, lambda: set(tensors)))
    if unasked := sorted(set(manifest.tensors) - asked):
        raise CheckpointError(
            f"{path} holds {len(unasked)} tensors that this model has not, such as {unasked[0]}: "
            "it is the checkpoint of another [model]"
        )
    on_all(group, partial(_read, path, tensors))
    return manifest.state


def _match(path: Path, held: Mapping[str, TensorInfo], tensors: Mapping[str, Tensor]) -> None:
    for name, info in describe_tensors(tensors).items():
        if name not in held:
            near = difflib.get_close_matches(name, held, n=1)
            hint = f" (it has {near[0]})" if near else ""
            raise CheckpointError(
                f"{path} has no tensor {name}{hint}: it is the checkpoint of another [model]"
            )
        if held[name] != info:
            raise CheckpointError(
                f"{path}: {name} is {held[name].dtype} of shape {list(held[name].shape)}, the run "
                f"needs {info.dtype} of shape {list(info.shape)}: [model] or train.precision differ"
            )


def _read(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Without collectives: each rank reads what it holds, in whatever layout was written.
    with _quiet():
        dcp_load(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_reader=FileSystemReader(path),
            no_dist=True,
        )


def _why_not_written(folder: Path, step: int, needed_bytes: int, error: CheckpointError) -> str:
    newest = latest(folder)
    kept = f"the newest whole checkpoint is still {newest}" if newest else "there is none before it"
    free_bytes = shutil.disk_usage(folder).free
    return (
        f"the checkpoint of step {step} could not be written to {folder}: {error}. "
        f"Its tensors take {needed_bytes} bytes, {free_bytes} bytes are free there; {kept}. "
        "Free some space and resume, or set train.out_dir to a disk with room"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """DCP warns that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
