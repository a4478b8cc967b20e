"""The trackers by name, as `--track` and registered sources call them.

Each is imported when one is made: their libraries take two seconds, which a worker started again after a kill lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serving.errors import ParameterInvalid
from serving.ports import Tracker

NewTracker = Callable[[], Tracker]


def _bytetrack() -> Tracker:
    from serving.tracking.bytetrack import ByteTrack

    return ByteTrack()


def _ocsort() -> Tracker:
    from serving.adapters.trackers import OcSort

    return OcSort()


def _deepsort() -> Tracker:
    from serving.tracking.deepsort import DeepSort

    return DeepSort()


TRACKERS: Mapping[str, NewTracker] = {"bytetrack": _bytetrack, "ocsort": _ocsort, "deepsort": _deepsort}


def trackers(reid: str) -> Mapping[str, NewTracker]:
    """Those that can be had; `deepsort` compares appearances, so it needs an embedding model (`--reid`)."""
    return {name: new for name, new in TRACKERS.items() if reid or name != "deepsort"}


def check_track(option: str, track: str, reid: str) -> None:
    """Raises ParameterInvalid for an unknown tracker, or one that lacks its embedding model."""
    if track and track not in TRACKERS:
        raise ParameterInvalid(f"{option}: expected one of {', '.join(TRACKERS)}, got {track}")
    if track and track not in trackers(reid):
        raise ParameterInvalid(
            f"{option} {track}: expected --reid with an embedding model too: it compares appearances"
        )


def check_reid(name: str, task: str) -> None:
    """Raises ParameterInvalid where the model named by `--reid` gives no embedding."""
    if task != "embedding":
        raise ParameterInvalid(f"--reid {name}: expected a model of task embedding, got task {task}")
