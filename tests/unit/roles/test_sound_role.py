"""A worker that hears: pieces of a source in order, what is no sound for it, and who takes over in the middle."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_support import JPEG, NAMES, System  # type: ignore[import-not-found]

from serving.align import CloseRule, ticks_to_ns
from serving.clock import SystemClock
from serving.frames import DeadReason, Frame, SourceKind
from serving.ports_log import TopicPartition
from serving.preprocess.audio import wav_of
from serving.preprocess.jpeg import JpegCodec
from serving.records import FrameMessage, decode_dead_letter, encode_frame
from serving.roles.accountant import LogAccountant
from serving.roles.jobs import IDS_A_FRAME, WorkerSettings
from serving.roles.sender import Sender
from serving.roles.transport import LogTransport
from serving.roles.worker import LogWorker
from serving.served_model import ServedModel
from serving.streams.models import in_process, open_pipelines
from serving.streams.worker import Worker
from serving.testing.stub_bundles import make_bundle
from tests.integration.streams.test_run_sound import SOUND, Engine, hears

RATE, PIECE = 16_000, 8192
SOURCE, TIME_BASE = "talk-sound", Fraction(1, RATE)


def noise(samples: int = PIECE, rate: int = RATE, loud: bool = True) -> bytes:
    return wav_of(np.full(samples, 0.4 if loud else 0.0, np.float32), rate)


@pytest.fixture
def system() -> System:
    made = System()
    made.claim(SOURCE, SourceKind.FILE, ("ears",), time_base=TIME_BASE, width=1, height=1, sample_rate=RATE)
    return made


def write(system: System, source: str, seq: int, payload: bytes, pipelines: tuple[str, ...] = ("ears",)) -> None:
    base = TIME_BASE if source == SOURCE else Fraction(1, 90_000)
    ticks = PIECE * seq if source == SOURCE else 3600 * seq
    frame = Frame(source, 1, seq, ticks_to_ns(ticks, base), ticks, base, pipelines, 0)
    sender = Sender(system.log.producer())
    sender.send(NAMES.topic("frames"), encode_frame(FrameMessage(frame), payload), 0)
    sender.flush(5)


def worker(system: System, folder: Path, stack: ExitStack) -> LogWorker:
    bundle = make_bundle(folder, "ears", "audio", sound=SOUND, labels=["loud"], outputs=["p", "state_out"])
    opened = in_process(ServedModel(bundle, Engine(hears)))
    pipelines, most = open_pipelines(("ears",), lambda name: opened, stack)
    role = Worker(pipelines, transport=LogTransport(JpegCodec()), first_id=lambda frame: made.first_id(frame))
    made = LogWorker(system.log, NAMES, role, WorkerSettings(max_batch=most), system.clock, lambda: None)
    return made


def answers(system: System) -> list[Any]:
    return [m.answer for m in sorted(system.results(), key=lambda m: m.posting.key.frame_seq)]


def test_pieces_are_heard_in_order_and_an_event_keeps_its_number(system: System, tmp_path: Path) -> None:
    for seq, loud in enumerate((False, True, True, False)):
        write(system, SOURCE, seq, noise(loud=loud))
    with ExitStack() as stack:
        system.until(lambda: len(system.results()) == 4, worker(system, tmp_path, stack))
    found = answers(system)
    assert [a["sound"]["start_pts_ns"] for a in found] == [ticks_to_ns(PIECE * n, TIME_BASE) for n in range(4)]
    assert all(a["sound"]["windows"] == PIECE // 512 for a in found)
    assert [[(e["event_id"], e["open"]) for e in a["events"]] for a in found[:3]] == [[], [(1, True)], [(1, True)]]
    assert found[3]["events"][0]["event_id"] == 1 and not found[3]["events"][0]["open"]


def test_who_takes_over_hears_anew_and_gives_no_number_twice(system: System, tmp_path: Path) -> None:
    write(system, SOURCE, 0, noise())
    with ExitStack() as stack:
        first = worker(system, tmp_path / "a", stack)
        system.until(lambda: len(system.results()) == 1, first)
        first._commit(list(first._parts), leaving_well=True)
        system.log.expire(first._consumer)  # type: ignore[arg-type]
        second = worker(system, tmp_path / "b", stack)
        for seq in (1, 2):
            write(system, SOURCE, seq, noise())
        system.until(lambda: len(system.results()) == 3, second)
    ids = [[event["event_id"] for event in answer["events"]] for answer in answers(system)]
    assert ids == [[1], [IDS_A_FRAME + 1], [IDS_A_FRAME + 1]]
    assert answers(system)[1]["events"][0]["start_pts_ns"] >= ticks_to_ns(PIECE, TIME_BASE), (
        "nothing is known of before"
    )


def test_what_is_no_sound_for_the_model_is_given_up_with_its_reason(system: System, tmp_path: Path) -> None:
    system.claim("gate", SourceKind.FILE, ("ears",))
    write(system, "gate", 0, JPEG)  # pictures, and a model that hears
    write(system, SOURCE, 0, noise(rate=8000))  # not what it hears
    write(system, SOURCE, 1, noise()[:-400])  # cut off
    write(system, SOURCE, 2, noise())
    with ExitStack() as stack:
        system.until(lambda: len(system.results()) == 4, worker(system, tmp_path, stack))
    schema = DeadReason.SCHEMA.value
    assert system.ends() == {
        ("gate", 0): schema, (SOURCE, 0): schema, (SOURCE, 1): "decode_error", (SOURCE, 2): "result",
    }  # fmt: skip
    letters = system.log.reader({TopicPartition(NAMES.topic("dead_letter"), 0): 0}).poll(0.0, 10).records
    reasons = [decode_dead_letter(r.key, r.value, r.headers).reason for r in letters]
    assert reasons == [schema, schema]


def test_a_picture_among_sound_and_sound_among_pictures_is_a_forgery(system: System, tmp_path: Path) -> None:
    """No place in the ledger: the record that belongs there has its own outcome."""
    system.claim("gate", SourceKind.FILE, ("ears",))
    write(system, SOURCE, 0, JPEG)
    write(system, "gate", 0, noise())
    write(system, SOURCE, 0, noise())
    accountant = LogAccountant(system.log, NAMES, CloseRule(), SystemClock())
    with ExitStack() as stack:
        hearing = worker(system, tmp_path, stack)
        system.until(lambda: len(system.results()) == 1, hearing)
        for _ in range(5):
            accountant.step(0.0)
    assert hearing.counters["refused"] == 2 and accountant.dead_letters == 2
    assert system.ends() == {(SOURCE, 0): "result"}
    balance = accountant.totals(SOURCE)["ears"]
    assert balance.holds and (balance.accepted, balance.results) == (1, 1)
    letters = system.log.reader({TopicPartition(NAMES.topic("dead_letter"), 0): 0}).poll(0.0, 10).records
    told = [decode_dead_letter(r.key, r.value, r.headers) for r in letters]
    assert [(t.reason, t.record.key) for t in told] == [("schema", SOURCE.encode()), ("schema", b"gate")]
    accountant.close()
