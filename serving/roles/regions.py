"""What of each source is analysed, and how, as its record on `streams` says: roi, mask, scenario, tracker, targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from serving.errors import ParameterInvalid
from serving.ports import Tracker
from serving.records import StreamMessage
from serving.streams.worker import Region
from serving.trackers import check_looks

Trackers = Mapping[str, Callable[[], Tracker]]
MOST_MASK_BYTES = 64 << 20
MOST_MASK_PIXELS = 40_000_000


class SourceRegions(Mapping[str, Region]):
    """By source; sources that nobody registered have none. Used by one thread (the inference thread).

    may_read: whether a mask of a registered source may be opened; its path came over REST. blind: models of whose
    boxes nobody tells what they look like.
    """

    def __init__(
        self,
        trackers: Trackers,
        may_read: Callable[[StreamMessage, Path], bool],
        blind: frozenset[str] = frozenset(),
    ) -> None:
        self._trackers, self._may_read, self._blind = trackers, may_read, blind
        self._wished: dict[str, StreamMessage] = {}
        self._made: dict[str, Region] = {}

    def wish(self, source_id: str, stream: StreamMessage | None) -> None:
        """The source's record, or None for one that is forgotten."""
        self._made.pop(source_id, None)
        if stream is None:
            self._wished.pop(source_id, None)
        else:
            self._wished[source_id] = stream

    def __getitem__(self, source_id: str) -> Region:
        """Raises KeyError (not registered), ParameterInvalid (mask or tracker)."""
        made = self._made.get(source_id)
        if made is None:
            made = self._made[source_id] = self._region(self._wished[source_id])
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._wished)

    def __len__(self) -> int:
        return len(self._wished)

    def _region(self, stream: StreamMessage) -> Region:
        if stream.track and stream.track not in self._trackers:
            known = ", ".join(sorted(self._trackers))
            about = f"streams.track of {stream.source_id}"
            raise ParameterInvalid(f"{about}: expected one of {known}, got {stream.track}")
        check_looks(f"streams.track of {stream.source_id}:", stream.track, self._blind.intersection(stream.pipelines))
        mask = self._mask(stream, Path(stream.mask)) if stream.mask else None
        parameters = {"scenario": stream.scenario} if stream.scenario else {}
        tracker = self._trackers[stream.track] if stream.track else None
        return Region(stream.roi, mask, parameters, tracker, stream.targets)

    def _mask(self, stream: StreamMessage, path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
        about = f"streams.mask of {stream.source_id}: {path.name}"
        if not self._may_read(stream, path):
            raise ParameterInvalid(f"{about}: expected a file under sources_allowed_folders")
        if not path.is_file() or path.stat().st_size > MOST_MASK_BYTES:
            raise ParameterInvalid(f"{about}: expected a picture of at most {MOST_MASK_BYTES >> 20} MiB, found none")
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None or mask.size > MOST_MASK_PIXELS:
            raise ParameterInvalid(f"{about}: is no picture; expected one of the source's size, black: unseen")
        return np.asarray(mask > 127)
