"""The history checker: what must hold after every run, whatever struck it (docs/guarantees.md)."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from serving.align import Accountant, merge
from serving.align.accountant import OutcomeRecord
from serving.frames import DroppedRun, Frame, FrameRecord, LedgerKey, Outcome, Status

if TYPE_CHECKING:
    from serving.testing.simulator.roles import MixerRole
    from serving.testing.simulator.system import System


MOST_ENDED = 6  # three attempts; a zombie or a second ingester may make them twice
LONGEST_READ_NS = 15_000_000_000  # the accountant may be stopped, killed, or without a broker for so long
_STATUSES = [Status.RESULT, Status.DROPPED, Status.DEAD_LETTER]


def check(system: System) -> tuple[list[str], Counter[str]]:
    """(what went wrong, how often each end occurred)."""
    faults: list[str] = []
    ends: Counter[str] = Counter()
    for partition, accountant in enumerate(system.accountants):
        keys = _ledger_keys(system.log.all("frames", partition))
        recorded, found = _closed(system.log.all("outcomes", partition))
        faults += found
        faults += _accounted(keys, recorded, accountant.accountant, system)
        faults += _merged(keys, recorded, system, partition)
        ends.update(outcome.reason or "result" for outcome in recorded.values())
        faults += _commits(system, partition)
    for mixer in system.mixers:
        faults += _shown(mixer, system)
    for worker in system.workers:
        if worker.longest_queue > system.rules.capacity * 2:
            faults.append(f"{worker.name}: {worker.longest_queue} frames waited")
    often = [picture for picture, count in system.triton.ended.items() if count > MOST_ENDED]
    if often:
        faults.append(f"picture {often[0]} ended {system.triton.ended[often[0]]} processes")
    indexed = {k for p in range(len(system.accountants)) for k, o in _last(system, p).items() if o.result is not None}
    if system.redis.keys != indexed:
        faults.append(f"index has {len(system.redis.keys)} keys, {len(indexed)} have results")
    return faults, ends


def _ledger_keys(records: list[FrameRecord]) -> dict[LedgerKey, int | None]:
    keys: dict[LedgerKey, int | None] = {}
    for r in records:
        places = range(r.first_seq, r.last_seq + 1) if isinstance(r, DroppedRun) else (r.frame_seq,)
        for seq, pipeline in itertools.product(places, r.pipelines):
            pts_ns = r.pts_ns if isinstance(r, Frame) else None
            keys.setdefault(LedgerKey(r.source_id, r.epoch, seq, pipeline), pts_ns)
    return keys


def _closed(records: list[OutcomeRecord]) -> tuple[dict[LedgerKey, Outcome], list[str]]:
    """One visible outcome: after the first closed record of a key nothing else is written for it."""
    closed: dict[LedgerKey, Outcome] = {}
    faults = []
    for record in records:
        known = closed.get(record.key)
        if known is not None and record.outcome != known:
            faults.append(f"{record.key} changed after close: {known.status} to {record.outcome.status}")
        if record.closed:
            closed.setdefault(record.key, record.outcome)
    return closed, faults


def _last(system: System, partition: int) -> dict[LedgerKey, Outcome]:
    records = system.log.all("outcomes", partition)
    return {r.key: r.outcome for r in records if r.outcome.result is not None}


def _accounted(
    keys: dict[LedgerKey, int | None], closed: dict[LedgerKey, Outcome], accountant: Accountant, system: System
) -> list[str]:
    faults = []
    missing = keys.keys() - closed.keys()
    if missing:
        faults.append(f"{len(missing)} frames unaccounted, for example {min(missing)}")
    more = closed.keys() - keys.keys()
    if more:
        faults.append(f"{len(more)} outcomes without a frame, for example {min(more)}")
    for source_id, pipeline in {(key.source_id, key.pipeline) for key in keys}:
        total = accountant.total(source_id, pipeline)
        mine = Counter(o.status for k, o in closed.items() if (k.source_id, k.pipeline) == (source_id, pipeline))
        if (
            not total.holds
            or total.in_flight
            or (total.results, total.dropped, total.dead)
            != tuple(mine[s] for s in sorted(mine.keys() | set(_STATUSES), key=_STATUSES.index))
        ):
            faults.append(f"{source_id} {pipeline}: sums {total} against {dict(mine)}")
    return faults


def _merged(keys: dict[LedgerKey, int | None], closed: dict[LedgerKey, Outcome], system: System, p: int) -> list[str]:
    """What is recorded is no less than the merge of all that was posted in time to be read before the close."""
    log = system.log
    closed_at: dict[LedgerKey, int] = {}
    for record, at in zip(log.all("outcomes", p), log.times("outcomes", p), strict=True):
        if record.closed:
            closed_at.setdefault(record.key, at)
    best: dict[LedgerKey, Outcome] = {}
    for posting, at in zip(log.all("results", p), log.times("results", p), strict=True):
        if keys.get(posting.key, -1) == posting.pts_ns and at < closed_at.get(posting.key, 0) - LONGEST_READ_NS:
            best[posting.key] = merge(best.get(posting.key), posting.outcome)
    wrong = [key for key, outcome in best.items() if key in closed and merge(closed[key], outcome) != closed[key]]
    return [f"{len(wrong)} keys recorded below the merge, for example {wrong[0]}"] if wrong else []


def _commits(system: System, partition: int) -> list[str]:
    """No commit beyond the first frame without an outcome of its own."""
    return [f"partition {partition}: {text}" for text in system.commit_faults[partition][:3]]


def _shown(mixer: MixerRole, system: System) -> list[str]:
    faults = []
    for a, b in itertools.pairwise(mixer.output):
        if b.key <= a.key or b.out_pts_ns <= a.out_pts_ns:
            faults.append(f"{b.key} at {b.out_pts_ns} shown after {a.key} at {a.out_pts_ns}")
    for shown in mixer.output:
        for index, own in shown.measured:
            if index != shown.index:
                faults.append(f"box of picture {index} drawn on {shown.index}")
            if not own:
                faults.append(f"box of another pipeline drawn on {shown.index}")
    if mixer.alive and mixer.mixer.held:
        faults.append(f"mixer of {mixer.source_id} still holds {mixer.mixer.held} frames")
    if mixer.most_held > mixer.settings.bound(0):
        faults.append(f"mixer of {mixer.source_id} held {mixer.most_held} pictures")
    longest = max((shown.waited_ns for shown in mixer.output), default=0)
    if longest > system.delay_ns + 1_100_000_000:
        faults.append(f"a frame of {mixer.source_id} waited {longest / 1e9:.2f} s in the mixer")
    return faults[:5]
