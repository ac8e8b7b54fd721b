"""The few things asked of a torch.distributed key-value store, and how one is made."""

import json
from datetime import timedelta
from typing import Any, Protocol, cast

import torch.distributed

from longpipe.errors import RunError

# So long ranks wait for one that works outside a step, such as on the tokens of a large corpus.
# Not for one that has died or was stopped: the watchdog ends the run.
PATIENCE_S = 86_400.0

# torch does not declare its stores as exported, and their stubs miss `clone`.
_torch: Any = torch.distributed


class Store(Protocol):
    """A `torch.distributed.Store` (TCPStore, PrefixStore, HashStore)."""

    def set(self, key: str, value: str) -> None:
        """Write a key."""
        ...

    def get(self, key: str) -> bytes:
        """Read a key; block until it is there, or raise after the store's timeout."""
        ...

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        """Block until all keys are there, or raise after `timeout`."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Whether all keys are there; does not block."""
        ...

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """Write a key if its value is `expected` ("": if it is not there); return its value."""
        ...

    def delete_key(self, key: str) -> bool:
        """Forget a key."""
        ...

    def clone(self) -> "Store":
        """The same store over a connection of its own, for another thread."""
        ...


def tcp_store(address: str, port: int, ranks: int, *, hosts: bool, timeout_s: float) -> Store:
    """A store over TCP; the rank that `hosts` serves it as long as it lives.

    Raises RunError where it cannot be served, or does not answer within `timeout_s`.
    """
    timeout = timedelta(seconds=timeout_s)
    try:
        made = _torch.TCPStore(address, port, ranks, hosts, timeout=timeout, wait_for_workers=False)
    except RuntimeError as error:
        what = "cannot be served here" if hosts else "does not answer"
        raise RunError(
            f"the store of the ranks at {address}, port {port}, {what}: set MASTER_ADDR to the "
            f"host of rank 0, and MASTER_PORT to a port that is free there ({error})"
        ) from error
    return cast(Store, made)


def process_store() -> Store:
    """A store within this process, for one rank or for ranks that are threads."""
    return cast(Store, _torch.HashStore())


def prefixed(prefix: str, store: Store) -> Store:
    """The part of a store whose keys begin with a prefix."""
    return cast(Store, _torch.PrefixStore(prefix, store))


def exchange(store: Store, key: str, rank: int, ranks: int, value: Any) -> list[Any]:
    """The JSON values of all ranks, in order of rank; every rank calls it.

    A rank may come late by whatever it does before, and the store's own timeout does not count.

    Once for each `key`, or RunError: a second call would read the values of the first. Give a
    `prefixed` store to what exchanges values again.
    """
    if store.check([f"{key}/{rank}"]):
        raise RunError(f"{key!r} has been exchanged already: use another prefix of the store")
    store.set(f"{key}/{rank}", json.dumps(value))
    store.wait([f"{key}/{other}" for other in range(ranks)], timedelta(seconds=PATIENCE_S))
    return [json.loads(store.get(f"{key}/{other}")) for other in range(ranks)]
