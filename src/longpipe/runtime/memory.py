"""Bytes of tensors alive: what a stage really holds between its ops."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class MemoryMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensor storages allocated inside it that are still alive (on the CPU).

    Works for any code that runs on this thread, backward included, and costs some microseconds
    per torch operator. What lies outside PyTorch's tensors (workspaces inside a kernel) is not
    seen. Tensors made before, such as parameters and gradients, do not count.

    >>> import torch
    >>> with MemoryMeter() as meter:
    ...     kept = (torch.ones(100) * 2).exp()
    >>> meter.current_bytes, meter.peak_bytes
    (400, 800)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: dict[int, int] = {}  # id of a storage -> bytes
        self._current = 0
        self._peak = 0

    @property
    def current_bytes(self) -> int:
        """Bytes alive now."""
        return self._current

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive since the last `reset_peak`."""
        return self._peak

    def reset_peak(self) -> None:
        """Start a new peak at what is alive now."""
        self._peak = self._current

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operator and note the storages that it has made."""
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_iter(result) if isinstance(t, torch.Tensor)]
        if made:
            old = {id(_storage(t)) for t in tree_iter((args, kwargs)) if _on_host(t)}
            for tensor in made:
                if _on_host(tensor):
                    self._note(_storage(tensor), old)
        return result

    def _note(self, storage: torch.UntypedStorage, old: set[int]) -> None:
        key = id(storage)
        size = storage.nbytes()
        if key in self._alive:
            if self._alive[key] != size:  # resized in place
                self._grow(size - self._alive[key])
                self._alive[key] = size
            return
        if key in old or not size:
            return
        self._alive[key] = size
        self._grow(size)
        weakref.finalize(storage, self._forget, key).atexit = False

    def _grow(self, size: int) -> None:
        self._current += size
        self._peak = max(self._peak, self._current)

    def _forget(self, key: int) -> None:
        self._current -= self._alive.pop(key)


class CudaMeter:
    """The same figures from the allocator of a GPU, above what was allocated on entry."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._base = 0

    def __enter__(self) -> Self:
        self._base = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to give back."""

    @property
    def current_bytes(self) -> int:
        """Bytes allocated now, above those on entry."""
        return torch.cuda.memory_allocated(self._device) - self._base

    @property
    def peak_bytes(self) -> int:
        """Most bytes since the last `reset_peak`, above those on entry."""
        return torch.cuda.max_memory_allocated(self._device) - self._base

    def reset_peak(self) -> None:
        """Start a new peak at what is allocated now."""
        torch.cuda.reset_peak_memory_stats(self._device)


def meter_for(device: torch.device) -> MemoryMeter | CudaMeter:
    """The meter that suits the device; use it as a context."""
    return CudaMeter(device) if device.type == "cuda" else MemoryMeter()


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _on_host(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"
