"""Mutants of whole roles, for the simulator: what they get wrong shows only when something fails."""

from __future__ import annotations

from serving.align import Accountant
from serving.align.ledger import Closed, Posted, TimelineLedger
from serving.frames import Outcome
from serving.testing.mutants.keys import ARRIVAL, LATE_ON_NEWEST, NO_EPOCH, ONE_PIPELINE
from serving.testing.mutants.rules import WALL_CLOCK
from serving.testing.simulator.log import Committed
from serving.testing.simulator.system import SimParts
from serving.testing.simulator.worker import Worker, _Share


class _LastArrivalLedger(TimelineLedger):
    """The outcome that came last is recorded."""

    def post(self, seq: int, pipeline: str, pts_ns: int | None, outcome: Outcome) -> Posted:
        if pipeline in self.pipelines and self.closed_below <= seq < self.next_seq:
            entry = self._entries[seq - self.closed_below]
            if pipeline in entry.outcomes and pipeline not in entry.closed:
                known = entry.outcomes.pop(pipeline)
                self._counts[pipeline][known.status, known.reason] -= 1
        return super().post(seq, pipeline, pts_ns, outcome)


class _LastArrivalAccountant(Accountant):
    ledger_class = _LastArrivalLedger


class _OpenLedger(TimelineLedger):
    """Closing is kept in memory only."""

    def restore(self, closed: Closed) -> None:
        return None


class _ForgetfulAccountant(Accountant):
    ledger_class = _OpenLedger


class _EagerWorker(Worker):
    """Commits what it has read, before the outcomes are on the log."""

    def _advance(self, partition: int, share: _Share) -> None:
        share.base = share.consumer.position
        share.done.clear()
        self._commit(partition, share, Committed(share.base))


class _ForgetfulWorker(Worker):
    """Counts attempts in memory."""

    def assigned(self, partitions: list[int], generation: int) -> None:
        super().assigned(partitions, generation)
        for partition in partitions:
            self.shares[partition].trying = None


SYSTEM_MUTANTS: dict[str, SimParts] = {
    "arrival": SimParts(mixer=ARRIVAL.mixer),
    "late_on_newest": SimParts(mixer=LATE_ON_NEWEST.mixer),
    "no_epoch": SimParts(mixer=NO_EPOCH.mixer),
    "one_pipeline": SimParts(mixer=ONE_PIPELINE.mixer),
    "wall_clock": SimParts(mixer=WALL_CLOCK.mixer),
    "last_arrival": SimParts(accountant=_LastArrivalAccountant),
    "close_in_memory": SimParts(accountant=_ForgetfulAccountant),
    "commit_before_outcome": SimParts(worker=_EagerWorker),
    "attempts_in_memory": SimParts(worker=_ForgetfulWorker),
}
