"""Which ranks are there, and where do they meet? Reads what torchrun or Slurm has left.

Together with `launch`, the only code of the runtime that looks at the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from longpipe.errors import RunError
from longpipe.runtime.store import Store, prefixed, tcp_store


@dataclass(frozen=True, slots=True)
class Seat:
    """A rank's place among ranks that somebody else has started.

    `attempt` counts restarts, `step` the steps of a Slurm job: each meets under a name of its own,
    or it would read the addresses of processes that died, or of those beside it. `hosts` says
    whether this rank serves the store.
    """

    rank: int
    ranks: int
    local_rank: int
    local_ranks: int
    address: str
    port: int
    attempt: int
    hosts: bool
    step: int = 0

    def store(self, timeout_s: float) -> Store:
        """The key-value store that all ranks share."""
        shared = tcp_store(
            self.address, self.port, self.ranks, hosts=self.hosts, timeout_s=timeout_s
        )
        return prefixed(f"step_{self.step}_attempt_{self.attempt}", shared)


def find_seat(environment: Mapping[str, str]) -> Seat | None:
    """The seat that torchrun or Slurm has given this process; None if nobody has.

    Raises RunError where what they have left makes no seat.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if "SLURM_PROCID" in environment and _number(environment, "SLURM_NTASKS", 1) > 1:
        # a batch script has these too; only srun's tasks have a step
        if "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
            return None
        return _of_slurm(environment)
    return None


def _of_torchrun(environment: Mapping[str, str]) -> Seat:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            raise RunError(f"RANK and WORLD_SIZE are set but {name} is not: start with torchrun")
    rank = _number(environment, "RANK")
    agent_hosts = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Seat(
        rank=rank,
        ranks=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK", rank),
        local_ranks=_number(environment, "LOCAL_WORLD_SIZE", _number(environment, "WORLD_SIZE")),
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
        attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
        hosts=rank == 0 and not agent_hosts,
    )


def _of_slurm(environment: Mapping[str, str]) -> Seat:
    rank = _number(environment, "SLURM_PROCID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    address = environment.get("MASTER_ADDR") or first_host(nodes)
    # every task of a step works out the same port; two steps or jobs on a node seldom the same
    step = _number(environment, "SLURM_STEP_ID", 0)
    port = 20_000 + (_number(environment, "SLURM_JOB_ID", 0) + 1000 * step) % 20_000
    return Seat(
        rank=rank,
        ranks=_number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS")),
        local_rank=_number(environment, "SLURM_LOCALID", 0),
        local_ranks=_first_number(environment.get("SLURM_STEP_TASKS_PER_NODE", "1")),
        address=address,
        port=_number(environment, "MASTER_PORT", port),
        attempt=_number(environment, "SLURM_RESTART_COUNT", 0),
        hosts=rank == 0,
        step=step,
    )


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable's number; `default` where it is missing or empty, if there is one."""
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise RunError(
            f"{name} = {text!r} is not a number: start the ranks with torchrun or srun, which set "
            "it, or unset it to start them on this machine alone"
        ) from None


def _first_number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 1


def first_host(nodes: str) -> str:
    """The first name of a Slurm list of nodes.

    >>> first_host("gpu[07-09,12],login1"), first_host("node3")
    ('gpu07', 'node3')
    """
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if found is None:
        raise RunError("Slurm gives no list of nodes: set MASTER_ADDR to the host of rank 0")
    prefix, number, suffix = found.groups()
    return f"{prefix}{number or ''}{suffix}"
