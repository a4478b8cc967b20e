"""One process of a role, as the fault rig starts it: the product's wiring, a stub model, a mixer that writes down.

python -m serving.testing.faults.role '{"role": "worker", "kafka": "127.0.0.1:9092", ...}'
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from serving.config import Settings
from serving.errors import LockstepError
from serving.frames import AlignedFrame
from serving.preprocess.jpeg import JpegCodec
from serving.records import StreamMessage
from serving.roles import main_accountant, main_ingest, main_mixer, main_worker, reading
from serving.testing.faults.stub_model import NAME, Control, Mark, open_stub, stub_infer
from serving.testing.sync_code import HEIGHT, WIDTH, draw_strips, read_own
from serving.testing.sync_play import OneTrack
from serving.types import PixelArray

PR_SET_PDEATHSIG = 1
TRACK = "bytetrack"  # under this name the workers have a tracker for one object
SPOILT = (0, 500, 1500)  # bytes of pictures that were damaged on purpose: nothing, cut, cut and flipped
MEMORY_LIMIT = 2 << 30  # what deploy/kubernetes grants a worker; the poison wants 8 GiB


REAL_TIME = time.time


class Spoiler(JpegCodec):
    """Damages a share of the pictures that it encodes; what it damaged is known by its size."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._rng, self._share = random.Random(5), share

    def encode(self, rgb: PixelArray) -> bytes:
        """A JPEG, or what is left of one."""
        data = super().encode(rgb)
        if self._rng.random() >= self._share:
            return data
        size = self._rng.choice(SPOILT)
        return data[:size] if size < SPOILT[-1] else bytes(byte ^ 0x5A for byte in data[:size])


class Recorder:
    """In place of the mixer's drawing: says of each shown frame what picture it was and what was on it."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, shown: AlignedFrame, rgb: PixelArray, note: str) -> PixelArray:
        """The picture with its strips, where it is a coded one."""
        coded = rgb.shape[:2] == (HEIGHT, WIDTH)
        own, frame = read_own(rgb) if coded else None, shown.frame
        boxes = [
            (int(number), int(origin))
            for overlay in shown.overlays
            for number, origin in zip(overlay.boxes.class_id, overlay.origin, strict=True)
        ]
        line = {
            "at": REAL_TIME(), "wall_s": time.time() - REAL_TIME(),
            "source": frame.source_id, "epoch": frame.epoch, "seq": frame.frame_seq,
            "pts_ns": frame.pts_ns, "out_ns": shown.out_pts_ns, "own": own[1] if own else None, "boxes": boxes,
            "waited_ns": shown.released_mono_ns - frame.arrival_mono_ns, "pid": os.getpid(),
        }  # fmt: skip
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        return draw_strips(rgb, shown, [NAME]) if coded else rgb


def run_worker(spec: Mapping[str, Any]) -> None:
    """A worker with the stub model, bounded as a container bounds it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    folder, member = Path(spec["folder"]), spec["name"]
    folder.mkdir(parents=True, exist_ok=True)
    rewire(main_worker, "TRACKERS", lambda known: {**known, TRACK: partial(OneTrack, 1)})
    control = Control(Path(spec["control"]), member)
    infer = stub_infer(control, Mark(Path(spec["mark"])), seed=os.getpid())
    opened = open_stub(folder / str(os.getpid()), infer)
    options = main_worker.WorkerOptions((NAME,), track=TRACK, member=member if spec["static"] else "")
    role = main_worker.run_worker(_settings(spec), options, opened)
    _say({"counters": dict(role.counters)})


def run_mixer(spec: Mapping[str, Any]) -> None:
    """A mixer that records what it shows beside writing HLS."""
    with Path(spec["releases"]).open("a", encoding="utf-8") as file:
        rewire(main_mixer, "Drawing", lambda made: lambda *given, **more: Recorder(file))
        main_mixer.run_mixer(
            _settings(spec), main_mixer.MixerOptions(Path(spec["output"]), spec["delay_ms"], member=spec["name"])
        )


def run_accountant(spec: Mapping[str, Any]) -> None:
    """The accountant as it is."""
    main_accountant.run_accountant(_settings(spec), spec["name"])


def run_ingest(spec: Mapping[str, Any]) -> None:
    """One source; prints how many frame records it wrote."""
    if spec.get("max_payload"):
        limits = {"max_payload": spec["max_payload"], "reduced_side": 640}
        rewire(reading, "IngestSettings", lambda made: lambda *given, **more: made(*given, **{**more, **limits}))
    if spec.get("spoil"):
        rewire(reading, "frame_codec", lambda made: lambda settings: Spoiler(spec["spoil"]))
    stream = StreamMessage(
        spec["source_id"], spec["address"], (NAME,), delay_ms=spec["delay_ms"], mixed=True, lease_s=spec.get("lease_s")
    )
    (role,) = main_ingest.run_ingest(_settings(spec), stream)
    _say({"records": role.frames, "fenced": role.fenced, "error": str(role.stage.error or "")})


ROLES: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "worker": run_worker,
    "mixer": run_mixer,
    "accountant": run_accountant,
    "ingest": run_ingest,
}


def run(spec: Mapping[str, Any]) -> int:
    """Until a signal; the exit status."""
    end_with_parent()
    _set_clock(Control(Path(spec["control"])))
    if spec.get("mutant"):
        from serving.testing.mutants.roles import ROLE_MUTANTS

        ROLE_MUTANTS[spec["mutant"]].apply()
    try:
        ROLES[spec["role"]](spec)
    except LockstepError as error:
        print(f"error[{error.code}]: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    return 0


def end_with_parent() -> None:
    """Nothing outlives the rig."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _set_clock(control: Control) -> None:
    """The wall clock of this process as the control file has it: clock_s off, clock_ppm fast."""
    began = REAL_TIME()

    def wall() -> float:
        now = REAL_TIME()
        return now + float(control.get("clock_s", 0)) + (now - began) * float(control.get("clock_ppm", 0)) * 1e-6

    time.time = wall
    time.time_ns = lambda: int(wall() * 1e9)


def _settings(spec: Mapping[str, Any]) -> Settings:
    folder = Path(spec["folder"]) / "none"
    return Settings(kafka=spec["kafka"], kafka_prefix=spec["prefix"], repository=folder, redis=spec["redis"])


def rewire(module: object, name: str, change: Callable[[Any], Any]) -> None:
    """Replace a part of the wiring. Raises AttributeError where that part is no longer there."""
    setattr(module, name, change(getattr(module, name)))


def _say(document: Mapping[str, Any]) -> None:
    print(json.dumps(document), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(run(json.loads(sys.argv[1])))
