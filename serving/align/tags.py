"""Packet tags: which packets gave no picture, how far pictures are reordered, where the first keyframe was.

Every packet carries a running index through the decoder (libav's `copy_opaque`), which comes back on its picture. A
decoder hands out pictures in presentation order, so a packet is lost once R + 1 pictures have come out that were sent
later *and* are shown later. A packet without PTS has no place in that order and waits for more pictures, because
B-frames may overtake it. Memory is bounded: a packet that 256 others have followed is lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serving.align.unwrap import centred_mod
from serving.frames import DropReason

MAX_OUTSTANDING = 256
MAX_OVERTAKERS = 16  # H.264 and H.265 allow at most 16 pictures of reordering


@dataclass(slots=True)
class _Sent:
    raw_pts: int | None
    leading: bool
    later: int = 0


class PacketTags:
    """The packets inside one opened decoder. `reorder_depth` starts at the decoder's word and rises to what is seen.

    track_losses False (codecs with hidden frames): only keyframes and discard flags are remembered.
    """

    __slots__ = (
        "_any",
        "_discard",
        "_emitted",
        "_key_pts",
        "_key_tag",
        "_lost",
        "_modulus",
        "_sent",
        "_track",
        "reorder_depth",
    )

    def __init__(self, reorder_depth: int, modulus: int | None, track_losses: bool = True) -> None:
        self.reorder_depth = reorder_depth
        self._track = track_losses
        self._any = False
        self._discard: deque[int] = deque(maxlen=MAX_OUTSTANDING)
        self._modulus = modulus
        self._sent: dict[int, _Sent] = {}
        self._lost: deque[int] = deque(maxlen=MAX_OUTSTANDING)
        self._emitted: deque[list[int]] = deque(
            maxlen=2 * MAX_OVERTAKERS
        )  # [tag, how many sent before it came out after it]
        self._key_tag: int | None = None
        self._key_pts: int | None = None

    def sent(self, tag: int, raw_pts: int | None, keyframe: bool, discard: bool) -> list[DropReason]:
        """A packet went into the decoder; the reasons of packets given up to stay bounded.

        Packets before the first keyframe, and those flagged discard, promise no picture: they are not waited for.
        """
        self._any = True
        if keyframe and self._key_tag is None:
            self._key_tag, self._key_pts = tag, raw_pts
        if discard:
            self._discard.append(tag)
        if discard or not self._track or self._key_tag is None:
            return []
        self._sent[tag] = _Sent(raw_pts, self.is_leading(raw_pts))
        if len(self._sent) <= MAX_OUTSTANDING:
            return []
        return [self._give_up(next(iter(self._sent)))]

    def returned(self, tag: int, raw_pts: int | None) -> list[DropReason]:
        """A picture came out; the reasons of packets that are now known to be lost, oldest first."""
        if not self._track:
            return []
        self._sent.pop(tag, None)
        self._observe_reorder(tag)
        lost = []
        for other, sent in self._sent.items():
            if other > tag:
                break
            if self._shown_before(sent.raw_pts, raw_pts):
                sent.later += 1
                if sent.later > self._patience(sent.raw_pts, raw_pts):
                    lost.append(other)
        return [self._give_up(other) for other in lost]

    def flushed(self, before: int | None = None) -> list[DropReason]:
        """The decoder was drained: whatever is still out, of the packets before this one, will not come."""
        return [self._give_up(tag) for tag in list(self._sent) if before is None or tag < before]

    def begin_at(self, tag: int, reorder_depth: int) -> None:
        """The stream begins anew with a packet that was sent already: nothing after it is waiting for a keyframe."""
        self.reorder_depth = max(self.reorder_depth, reorder_depth)
        self._any, self._key_tag = True, tag
        self._key_pts = self._sent[tag].raw_pts if tag in self._sent else None

    def is_known_lost(self, tag: int | None) -> bool:
        """The picture's place in the ledger was already given away as lost."""
        return bool(self._lost) and tag in self._lost

    def is_discard(self, tag: int | None) -> bool:
        """The picture's packet was flagged discard (an edit list): decoded for its references, never shown."""
        return bool(self._discard) and tag in self._discard

    def before_first_keyframe(self, tag: int | None) -> bool:
        """The picture was sent before the first keyframe; never, where packets are not reported at all."""
        if not self._any:
            return False
        return self._key_tag is None or (tag is not None and tag < self._key_tag)

    def is_leading(self, raw_pts: int | None) -> bool:
        """Shown before the first keyframe, so what it refers to may be missing."""
        return raw_pts is not None and self._key_pts is not None and self._distance(raw_pts, self._key_pts) < 0

    def _distance(self, raw: int, other: int) -> int:
        return raw - other if self._modulus is None else centred_mod(raw - other, self._modulus)

    def _shown_before(self, sent_pts: int | None, picture_pts: int | None) -> bool:
        if sent_pts is None or picture_pts is None:
            return True
        return self._distance(sent_pts, picture_pts) < 0

    def _patience(self, sent_pts: int | None, picture_pts: int | None) -> int:
        if sent_pts is None or picture_pts is None:
            return max(self.reorder_depth, MAX_OVERTAKERS)
        return self.reorder_depth

    def _give_up(self, tag: int) -> DropReason:
        sent = self._sent.pop(tag)
        self._lost.append(tag)
        return DropReason.PREROLL if sent.leading else DropReason.DECODE_ERROR

    def _observe_reorder(self, tag: int) -> None:
        """R is the most pictures that were sent before a picture and shown after it."""
        for seen in self._emitted:
            if seen[0] > tag:
                seen[1] += 1
                self.reorder_depth = max(self.reorder_depth, min(seen[1], MAX_OVERTAKERS))
        self._emitted.append([tag, 0])
