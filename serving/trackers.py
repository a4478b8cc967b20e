"""The trackers by name, as `--track` and registered sources call them.

Each is imported when one is made: their libraries take two seconds, which a worker started again after a kill lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

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


def check_track(option: str, track: str) -> None:
    """Raises ParameterInvalid for an unknown tracker."""
    if track and track not in TRACKERS:
        raise ParameterInvalid(f"{option}: expected one of {', '.join(TRACKERS)}, got {track}")


def check_looks(option: str, track: str, blind: Iterable[str]) -> None:
    """Raises ParameterInvalid where the tracker compares appearances and nobody tells those of the models `blind`."""
    names = ", ".join(sorted(blind))
    if track == "deepsort" and names:
        raise ParameterInvalid(
            f"{option} {track}: expected --reid with an embedding model: nobody tells what boxes of {names} look like",
            hint="or a pipeline with answer.appearance in place of it, such as person_track_reid",
        )


def check_reid(name: str, task: str) -> None:
    """Raises ParameterInvalid where the model named by `--reid` gives no embedding."""
    if task != "embedding":
        raise ParameterInvalid(f"--reid {name}: expected a model of task embedding, got task {task}")
