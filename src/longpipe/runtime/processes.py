"""Is another rank's process alive? Known for certain on the same machine, through /proc."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class State(StrEnum):
    """What is known of a process."""

    RUNNING = "running"
    STOPPED = "stopped by a signal (SIGSTOP, or a debugger)"
    GONE = "dead: there is no such process any more"
    UNKNOWN = "on another machine"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, so that a later one with the same number is not taken for it.

    `machine` is the boot and the process namespace, empty where /proc is missing; `started` the
    start time in the kernel's ticks.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def own(cls) -> "Identity":
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Identity":
        """The process of this machine that has the number now."""
        fields = _stat(pid)
        if _stat(os.getpid()) is None:  # no /proc
            return cls("", pid, "")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
        return cls(machine, pid, fields[1] if fields else "")

    @classmethod
    def from_json(cls, fields: Any) -> "Identity":
        """From what `to_json` gave."""
        machine, pid, started = fields
        return cls(machine, pid, started)

    def to_json(self) -> tuple[str, int, str]:
        """Plain values."""
        return self.machine, self.pid, self.started

    def state(self, own: "Identity") -> State:
        """How the process is, seen from process `own`."""
        if not self.machine or self.machine != own.machine:
            return State.UNKNOWN
        fields = _stat(self.pid)
        if fields is None or fields[1] != self.started or fields[0] in "ZX":
            return State.GONE
        return State.STOPPED if fields[0] in "Tt" else State.RUNNING


def _stat(pid: int) -> tuple[str, str] | None:
    """(state letter, start time) of a process; None if there is none, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # the command name, in parentheses, may hold blanks and parentheses itself
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]
