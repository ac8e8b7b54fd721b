"""Stops every rank when one fails, and says which message, from whom, and why.

Two daemon threads per rank. One talks to the store: each POLL_S it publishes where its rank
stands and looks for a reason to stop that another rank gave. The other never touches the store
and so can tell when that does not answer; it ends the process when the main thread is stuck.

Bounds, from the fault to the end of every process, given that these are scheduled at all:
- a rank raises: POLL_S + GRACE_S
- a rank is killed: the op that a neighbour is running, then POLL_S + GRACE_S; SILENT_S more
  between machines, where a process cannot be looked up
- a rank hangs in a step while others wait for it, or is stopped at any time: hang_timeout_s +
  SILENT_S + GRACE_S + 2 POLL_S. Outside steps (set-up, checkpoints) honest work has no limit
- the process that hosts the store dies or stops: STORE_SILENT_S + GRACE_S + 2 POLL_S
"""

import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from threading import Event, Thread
from time import monotonic, sleep

from longpipe.errors import RunError
from longpipe.runtime.processes import Identity, State
from longpipe.runtime.progress import Progress
from longpipe.runtime.ranks import Places, Sign, Suspects, judge
from longpipe.runtime.store import Store

POLL_S = 0.5  # between two looks
SILENT_S = 5.0  # a rank that has published nothing for so long is taken for dead or stopped
STORE_SILENT_S = 10.0  # so long the store may take to answer
GRACE_S = 5.0  # from the report until the process is ended, for the main thread to stop by itself
EXIT_CODE = 75


class Watchdog:
    """Watches over this rank, and over those that it waits for.

    `store` is shared by all ranks and used for nothing else (a PrefixStore). `on_exit` is called
    with the report right before the process is ended.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        ranks: int,
        *,
        hang_timeout_s: float = 300.0,
        on_exit: Callable[[str], None] | None = None,
    ) -> None:
        self.progress = Progress()
        self._store = store
        self._rank = rank
        self._ranks = ranks
        self._hang_timeout_s = hang_timeout_s
        self._on_exit = on_exit
        self._own = Identity.own()
        self._peers: dict[int, Identity] = {}
        self._places = Places()
        self._suspects = Suspects()
        self._read_s = 0.0  # when the last look at the others' places began
        self._closed = Event()
        self._suspicious = Event()  # asks the talking thread to read the others' places
        self._reason: str | None = None
        self._announcement: str | None = None  # what the talking thread should tell the others
        self._store_error: str | None = None
        self._answered_s = monotonic()
        self._moved_s = monotonic()

    def start(self) -> None:
        """Meet the other ranks and begin to watch; every rank calls it."""
        self._store.set(f"who/{self._rank}", json.dumps(self._own.to_json()))
        for rank in range(self._ranks):
            try:
                who = json.loads(self._store.get(f"who/{rank}"))
            except RuntimeError as error:
                raise RunError(f"rank {rank} of {self._ranks} did not arrive: {error}") from error
            self._peers[rank] = Identity.from_json(who)
        self._answered_s = self._moved_s = monotonic()
        for name, target in (("talks", self._talk), ("watches", self._watch)):
            Thread(target=target, name=f"longpipe {name}", daemon=True).start()

    def leave(self) -> None:
        """Say that this rank has done its work, before others may see its end."""
        self._store.set(f"left/{self._rank}", "")

    def close(self) -> None:
        """Stop watching: this rank has ended well, or is about to raise."""
        self._closed.set()

    @property
    def reason(self) -> str | None:
        """Why all ranks stop, once one of them has said so."""
        return self._reason

    def blame(self, text: str) -> str:
        """Turn the failure `text` of this rank into one that names the true cause; tell the others.

        A broken connection is the trace of another rank's end: its reason is looked for first.
        Blocks up to SILENT_S.
        """
        if self._reason is None and self.progress.waiting is not None:
            self._suspicious.set()
            deadline_s = monotonic() + SILENT_S + 2 * POLL_S
            while self._reason is None and monotonic() < deadline_s:
                if (rank := self._dead_rank()) is not None:
                    self._await_places()
                    text = f"{self._obituary(rank)} Seen by {text}"
                    break
                sleep(POLL_S / 5)
        return self._publish(text) if self._reason is None else self._reason

    def stop_all(self, text: str) -> str:
        """Tell every rank to stop because of `text`; return the reason that came first."""
        return self._publish(text) if self._reason is None else self._reason

    def told_to_stop(self) -> None:
        """This process got SIGTERM: find out why, then stop. Blocks up to a few seconds.

        A launcher sends it as soon as one rank has died, before the others may have noticed.
        """
        self._suspicious.set()
        deadline_s = monotonic() + 4 * POLL_S
        while self._reason is None and monotonic() < deadline_s:
            if (rank := self._dead_rank()) is not None:
                self._await_places()
                if self._reason is None:  # that rank may have told why it ended
                    text = f"{self._obituary(rank)} {self._seen_by()}"
                    self._announcement = self._reason = text
                return
            sleep(POLL_S / 5)
        if self._reason is None:
            self._reason = f"SIGTERM, from outside or the launcher. {self._seen_by()}"

    def _seen_by(self) -> str:
        """This rank's place, as the witness of a fault elsewhere."""
        wait = self.progress.waiting
        waiting = "" if wait is None else f", waiting for {wait.what}"
        if wait is not None and wait.rank is not None:
            waiting += f" from rank {wait.rank}"
        return f"Seen by rank {self._rank} at {self.progress.place()}{waiting}"

    def _publish(self, text: str) -> str:
        """The reason that all ranks go by: the first that anybody gave."""
        try:
            self._reason = self._store.compare_set("stop", "", text).decode()
        except RuntimeError as error:  # the store is gone: say what this rank knows
            self._reason = f"{text} (the other ranks could not be told: {error})"
        return self._reason

    def _talk(self) -> None:
        store = self._store.clone()
        beat = 0
        place = ""
        while not self._closed.wait(POLL_S):
            now_place = f"{self.progress.step} {self.progress.position} {self.progress.place()}"
            if now_place != place:
                place, self._moved_s = now_place, monotonic()
            beat += 1
            began_s = monotonic()
            sign = Sign.of(self.progress, beat, monotonic() - self._moved_s)
            try:
                store.set(f"at/{self._rank}", sign.to_json())
                if self._announcement is not None:
                    store.compare_set("stop", "", self._announcement)
                    self._announcement = None
                if self._reason is None and store.check(["stop"]):
                    self._reason = store.get("stop").decode()
                if self._suspicious.is_set() or self._suspects:
                    self._read_places(store, range(self._ranks))
                else:  # each rank is in the eye of the one before it
                    self._read_places(store, [(self._rank + 1) % self._ranks])
            except RuntimeError as error:
                self._store_error = str(error)
                return
            self._read_s, self._answered_s = began_s, monotonic()

    def _read_places(self, store: Store, ranks: Iterable[int]) -> None:
        for rank in ranks:
            if store.check([f"left/{rank}"]):
                self._places.left.add(rank)
            key = f"at/{rank}"
            if store.check([key]):
                self._places.note(rank, Sign.from_json(store.get(key)), monotonic())

    def _watch(self) -> None:
        looked_s = monotonic()
        while not self._closed.wait(POLL_S):
            now_s = monotonic()
            if now_s - looked_s > SILENT_S:  # this process was stopped itself: all start afresh
                self._answered_s = self._moved_s = now_s
                self._suspects.forget()
            looked_s = now_s
            if self._reason is None:
                found = self._own_reason()
                self._reason = self._reason or found
            if self._reason is not None:
                self.progress.stop = self._reason
                self._end(self._reason)

    def _own_reason(self) -> str | None:
        """A fault that this rank finds by itself, if there is one now."""
        now_s = monotonic()
        if self._store_error or now_s - self._answered_s > STORE_SILENT_S:
            return self._lost_store()
        waited_s = now_s - self._moved_s
        if self.progress.waiting is None:
            return self._lifeless_rank(now_s)
        # read the others' places early enough to know, in time, who has fallen silent
        if waited_s > self._hang_timeout_s - SILENT_S - 2 * POLL_S:
            self._suspicious.set()
        late_s = waited_s - self._hang_timeout_s
        if late_s < 0 or (late_s < SILENT_S and not self._places.complete(self._ranks)):
            return None
        states = {rank: who.state(self._own) for rank, who in self._peers.items()}
        verdict = judge(self._rank, self._places, states, now_s, SILENT_S)
        self._announcement = verdict.text
        self._kill_lifeless(verdict.culprit)
        return verdict.text

    def _lifeless_rank(self, now_s: float) -> str | None:
        """What to say of a rank that will never go on, though this one does not wait for it yet."""
        states = {rank: who.state(self._own) for rank, who in self._peers.items()}
        rank = self._suspects.find(
            self._places,
            states,
            now_s,
            read_s=self._read_s,
            timeout_s=self._hang_timeout_s,
            silent_s=max(self._hang_timeout_s, SILENT_S),
        )
        if rank is None:
            return None
        state = states[rank]
        what = state if state is State.STOPPED else "silent: it gives no sign of life"
        told = f"rank {rank} is {what}; last seen {self._places.sign(rank)}."
        told = f"{self._obituary(rank) if state is State.GONE else told} {self._seen_by()}"
        self._announcement = told
        self._kill_lifeless(rank)
        return told

    def _await_places(self) -> None:
        """Let the talking thread look once more for a reason, and read where everybody was."""
        asked_s = monotonic()
        while monotonic() < asked_s + 2 * POLL_S:
            if self._answered_s > asked_s and self._places.complete(self._ranks):
                return
            sleep(POLL_S / 10)

    def _lost_store(self) -> str:
        cause = (
            "the process that holds the ranks' store (rank 0, or the launcher) has died, has "
            "stopped, or cannot be reached."
        )
        if (dead := self._dead_rank()) is not None:
            cause = self._obituary(dead)
        error = f" ({self._store_error})" if self._store_error else ""
        return f"{cause} {self._seen_by()}{error}"

    def _dead_rank(self) -> int | None:
        """A rank that is surely dead or, seen from another machine, silent for SILENT_S."""
        now_s = monotonic()
        for rank, who in self._peers.items():
            state = who.state(self._own)
            silent = self._places.silence_s(rank, now_s) > SILENT_S
            if state is State.GONE or (state is State.UNKNOWN and silent):
                return rank
        return None

    def _obituary(self, rank: int) -> str:
        sign = self._places.sign(rank)
        last = f", last seen at {sign.place}" if sign else ""
        return f"rank {rank} (process {self._peers[rank].pid}) died{last}."

    def _kill_lifeless(self, rank: int | None) -> None:
        """A rank that cannot end itself must not outlive the run; possible on this machine only."""
        if rank is None or rank == self._rank:
            return
        state = self._peers[rank].state(self._own)
        silent = self._places.silence_s(rank, monotonic()) > SILENT_S
        if state is State.STOPPED or (state is State.RUNNING and silent):
            os.kill(self._peers[rank].pid, signal.SIGKILL)

    def _end(self, reason: str) -> None:
        """Give the main thread GRACE_S to stop by itself, then end the process."""
        if self._closed.wait(GRACE_S):
            return
        sys.stderr.write(f"longpipe: rank {self._rank} ends: {reason}\n")
        if self.progress.step_runs and self.progress.waiting is None:  # where does it hang?
            faulthandler.dump_traceback(all_threads=True)
        sys.stdout.flush()
        sys.stderr.flush()
        if self._on_exit is not None:
            self._on_exit(reason)
        os._exit(EXIT_CODE)
