"""Galleries on disk: what was acknowledged stays, nothing half-written is seen, one writer, one chain of models."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from serving.errors import NotFound, ParameterInvalid
from serving.errors_gallery import GalleryBusy, GalleryDamaged, GalleryExists, GalleryMismatch, GalleryNotWritten
from serving.gallery import Facts, Galleries, GalleryReader, GalleryWriter, NewSample, snapshot
from serving.gallery import writer as writer_module

ONE = np.eye(8, dtype=np.float32)


def sample(place: int) -> NewSample:
    return NewSample(ONE[place % 8] + np.float32(0.001) * (place // 8), {"place": place})


@pytest.fixture
def home(tmp_path: Path) -> Galleries:
    return Galleries(tmp_path / "galleries")


@pytest.fixture
def faces(home: Galleries) -> GalleryReader:
    return home.create(Facts("faces", "face_identify"))


def enrolled(reader: GalleryReader, *subjects: str) -> None:
    with GalleryWriter(reader) as writer:
        for place, subject in enumerate(subjects):
            writer.enrol(subject, [sample(place)], fingerprint="chain")


def test_enrol_relabel_replace_remove_and_list(home: Galleries, faces: GalleryReader) -> None:
    enrolled(faces, "anna", "ben", "anna")
    assert home.names() == ["faces"] and faces.view().counts() == {"anna": 2, "ben": 1}
    assert faces.facts.dimension == 8 and faces.facts.fingerprint == "chain"
    with GalleryWriter(faces) as writer:
        assert writer.enrol("cleo", [sample(4), sample(5)], fingerprint="chain", label="Cleo C.") == [4, 5]
        writer.relabel("anna", "Anna A.")
        writer.enrol("ben", [sample(6)], fingerprint="chain", replace=True)
        writer.remove_sample(1)
    view = faces.view()
    assert view.counts() == {"anna": 1, "ben": 1, "cleo": 2} and dict(view.labels) == {
        "anna": "Anna A.", "cleo": "Cleo C."
    }  # fmt: skip
    assert view.search(ONE[6], 1)[0].subject == "ben" and view.search(ONE[1], 1)[0].score < 0.1
    with GalleryWriter(faces) as writer:
        writer.remove("anna")
        with pytest.raises(NotFound, match="no subject 'anna'"):
            writer.remove("anna")
    assert "anna" not in faces.view().counts() and "anna" not in faces.view().labels


def test_a_view_in_hand_does_not_change_while_subjects_are_deleted(faces: GalleryReader) -> None:
    enrolled(faces, "anna", "ben")
    before = faces.view()
    with GalleryWriter(GalleryReader(faces.folder)) as writer:
        writer.remove("anna")
        writer.compact()
    assert before.search(ONE[0], 1)[0].subject == "anna"
    assert faces.view().search(ONE[0], 1)[0].subject == "ben"


def test_a_snapshot_says_what_the_journal_said(faces: GalleryReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SNAPSHOT_AFTER_BYTES", 1500)
    for place in range(40):
        with GalleryWriter(faces) as writer:
            writer.enrol(f"s{place}", [sample(place)], fingerprint="chain", label=f"S {place}")
            if place % 3 == 2:
                writer.remove(f"s{place - 1}")
    assert faces.number > 3, "it went through several snapshots"
    other = GalleryReader(faces.folder)
    assert other.view().counts() == faces.view().counts() and len(other.view()) == 27
    assert dict(other.view().labels) == dict(faces.view().labels) and other.next_sample == 41
    assert isinstance(other.view().base, np.memmap)
    assert len(list(faces.folder.glob("snapshot-*"))) == 1 == len(list(faces.folder.glob("journal-*")))


def test_another_chain_is_refused_and_an_emptied_gallery_may_take_it(faces: GalleryReader) -> None:
    enrolled(faces, "anna")
    with GalleryWriter(faces) as writer:
        with pytest.raises(GalleryMismatch, match="another chain|were made by the chain chain, this is other"):
            writer.enrol("ben", [sample(1)], fingerprint="other")
        with pytest.raises(GalleryMismatch, match="expected 8 numbers, got 4"):
            writer.enrol("ben", [NewSample(np.ones(4, np.float32))], fingerprint="chain")
        writer.remove("anna")
        writer.enrol("ben", [NewSample(np.ones(4, np.float32))], fingerprint="other")
    assert faces.view().counts() == {"ben": 1} and faces.facts.dimension == 4
    assert GalleryReader(faces.folder).view().search(np.ones(4, np.float32))[0].subject == "ben"


def test_names_vectors_and_labels_are_checked(home: Galleries, faces: GalleryReader) -> None:
    for name in ("", "../x", "Faces", "a/b", "a" * 70):
        with pytest.raises(ParameterInvalid, match="gallery: expected a name"):
            Facts(name, "p")
        with pytest.raises(NotFound, match="there are: faces"):
            home.get(name)
    with GalleryWriter(faces) as writer:
        for subject in ("", "../up", "a b", "x" * 65):
            with pytest.raises(ParameterInvalid, match="subject: expected"):
                writer.enrol(subject, [sample(0)], fingerprint="f")
        for vector in (np.zeros(8, np.float32), np.full(8, np.inf, np.float32)):
            with pytest.raises(ParameterInvalid, match="direction"):
                writer.enrol("a", [NewSample(vector)], fingerprint="f")
        with pytest.raises(ParameterInvalid, match="at least one sample"):
            writer.enrol("a", [], fingerprint="f")
        with pytest.raises(ParameterInvalid, match="label"):
            writer.enrol("a", [sample(0)], fingerprint="f", label="x\n")
    assert len(faces.view()) == 0
    with pytest.raises(GalleryExists):
        home.create(Facts("faces", "other"))


def test_one_writer_at_a_time(faces: GalleryReader) -> None:
    waits: list[float] = []
    with (
        GalleryWriter(faces),
        pytest.raises(GalleryBusy, match="another writer"),
        GalleryWriter(GalleryReader(faces.folder), wait_s=0.03, pause=waits.append),
    ):
        pass
    assert len(waits) >= 3
    enrolled(faces, "anna")  # and afterwards it is free


def test_a_deleted_gallery_is_gone_for_readers_and_writers(home: Galleries, faces: GalleryReader) -> None:
    enrolled(faces, "anna")
    home.delete("faces")
    with pytest.raises(NotFound):
        faces.view()
    with pytest.raises(NotFound), GalleryWriter(faces):
        pass
    assert home.names() == [] and list(home.folder.iterdir()) == []
    assert len(home.create(Facts("faces", "p")).view()) == 0


def test_a_full_disk_leaves_the_gallery_as_it_was(faces: GalleryReader, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled(faces, "anna")

    def half(file: object, changes: object) -> None:
        file.write(b"half a rec")  # type: ignore[attr-defined]
        file.flush()  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with GalleryWriter(faces) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(writer_module.journal, "append", half)
            with pytest.raises(GalleryNotWritten, match="No space left"):
                writer.enrol("ben", [sample(1)], fingerprint="chain")
        writer.enrol("cleo", [sample(2)], fingerprint="chain")
    assert GalleryReader(faces.folder).view().counts() == {"anna": 1, "cleo": 1}


def test_every_torn_end_is_passed_over_and_cut_by_the_next_writer(faces: GalleryReader) -> None:
    enrolled(faces, "anna")
    path = snapshot.journal_path(faces.folder, 0)
    whole = path.read_bytes()
    enrolled(faces, "ben")
    both = path.read_bytes()
    for cut in range(len(whole), len(both)):
        path.write_bytes(both[:cut])
        reader = GalleryReader(faces.folder)
        assert reader.view().counts() == {"anna": 1}, cut
    enrolled(GalleryReader(faces.folder), "cleo")
    assert GalleryReader(faces.folder).view().counts() == {"anna": 1, "cleo": 1}


def test_damage_before_the_end_is_said_not_served(faces: GalleryReader) -> None:
    enrolled(faces, "anna", "ben")
    path = snapshot.journal_path(faces.folder, 0)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(GalleryDamaged, match="damaged at byte 0"):
        GalleryReader(faces.folder).view()
    (faces.folder / "gallery.json").write_text("{")
    with pytest.raises(GalleryDamaged, match="gallery.json"):
        _ = GalleryReader(faces.folder).facts


_ENROLLER = """
import sys
from pathlib import Path
import numpy as np
from serving.gallery import GalleryReader, GalleryWriter, NewSample, writer
writer.SNAPSHOT_AFTER_BYTES = 900
reader, n = GalleryReader(Path(sys.argv[1])), int(sys.argv[2])
while True:
    with GalleryWriter(reader) as w:
        v = np.zeros(8, np.float32); v[n % 8] = 1; v[(n + 1) % 8] = 0.1
        w.enrol(f"s{n}", [NewSample(v), NewSample(v[::-1])], fingerprint="chain")
    print(n, flush=True)
    n += 1
"""


def test_kill_9_while_enrolling_loses_nothing_acknowledged_and_serves_nothing_half_written(
    faces: GalleryReader,
) -> None:
    """Killed six times at random moments, snapshots being made meanwhile, while another thread reads."""
    rng, acknowledged = random.Random(4), 0
    stop, wrong = threading.Event(), []

    def look() -> None:
        reader = GalleryReader(faces.folder)
        while not stop.is_set():
            try:
                counts = reader.view().counts()
                if set(counts.values()) - {2} or list(counts) != [f"s{n}" for n in range(len(counts))]:
                    wrong.append(counts)
            except Exception as error:  # noqa: BLE001 - a reader must never see a fault
                wrong.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(6):
            process = subprocess.Popen(
                [sys.executable, "-c", _ENROLLER, str(faces.folder), str(acknowledged)], stdout=subprocess.PIPE,
                text=True,
            )  # fmt: skip
            assert process.stdout is not None
            for _ in range(rng.randint(1, 12)):
                acknowledged = int(process.stdout.readline()) + 1
            os.kill(process.pid, signal.SIGKILL)
            for line in process.stdout:  # what it could still say
                acknowledged = int(line) + 1
            process.wait()
            process.stdout.close()
            found = GalleryReader(faces.folder).view().counts()
            assert len(found) in (acknowledged, acknowledged + 1) and set(found.values()) == {2}
            acknowledged = len(found)
    finally:
        stop.set()
        looking.join()
    assert not wrong
    assert snapshot.current(faces.folder) > 0, "snapshots were made meanwhile"
