"""The history checker (docs/guarantees.md): what must hold after every fault, read from the log and the pictures.

(a) every place that stands on `frames` is accounted, (b) every key has one visible outcome, and it is the merge of its
candidates, (c) frames are released in rising order, each once, (d) no position is committed beyond the first frame
without an outcome; and a measured box is on its own picture.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.frames import Origin
from serving.testing.faults.history import CommitSeen, FrameSeen, History, OutcomeSeen, ResultSeen, by_place

RANK = {"dropped": 0, "dead_letter": 1, "result": 2}
SETTLED_MS = 2000  # a candidate that came so shortly before the close may have missed it
Key = tuple[str, int, int, str]
Release = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Account:
    """Sums over some sources. unaccounted: places of the ledger without a final outcome."""

    accepted: int
    results: int
    dropped: Mapping[str, int]
    dead: Mapping[str, int]
    unaccounted: int

    @property
    def coverage(self) -> float:
        """Results over what was to be analysed."""
        wanted = self.accepted - self.dropped.get("not_sampled", 0)
        return self.results / wanted if wanted else 0.0

    def text(self) -> str:
        """One line."""
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted({**self.dropped, **self.dead}.items()))
        return f"{self.accepted} accepted, {self.results} results" + (f", {reasons}" if reasons else "")


def account(history: History, sources: Collection[str]) -> Account:
    """What became of every place of these sources."""
    closed = dict(_closed(history, sources))
    tally: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    for key in ledger_keys(history, sources):
        tally["accepted"] += 1
        outcome = closed.get(key)
        if outcome is None:
            tally["unaccounted"] += 1
        elif outcome.outcome == "result":
            tally["results"] += 1
        else:
            (dropped if outcome.outcome == "dropped" else dead)[outcome.reason] += 1
    return Account(tally["accepted"], tally["results"], dropped, dead, tally["unaccounted"])


def check(history: History, sources: Collection[str], worker_group: str, frames_topic: str) -> list[str]:
    """What is wrong on the log; empty if nothing is."""
    faults = [*_holes(history, sources), *_accounted(history, sources), *_one_outcome(history, sources)]
    return [*faults, *_merged(history, sources), *_commits(history, sources, worker_group, frames_topic)]


def check_releases(releases: Sequence[Release], sources: Collection[str], once: bool = True) -> list[str]:
    """What is wrong on the pictures. once: no mixer ended, so nothing may be shown a second time."""
    faults = []
    measured = 0
    for source in sources:
        mine = [r for r in releases if r["source"] == source]
        for pid, shown in itertools.groupby(mine, key=lambda r: r["pid"]):
            keys = [(r["epoch"], r["pts_ns"]) for r in shown]
            if any(b <= a for a, b in itertools.pairwise(keys)):
                faults.append(f"(c) {source}: mixer {pid} shows frames out of order")
        twice = [k for k, n in Counter((r["epoch"], r["pts_ns"]) for r in mine).items() if n > 1]
        if twice and once:
            faults.append(f"(c) {source}: {len(twice)} frames shown twice, such as {twice[0]}")
        for release in mine:
            for number, origin in release["boxes"]:
                if origin == Origin.MEASURED.value and release["own"] is not None:
                    measured += 1
                    if number != release["own"]:
                        faults.append(f"AE: {source}: a measured box of {number} on picture {release['own']}")
    return faults if measured else [*faults, "AE: no measured box was drawn, so nothing is proven"]


def ledger_keys(history: History, sources: Collection[str]) -> Iterator[Key]:
    """Every place of these sources for every pipeline."""
    for source in sources:
        seen: set[tuple[int, int]] = set()
        for frame in history.frames[source]:
            for seq in range(frame.first, frame.last + 1):
                if (frame.epoch, seq) not in seen:
                    seen.add((frame.epoch, seq))
                    for pipeline in frame.pipelines:
                        yield source, frame.epoch, seq, pipeline


def _holes(history: History, sources: Collection[str]) -> Iterator[str]:
    """frame_seq counts 0, 1, 2 ...; an ingester that was fenced or killed leaves no hole either."""
    for source in sources:
        epochs: dict[int, list[FrameSeen]] = defaultdict(list)
        for frame in history.frames[source]:
            epochs[frame.epoch].append(frame)
        for epoch, frames in epochs.items():
            expected = 0
            for frame in frames:
                if frame.first != expected:
                    yield f"(a) {source} {epoch}: place {expected} was never written, {frame.first} comes next"
                    break
                expected = frame.last + 1


def _accounted(history: History, sources: Collection[str]) -> Iterator[str]:
    closed = {key for key, _ in _closed(history, sources)}
    open_keys = [key for key in ledger_keys(history, sources) if key not in closed]
    if open_keys:
        yield f"(a) {len(open_keys)} keys without a final outcome, such as {open_keys[0]}"


def _closed(history: History, sources: Collection[str]) -> Iterator[tuple[Key, OutcomeSeen]]:
    for source in sources:
        for outcome in history.outcomes[source]:
            if outcome.closed:
                yield (source, outcome.epoch, outcome.seq, outcome.pipeline), outcome


def _one_outcome(history: History, sources: Collection[str]) -> Iterator[str]:
    """After the first record with closed nothing else may stand for a key."""
    final: dict[Key, OutcomeSeen] = {}
    for source in sources:
        for outcome in history.outcomes[source]:
            key = (source, outcome.epoch, outcome.seq, outcome.pipeline)
            known = final.get(key)
            if known is not None and _visible(outcome) != _visible(known):
                yield f"(b) {key}: {_visible(known)} was final, then came {_visible(outcome)}"
            if outcome.closed:
                final.setdefault(key, outcome)


def _visible(outcome: OutcomeSeen) -> tuple[object, ...]:
    return outcome.outcome, outcome.reason, outcome.digest


def _merged(history: History, sources: Collection[str]) -> Iterator[str]:
    """The final outcome is the best of the candidates that came in time."""
    best: dict[Key, ResultSeen] = {}
    for source in sources:
        for result in history.results[source]:
            key = (source, result.epoch, result.seq, result.pipeline)
            if key not in best or _order(result) > _order(best[key]):
                best[key] = result
    for key, outcome in _closed(history, sources):
        candidate = best.get(key)
        if candidate is None or candidate.place.at_ms > outcome.place.at_ms - SETTLED_MS:
            continue
        if RANK[candidate.outcome] > RANK[outcome.outcome]:
            yield f"(b) {key}: recorded as {outcome.outcome}({outcome.reason}), {candidate.outcome} was on the log"
        elif candidate.outcome == outcome.outcome == "result" and candidate.digest != outcome.digest:
            yield f"(b) {key}: recorded with another payload than the merge says"


def _order(result: ResultSeen) -> tuple[object, ...]:
    return RANK[result.outcome], -result.attempt, tuple(-ord(c) for c in result.digest)


def _commits(history: History, sources: Collection[str], group: str, topic: str) -> Iterator[str]:
    """(d): at the time of a commit every frame of these sources below it has its outcome on `results`."""
    first: dict[Key, int] = {}
    for source in sources:
        for result in history.results[source]:
            first.setdefault((result.source, result.epoch, result.seq, result.pipeline), result.place.at_ms)
    frames = by_place(itertools.chain.from_iterable(history.frames[source] for source in sources))
    refused = {(int(h["partition"]), int(h["offset"])) for _, h, _ in history.letters if h["topic"] == topic.encode()}
    commits: dict[int, list[CommitSeen]] = defaultdict(list)
    for commit in history.commits:
        if commit.group == group and commit.topic == topic:
            commits[commit.partition].append(commit)
    for number, made in commits.items():
        yield from _partition_commits(number, made, frames.get(number, []), first, refused)


def _partition_commits(
    number: int,
    made: Sequence[CommitSeen],
    frames: Sequence[FrameSeen],
    first: Mapping[Key, int],
    refused: Collection[tuple[int, int]],
) -> Iterator[str]:
    """The latest moment at which a frame up to each offset got its first outcome, against the time of each commit."""
    offsets, latest = [], [(0.0, "")]
    for frame in frames:
        if frame.drop_reason or not frame.analyse or (number, frame.place.offset) in refused:
            continue
        due = [first.get((frame.source, frame.epoch, frame.first, name), math.inf) for name in frame.pipelines]
        offsets.append(frame.place.offset)
        what = f"{frame.source} {frame.epoch} {frame.first} (offset {frame.place.offset})"
        latest.append(max(latest[-1], (max(due), what)))
    if not offsets:
        return
    since = [commit for commit in made if commit.offset > offsets[0]]  # what was before is another row's
    if any(0 <= b.offset < a.offset for a, b in itertools.pairwise(since)):
        yield f"(d) partition {number}: a committed position fell: a member committed what was no longer its own"
    for commit in since:
        at, what = latest[bisect.bisect_left(offsets, commit.offset)]
        if at > commit.place.at_ms:
            yield f"(d) partition {number}: offset {commit.offset} was committed before {what} had its outcome"
            return
