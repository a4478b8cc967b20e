"""A football match without a camera: a pitch, a stand and players, drawn with the exact map of every frame.

The camera is a pinhole on a tripod that pans, tilts and zooms. Markings are drawn by their distance in metres over the
metres that one pixel covers there, so edges are right to parts of a pixel however thin a line is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from serving.pitch.model import CIRCLE, LINE_WIDTH, PITCH, SPOT, Matrix, Pitch, Points, metres_of, normalised
from serving.types import PixelArray

TALL = 1.8
MARGIN = 7.0  # metres of grass around the pitch


@dataclass(frozen=True, slots=True)
class Camera:
    """place: x, y of the tripod in metres of the pitch and its height; look: the point of the grass in the middle of
    the picture; focal: in picture widths."""

    place: tuple[float, float, float] = (52.5, 68 + 35.0, 18.0)
    look: tuple[float, float] = (52.5, 40.0)
    focal: float = 1.1
    size: tuple[int, int] = (960, 540)

    @property
    def axes(self) -> Matrix:
        """Rows: right, down, forward in metres of the pitch (z up)."""
        forward = np.array([*self.look, 0.0]) - np.array(self.place)
        forward /= np.linalg.norm(forward)
        # x to the right and y towards the viewer are left-handed with z up
        right = np.cross([0.0, 0.0, 1.0], forward)
        right /= np.linalg.norm(right)
        down = np.cross(right, forward)
        return np.stack([right, down, forward])

    @property
    def matrix(self) -> Matrix:
        """3 x 4, metres (x, y, up) -> pixels; pixel centres are whole numbers."""
        width, height = self.size
        inner = np.array(
            [[self.focal * width, 0, (width - 1) / 2], [0, self.focal * width, (height - 1) / 2], [0, 0, 1]]
        )
        return np.asarray(inner @ np.column_stack([self.axes, -self.axes @ np.array(self.place)]))

    @property
    def to_metres(self) -> Matrix:
        """The exact homography, pixels -> metres, last element 1."""
        return normalised(np.linalg.inv(self.matrix[:, [0, 1, 3]]))


@dataclass(frozen=True, slots=True)
class Scene:
    """What is drawn. noise: grey levels of a pixel; blur: sigma in pixels; smear: pixels of motion, along the row."""

    pitch: Pitch = PITCH
    players: int = 22
    noise: float = 4.0
    blur: float = 0.7
    smear: int = 0
    paint: float = 0.85
    shade: float = 0.0
    seed: int = 0
    stripes: bool = True
    colours: tuple[tuple[int, int, int], ...] = field(default=((220, 30, 40), (245, 245, 245)))

    def places(self, moment: float = 0.0) -> Points:
        """Where the players stand at `moment` seconds, [n, 2] metres."""
        rng = np.random.default_rng(self.seed)
        base = rng.uniform([4, 4], [self.pitch.length - 4, self.pitch.width - 4], (self.players, 2))
        pace, phase = rng.uniform(0.3, 1.0, (self.players, 2)), rng.uniform(0, 6, (self.players, 2))
        return np.asarray(base + 3 * np.sin(pace * moment + phase), np.float64)

    def boxes(self, camera: Camera, moment: float = 0.0) -> Points:
        """Each player's box in pixels, [n, 4]; nan where he is behind the camera. The foot point is its lower
        middle."""
        feet = self.places(moment)
        foot, head = (_seen(camera, feet, z) for z in (0.0, TALL))
        half = (foot[:, 1] - head[:, 1]) * 0.2
        return np.stack([foot[:, 0] - half, head[:, 1], foot[:, 0] + half, foot[:, 1]], axis=1)

    def draw(self, camera: Camera, moment: float = 0.0) -> PixelArray:
        """RGB uint8 [h, w, 3]."""
        width, height = camera.size
        rng = np.random.default_rng((self.seed, round(moment * 1000)))
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float64)
        metres = metres_of(camera.to_metres, pixels)
        beyond = np.abs(metres - [self.pitch.length / 2, self.pitch.width / 2]) > [
            self.pitch.length / 2 + MARGIN, self.pitch.width / 2 + MARGIN,
        ]  # fmt: skip
        inside = ~(beyond | np.isnan(metres)).any(axis=1)
        picture = _stand(camera, pixels)
        ground = _ground(self, metres.reshape(height, width, 2)).reshape(-1, 3)
        picture[inside] = ground[inside]
        canvas = picture.reshape(height, width, 3)
        self._draw_players(canvas, camera, moment)
        if self.smear > 1:
            canvas = cv2.blur(canvas, (self.smear, 1))
        if self.blur:
            canvas = cv2.GaussianBlur(canvas, (0, 0), self.blur)
        return np.clip(canvas + rng.normal(0, self.noise, canvas.shape), 0, 255).astype(np.uint8)

    def _draw_players(self, canvas: Points, camera: Camera, moment: float) -> None:
        boxes = self.boxes(camera, moment)
        for number in np.argsort(np.nan_to_num(boxes[:, 3])).tolist():
            if not np.isfinite(boxes[number]).all() or np.abs(boxes[number]).max() > 1e4:
                continue
            x1, y1, x2, y2 = (float(v) for v in boxes[number])
            middle, high, wide = (x1 + x2) / 2, y2 - y1, (x2 - x1) / 2
            shirt = self.colours[number % len(self.colours)]
            for at, part, across, colour in ((0.75, 0.25, 0.6, (40, 40, 60)), (0.35, 0.22, 0.8, shirt),
                                             (0.08, 0.08, 0.35, (200, 160, 130))):  # fmt: skip
                centre = (round((middle) * 16), round((y1 + at * high) * 16))
                axes = (max(8, round(across * wide * 16)), max(8, round(part * high * 16)))
                cv2.ellipse(canvas, centre, axes, 0, 0, 360, colour, cv2.FILLED, cv2.LINE_AA, 4)


def _seen(camera: Camera, feet: Points, up: float) -> Points:
    lifted = np.column_stack([feet, np.full(len(feet), up), np.ones(len(feet))])
    x, y, w = camera.matrix @ lifted.T
    w = np.where(w > 0.5, w, np.nan)
    return np.stack([x / w, y / w], axis=1)


def _stand(camera: Camera, pixels: Points) -> Points:
    """Seats by the direction they are seen in: they move with the picture as the pitch does. [n, 3]"""
    width = camera.size[0]
    rays = np.column_stack([(pixels - (np.array(camera.size) - 1) / 2) / (camera.focal * width), np.ones(len(pixels))])
    world = rays @ camera.axes
    angle = np.arctan2(world[:, 0], -world[:, 1])
    rise = np.arctan2(world[:, 2], np.hypot(world[:, 0], world[:, 1]))
    column, row = np.floor(angle * 150).astype(np.int64), np.floor(rise * 110).astype(np.int64)
    mixed = (column * 73856093 ^ row * 19349663) & 0xFFFF
    grey = 40 + (mixed % 97)
    return np.stack([grey, 30 + (mixed // 97) % 100, 60 + (mixed // 13) % 90], axis=1).astype(np.float64)


def _ground(scene: Scene, metres: Points) -> Points:
    """Grass with mowing stripes, and markings. metres: [h, w, 2] -> [h, w, 3]"""
    pitch, (x, y) = scene.pitch, np.moveaxis(metres.astype(np.float32), -1, 0)
    band = (np.floor(x / 5.25) % 2) if scene.stripes else np.zeros_like(x)
    rough = 6 * np.sin(x * 9.1) * np.sin(y * 7.7)
    grass = np.array([52.0, 118.0, 48.0]) + (band * 12 + rough)[..., None] * np.array([0.7, 1.0, 0.6])
    paint = np.zeros_like(x)
    for distance, step in _distances(pitch, x, y):  # step: metres a pixel, across the line
        cover = np.clip(0.5 + (LINE_WIDTH / 2 - distance) / step, 0, 1) * np.minimum(1, LINE_WIDTH / step)
        paint = np.maximum(paint, np.nan_to_num(cover))
    colour = grass + paint[..., None] * scene.paint * (np.array([240.0, 244.0, 240.0]) - grass)
    if scene.shade:
        colour *= np.where(x + 0.4 * y < pitch.length * 0.55, 1 - scene.shade, 1.0)[..., None]
    return np.asarray(colour, np.float64)


def _distances(pitch: Pitch, x: Points, y: Points) -> Iterator[tuple[Points, Points]]:
    """Metres from the middle of each marking (more beside its ends), and metres a pixel in that direction."""
    half = LINE_WIDTH / 2
    (x_down, x_right), (y_down, y_right) = np.gradient(x), np.gradient(y)
    x_step, y_step = np.hypot(x_down, x_right) + 1e-6, np.hypot(y_down, y_right) + 1e-6
    for x1, y1, x2, y2 in pitch.segments:
        across, low, high, at, over = (x1, y1, y2, y, x) if x1 == x2 else (y1, x1, x2, x, y)
        beyond = np.maximum(np.maximum(min(low, high) - half - at, at - max(low, high) - half), 0)
        yield np.abs(over - across) + 2 * beyond, x_step if x1 == x2 else y_step
    for cx, cy, first, last in pitch.arcs:
        radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
        step = np.hypot(np.cos(angle) * x_down + np.sin(angle) * y_down,
                        np.cos(angle) * x_right + np.sin(angle) * y_right) + 1e-6  # fmt: skip
        off = np.where(np.mod(angle - first, 2 * np.pi) <= last - first, 0.0, 9.0)
        yield np.abs(radius - CIRCLE) + off, step
    for cx in (SPOT, pitch.length - SPOT, pitch.length / 2):
        yield np.maximum(np.hypot(x - cx, y - pitch.width / 2) - 0.1, 0), np.maximum(x_step, y_step)


def sweep(frames: int, fps: float = 25.0, size: tuple[int, int] = (960, 540)) -> list[tuple[Camera, float]]:
    """A camera that follows play from one penalty area towards the other and zooms. (camera, seconds) a frame."""
    found = []
    for number in range(frames):
        moment = number / fps
        at = 0.5 - 0.5 * np.cos(np.pi * number / max(frames - 1, 1))
        found.append((Camera(look=(20 + 65 * float(at), 36 + 4 * float(np.sin(moment))),
                             focal=1.15 + 0.15 * float(np.sin(0.7 * moment)), size=size), moment))  # fmt: skip
    return found
