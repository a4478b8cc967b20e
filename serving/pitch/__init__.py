"""A football pitch in a picture: its lines found by classical vision, and the map from pixels to metres.

    field = find_pitch(rgb)                     one picture, on its own
    MapFilter().update(field, pts_ns, rgb)      a video: held, smoothed, or `unknown`
    draw_map(rgb, positions, ...)               the small map

The way of a picture: `lines` (grass, paint, straight lines) -> `search` (which line of the pitch is which) -> `fit`
(all paint at once, to parts of a pixel) -> `find` (is it the only map, and good enough to be told).
"""

from serving.pitch.find import find_pitch
from serving.pitch.model import PITCH, FieldMap, Pitch

__all__ = ["PITCH", "FieldMap", "Pitch", "find_pitch"]
