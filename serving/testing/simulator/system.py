"""The whole system in one process: cameras, ingesters, log, workers, mixers, accountants, and what strikes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from serving.align import Accountant, CloseRule, MixerSettings, SheddingRules, TimelineSettings
from serving.frames import Frame, LedgerKey
from serving.testing.simulator.camera import Camera
from serving.testing.simulator.faults import FAULTS
from serving.testing.simulator.ingest import DEPTH, Ingest
from serving.testing.simulator.log import FakeLog, Group
from serving.testing.simulator.roles import AccountantRole, MakeMixer, MixerRole
from serving.testing.simulator.scheduler import MS, NS_PER_S, Scheduler
from serving.testing.simulator.services import FakeRedis, FakeTriton
from serving.testing.simulator.worker import Worker
from serving.testing.sync_scene import make_mixer

FRAMES = 200
SOURCES = 2
WORKERS = 2
LONGEST_NS = 60 * NS_PER_S


@dataclass(frozen=True, slots=True)
class SimParts:
    """What a run is made of; mutants replace parts."""

    mixer: MakeMixer = make_mixer
    accountant: Callable[[CloseRule], Accountant] = Accountant
    worker: type[Worker] = Worker


class System:
    """One seed: two sources of 200 frames, faults of F1 to F14 at random moments, then quiet until all is closed."""

    def __init__(self, seed: int, parts: SimParts, faults: int | None = None) -> None:
        self.scheduler = Scheduler(seed)
        rng = self.scheduler.rng
        self.parts = parts
        self.struck: Counter[str] = Counter()
        self.log = FakeLog(self.scheduler)
        self.triton = FakeTriton(self.scheduler)
        self.redis = FakeRedis()
        self.group = Group(self.scheduler, SOURCES)
        self.group.watch = self._committed
        self.commit_faults: list[list[str]] = [[] for _ in range(SOURCES)]
        self._checked = [0] * SOURCES
        self._posted: list[tuple[int, set[LedgerKey]]] = [(0, set()) for _ in range(SOURCES)]
        self.delay_ns = rng.choice([250, 500, 1000]) * MS
        self.rules = SheddingRules(rng.choice([self.delay_ns // 2, NS_PER_S, 5 * NS_PER_S, 30 * NS_PER_S]), max_fps=20)
        self.pipelines = rng.choice([("a",), ("a", "b")])
        self.timeline = TimelineSettings(window_ns=self.delay_ns, every=rng.choice([1, 1, 1, 3]))
        self._build()
        count = rng.randrange(3, 8) if faults is None else faults
        for _ in range(count):
            name = rng.choice(sorted(FAULTS))
            self.scheduler.after(self.scheduler.between(500, 12_500), lambda n=name: self._strike(n))  # type: ignore[misc]

    def _build(self) -> None:
        scheduler, log = self.scheduler, self.log
        settings = MixerSettings(delay_ns=self.delay_ns, reorder_depth=DEPTH)
        rule = CloseRule(self.delay_ns)
        self.cameras = [Camera(scheduler, f"cam{n}", FRAMES) for n in range(SOURCES)]
        self.ingests = [self._ingest(camera, n, "first") for n, camera in enumerate(self.cameras)]
        self.workers = [
            self.parts.worker(scheduler, log, self.group, self.triton, f"w{n}", self.rules) for n in range(WORKERS)
        ]
        self.mixers = [
            MixerRole(scheduler, log, camera.source_id, n, settings, self.parts.mixer)
            for n, camera in enumerate(self.cameras)
        ]
        self.accountants = [
            AccountantRole(scheduler, log, self.redis, n, rule, self.parts.accountant) for n in range(SOURCES)
        ]
        for process in (*self.ingests, *self.workers, *self.mixers, *self.accountants):
            process.begin()
        for camera in self.cameras:
            scheduler.after(scheduler.between(400, 900), camera.begin)

    def _ingest(self, camera: Camera, partition: int, name: str) -> Ingest:
        return Ingest(self.scheduler, self.log, camera, partition, name, self.timeline, self.pipelines)

    def _strike(self, name: str) -> None:
        self.struck[name] += FAULTS[name](self)

    def run(self) -> None:
        """Until every camera is done, every fault is over and every key had its time to close."""
        step = NS_PER_S
        while self.scheduler.monotonic_ns() < LONGEST_NS and not all(camera.done for camera in self.cameras):
            self.scheduler.run(self.scheduler.monotonic_ns() + step)
        self.scheduler.run(self.scheduler.monotonic_ns() + 100 * NS_PER_S)
        for mixer in self.mixers:
            mixer.finish()

    def _committed(self, partition: int, offset: int) -> None:
        """Every frame below a committed offset has its outcome on the log by now."""
        seen, keys = self._posted[partition]
        results = self.log.all("results", partition)
        keys.update(posting.key for posting in results[seen:])
        self._posted[partition] = len(results), keys
        frames = self.log.all("frames", partition)
        for record in frames[self._checked[partition] : offset]:
            if isinstance(record, Frame) and record.analyse:
                bare = [p for p in record.pipelines if record.ledger_key(p) not in keys]
                if bare:
                    self.commit_faults[partition].append(
                        f"committed {offset}, but {record.ledger_key(bare[0])} has no outcome"
                    )
        self._checked[partition] = max(self._checked[partition], offset)

    # -- what faults do ---------------------------------------------------------------------------------------------

    def second_ingest(self) -> bool:
        """F10: the same camera is assigned a second time while the first ingester is still at it."""
        rng = self.scheduler.rng
        partition = rng.randrange(SOURCES)
        camera = self.cameras[partition]
        if camera.done or len(self.ingests) > 4 * SOURCES:
            return False
        second = self._ingest(camera, partition, f"second{len(self.ingests)}")
        self.ingests.append(second)
        second.begin()
        return True

    def leave_and_join(self, worker: Worker) -> None:
        """F7: in good order, or as good as it gets."""
        if worker.alive and not worker.stopped:
            worker.leave()
            self.scheduler.after(self.scheduler.between(200, 900), lambda: worker.rejoin())

    def delete_unread(self, partition: int) -> None:
        """F6: retention passes what the accountant has not read; readers that keep up lose nothing.

        Of an epoch that goes on: that its last frames were deleted unread, nobody could tell from holes in frame_seq.
        """
        records = self.log.all("frames", partition)
        first = offset = self.accountants[partition].consumers[0].position
        while offset + 1 < len(records) and offset < first + 5 and records[offset + 1].epoch == records[first].epoch:
            offset += 1
        read_by_workers = self.group.committed[partition].offset
        mixer = self.mixers[partition].consumers[0].position
        if offset <= min(read_by_workers, mixer):
            self.log.delete_before("frames", partition, offset)
