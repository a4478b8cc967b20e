"""The worker's own promises: batches, wishes of each source, models that are away, partitions that come and go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from worker_support import NAMES, Model, System

from serving.align import CloseRule
from serving.errors import Unavailable
from serving.frames import SourceKind
from serving.murmur2 import partition_of
from serving.ports_log import TopicPartition
from serving.records import StreamState, decode_dead_letter
from serving.roles.accountant import LogAccountant
from serving.roles.jobs import WorkerSettings
from serving.testing.memory_index import MemoryIndex
from serving.testing.memory_log import MemoryProducer


def metric(worker: Any, name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric by its labels' values."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in worker.monitor.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


# -- batches ----------------------------------------------------------------------------------------------------------


def test_sources_are_asked_about_together_each_in_its_order() -> None:
    system = System()
    for source in ("a", "b", "c"):
        system.claim(source)
        system.frames(source, [0, 1])
    worker = system.worker()
    system.until(lambda: len(system.results()) == 6, worker)
    assert [len(call) for call in system.model.calls] == [3, 3], "one frame of each live source at a time"
    by_source = {s: [m.posting.key.frame_seq for m in system.results() if m.posting.key.source_id == s] for s in "abc"}
    assert all(seqs == [0, 1] for seqs in by_source.values())


def test_a_file_fills_the_batch_up_to_the_models_most() -> None:
    system = System()
    system.claim("clip", SourceKind.FILE)
    system.frames("clip", range(10))
    system.until(lambda: len(system.results()) == 10, system.worker(settings=WorkerSettings(max_batch=4)))
    assert [len(call) for call in system.model.calls] == [4, 4, 2]


# -- wishes -----------------------------------------------------------------------------------------------------------


def test_roi_scenario_and_tracker_are_the_sources_own_and_change_live(tmp_path: Path) -> None:
    system = System()
    system.claim("a")
    system.claim("b")
    system.register("a", roi="0,0,32,24", scenario="night", track="counting")
    worker = system.worker()
    system.frames("a", [0])
    system.until(lambda: len(system.results()) == 1, worker)
    system.frames("b", [0])
    system.until(lambda: len(system.results()) == 2, worker)
    assert system.model.calls == [[{"scenario": "night", "roi": "0,0,32,24"}], [{}]]
    tracked = ["track_id" in m.answer["detections"][0] for m in system.results()]
    assert tracked == [True, False]
    system.register("a", roi="0,0,16,16")
    system.until(lambda: worker._registered.get("a").roi == "0,0,16,16", worker)  # type: ignore[union-attr]
    system.frames("a", [1])
    system.until(lambda: len(system.results()) == 3, worker)
    assert system.model.calls[-1] == [{"roi": "0,0,16,16"}]


def test_a_mask_of_another_size_ends_its_own_sources_frames_and_no_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((5, 5), np.uint8))
    system = System()
    for source in ("a", "b", "c"):
        system.claim(source)
        system.frames(source, [0])
    system.register("a", mask=str(tmp_path / "mask.png"))
    system.register("c", mask=str(tmp_path / "none.png"))
    system.until(lambda: len(system.results()) == 3, system.worker())
    assert system.ends() == {("a", 0): "retry_exhausted", ("b", 0): "result", ("c", 0): "retry_exhausted"}
    said = capsys.readouterr().err
    assert "mask: expected 64x48, got 5x5" in said and "none.png: expected a picture" in said
    letters = system.log.reader({TopicPartition(NAMES.topic("dead_letter"), 0): 0}).poll(0.0).records
    assert {decode_dead_letter(r.key, r.value, r.headers).reason for r in letters} == {"retry_exhausted"}


# -- a model that is away ---------------------------------------------------------------------------------------------


def test_f3_frames_wait_for_a_model_as_long_as_they_are_worth_it() -> None:
    system = System()
    system.claim("live")
    system.claim("clip", SourceKind.FILE)
    system.frames("live", [0])
    system.frames("clip", [0, 1])
    system.model.away = Unavailable("nobody answers")
    worker = system.worker()
    system.until(lambda: ("live", 0) in system.ends(), worker, step_ms=20)
    assert system.ends() == {("live", 0): "model_unavailable"}, "the file's frames wait on"
    assert system.clock.monotonic_ns() >= 125_000_000, "max_age is half of D"
    asked, since_ns = len(system.model.calls), system.clock.monotonic_ns()
    system.until(lambda: len(system.model.calls) > asked + 3, worker, step_ms=20)
    assert system.clock.monotonic_ns() - since_ns > 1_000_000_000, "asked now and then, not all the time"
    worker.monitor.turned()
    assert "model person: nobody answers" in worker.monitor.not_ready()
    system.model.away = None
    system.until(lambda: len(system.ends()) == 3, worker, step_ms=20)
    system.frames("live", [1])
    system.until(lambda: len(system.ends()) == 4, worker, step_ms=20)
    assert system.ends() == {
        ("live", 0): "model_unavailable", ("clip", 0): "result", ("clip", 1): "result", ("live", 1): "result",
    }  # fmt: skip
    system.until(lambda: not worker.monitor.not_ready(), worker, step_ms=100)
    assert [m.posting.key.frame_seq for m in system.results() if m.posting.key.source_id == "clip"] == [0, 1]


def test_f3_the_models_that_answer_do_not_wait_for_the_one_that_is_away() -> None:
    system, gone = System(), Model()
    gone.away = Unavailable("nobody answers")
    system.claim("clip", SourceKind.FILE, ("here", "gone"))
    system.frames("clip", range(5), pipelines=("here", "gone"))
    worker = system.worker(("here", system.model), ("gone", gone), settings=WorkerSettings(max_batch=2))
    system.until(lambda: len(system.results()) == 5, worker, step_ms=1)
    assert {m.posting.key.pipeline for m in system.results()} == {"here"}
    gone.away = None
    system.until(lambda: len(system.results()) == 10, worker, step_ms=50)
    late = [m.posting.key.frame_seq for m in system.results() if m.posting.key.pipeline == "gone"]
    assert late == [0, 1, 2, 3, 4], "in their order, whatever was asked meanwhile"


def test_a_source_of_other_models_is_none_of_this_workers() -> None:
    """Two groups see all frames; each tells the rate of what it analyses (`fps_analysed`), and of nothing else."""
    system, index = System(), MemoryIndex()
    system.claim("a")
    system.claim("b", pipelines=("face",))
    system.frames("a", [0])
    system.frames("b", [0], pipelines=("face",))
    worker = system.worker(index=index)
    system.until(lambda: len(system.results()) == 1, worker)
    system.clock.advance(2_000_000_000)
    worker.step(0.0)
    assert index.states(["a", "b"])["a"]["worker"]["analysed"] == 1 and index.states(["a", "b"])["b"] == {}


def test_of_a_source_that_is_over_no_result_is_missed() -> None:
    """The age of its newest result would grow for ever, and call somebody at night."""
    system = System()
    for name in ("a", "b"):
        system.claim(name)
        system.register(name)
        system.frames(name, [0])
    worker = system.worker()

    def ages() -> set[str]:
        worker.analyst.report()
        worker._report(system.clock.monotonic_ns())
        page = worker.monitor.metrics.exposition().decode()
        return {name for name in ("a", "b") if f'lockstep_worker_result_age_seconds{{source="{name}"}}' in page}

    system.until(lambda: len(system.results()) == 2 and not worker.analyst._sender.waiting, worker, step_ms=5)
    assert ages() == {"a", "b"}
    system.register("a", state=StreamState.REMOVED)
    system.until(lambda: ages() == {"b"}, worker)
    system.frames("a", [1])
    system.until(lambda: len(system.results()) == 3 and not worker.analyst._sender.waiting, worker, step_ms=5)
    system.register("a", every=2)
    system.frames("a", [2])
    system.until(lambda: ages() == {"a", "b"}, worker, step_ms=5)


def test_f12_a_process_that_was_stopped_has_time_to_end_its_call_and_one_that_hangs_is_ended() -> None:
    system, ended = System(), list[int]()
    worker = system.worker(settings=WorkerSettings(inference_timeout_s=8))
    worker._on_hang = lambda: ended.append(1)
    worker.analyst.busy_since_ns = system.clock.monotonic_ns()
    system.clock.advance(20_000_000_000)
    worker.step(0.0)
    worker.analyst.busy_since_ns = system.clock.monotonic_ns() + 20_000_000  # it ended, and the next one began
    for _ in range(8):
        system.clock.advance(1_000_000_000)
        worker.step(0.0)
    assert not ended
    for _ in range(3):
        system.clock.advance(600_000_000)
        worker.step(0.0)
    assert ended, "this one does not end"


# -- partitions come and go -------------------------------------------------------------------------------------------


def test_a_tracker_begins_anew_behind_a_rebalance_and_no_id_comes_twice() -> None:
    system = System()
    system.claim("a")
    system.register("a", track="counting")
    system.frames("a", [0, 1])
    first = system.worker()
    system.until(lambda: len(system.results()) == 2, first)
    assert system.ids() == {0: 1, 1: 2}, "as in one process, where the epoch began here"
    system.leave(first)
    second = system.worker()
    system.frames("a", [2, 3])
    system.until(lambda: len(system.results()) == 4, second)
    assert system.ids() == {0: 1, 1: 2, 2: 2001, 3: 2002}


def test_whoever_follows_a_good_leave_is_not_careful_and_after_a_kill_is() -> None:
    system = System()
    system.claim("a", SourceKind.FILE)
    system.frames("a", range(3))
    first = system.worker()
    system.until(lambda: len(system.results()) == 3, first)
    system.leave(first)
    second = system.worker()
    system.frames("a", range(3, 6))
    system.until(lambda: len(system.results()) == 6, second)
    assert [len(call) for call in system.model.calls] == [3, 3]
    system.kill(second)
    third = system.worker()
    system.frames("a", range(6, 8))
    system.until(lambda: len(system.ends()) == 8, third)
    assert all(len(call) == 1 for call in system.model.calls[2:]), "one at a time"


def test_partitions_that_were_taken_over_are_tried_in_turn() -> None:
    """None of their sources waits until all of another one's records have been tried."""
    system = System(2)
    sources = [next(f"{n}" for n in range(99) if partition_of(f"{n}".encode(), 2) == place) for place in (0, 1)]
    for source in sources:
        system.claim(source)
        system.frames(source, [0])
    first = system.worker()
    system.until(lambda: len(system.ends()) == 2, first)
    system.kill(first)
    for source in sources:
        system.frames(source, range(1, 9))
    second = system.worker()
    system.until(lambda: len(system.ends()) >= 8, second)
    done = Counter(source for source, _ in system.ends())
    assert min(done.values()) >= 4, done


def test_a_trial_is_over_with_its_turn_though_the_broker_needs_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the frames of the worker's own sources are analysed twice between two records that are tried."""

    class Broker(MemoryProducer):
        """Acknowledges nothing at once: only to whoever waits."""

        def poll(self, timeout_s: float = 0.0) -> None:
            if timeout_s > 0:
                super().poll(timeout_s)

    system = System()
    system.claim("a")
    system.frames("a", [0])
    first = system.worker()
    system.until(lambda: bool(system.ends()), first)
    system.kill(first)
    system.frames("a", [1, 2])
    monkeypatch.setattr(system.log, "producer", lambda: Broker(system.log))
    second = system.worker()
    (part,) = _until_trying(second)
    second.analyst.turn()
    assert second.counters["analysed"] == 1 and part.trying is None


def _until_trying(worker: Any) -> list[Any]:
    """The partitions whose record is to be tried at the next turn."""
    for _ in range(50):
        worker.step(0.0)
        found = [part for part in worker._parts.values() if part.trying is not None]
        if found:
            return found
        worker.analyst.turn()
    raise AssertionError("nothing was tried")


def test_a_worker_without_partition_is_idle_and_ready() -> None:
    system = System()
    first, second = system.worker(), system.worker()
    system.until(lambda: bool(first._parts), first, second)
    for _ in range(10):
        system.clock.advance(1_000_000_000)
        second.step(0.0)
        first.step(0.0)
    document = second.monitor.document()
    assert (document["state"], document["ready"]) == ("idle", True), document
    assert first.monitor.document()["state"] == "working"


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_g13_counters_equal_the_ledger_at_rest() -> None:
    system = System()
    for source in ("a", "b"):
        system.claim(source)
        system.frames(source, range(3))
    system.frames("a", [3], payload=b"\xff\xd8 no picture")
    worker = system.worker()
    accountant = LogAccountant(system.log, NAMES, CloseRule(), system.clock)
    system.until(lambda: len(system.ends()) == 7, worker)
    for _ in range(80):
        system.clock.advance(1_000_000_000)
        worker.step(0.0)
        worker.analyst.turn()
        accountant.step(0.0)
    balances = {source: accountant.totals(source)["person"] for source in ("a", "b")}
    assert all(b.holds and b.in_flight == 0 for b in balances.values())
    assert metric(accountant, "lockstep_stream_accepted_total") == {(s,): b.accepted for s, b in balances.items()}
    closed = {labels: count for labels, count in metric(accountant, "lockstep_stream_outcomes_total").items() if count}
    assert closed == {
        ("a", "person", "result", "none"): 3, ("b", "person", "result", "none"): 3,
        ("a", "person", "dropped", "decode_error"): 1,
    }  # fmt: skip
    assert sum(closed.values()) == sum(b.accepted for b in balances.values())
    assert metric(accountant, "lockstep_ledger_in_flight") == {("a", "person"): 0, ("b", "person"): 0}
    assert metric(worker, "lockstep_worker_posted_total") == closed
    assert metric(worker, "lockstep_role_in_flight") == {(): 0} and metric(worker, "lockstep_role_partitions") == {
        (): 1
    }
    assert metric(worker, "lockstep_worker_result_seconds_count") == {("a",): 3, ("b",): 3}
