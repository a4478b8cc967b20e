"""What `lockstep run` was given for each source: its name, its address, and what of it is analysed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2

from serving.errors import ParameterInvalid
from serving.streams.worker import Region
from serving.targets import MOST_TARGETS, Aim, TargetInvalid, parse_target


def addresses_of(sources: Sequence[str]) -> list[str]:
    """The address of each source, without the name before it."""
    return [named(text)[1] for text in sources]


def names_of(sources: Sequence[str]) -> list[str]:
    """A name for each source: what stands before `=`, else from its path; unique."""
    names: list[str] = []
    for text in sources:
        name = stem = named(text)[0]
        number = 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


def named(text: str) -> tuple[str, str]:
    """Name and address of `NAME=ADDRESS`, or of an address alone."""
    given = re.fullmatch(r"([A-Za-z][A-Za-z0-9_-]{0,63})=(.+)", text)
    if given and not Path(text).exists():
        return given[1], given[2]
    tail = re.split(r"[?#]", text.rstrip("/"))[0].rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", tail.rpartition(".")[0] or tail).strip("-")
    return (stem if re.match(r"[A-Za-z]", stem) else f"source-{stem}".rstrip("-"))[:64], text


def regions_of(
    names: Sequence[str], rois: Sequence[str], masks: Sequence[str], targets: Sequence[str]
) -> dict[str, Region]:
    """What is analysed of each source. Raises ParameterInvalid naming the option."""
    roi, mask = by_source("--roi", rois, names), by_source("--mask", masks, names)
    aims = _targets(targets, names)
    return {name: _region(roi.get(name, ""), mask.get(name, ""), aims[name]) for name in names}


def by_source(option: str, values: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """What was given for each source: by its name, else for all."""
    for_all, own = dict[str, str](), dict[str, str]()
    for text in values:
        name, equals, value = text.partition("=")
        mine = bool(equals) and name in names
        if not (value if equals else text):
            raise ParameterInvalid(f"{option}: expected a value, or NAME=VALUE, got {text!r}")
        if equals and not mine and not Path(text).exists():
            raise ParameterInvalid(f"{option}: no source named {name}; this run has {', '.join(names)}")
        given, into = ({name: value}, own) if mine else (dict.fromkeys(names, text), for_all)
        if given.keys() & into.keys():
            raise ParameterInvalid(f"{option}: given twice for {', '.join(sorted(given.keys() & into.keys()))}")
        into.update(given)
    return for_all | own


def _targets(values: Sequence[str], names: Sequence[str]) -> Mapping[str, tuple[Aim, ...]]:
    """Several may be given; each is a source's own, or there is one source."""
    found: dict[str, list[Aim]] = {name: [] for name in names}
    for text in values:
        name, equals, box = text.rpartition("=")
        if equals and name not in found:
            raise TargetInvalid(f"--target: no source named {name}; this run has {', '.join(names)}")
        if not equals and len(names) > 1:
            raise TargetInvalid(f"--target: expected NAME=x1,y1,x2,y2 with several sources, got {text}")
        aims = found[name if equals else names[0]]
        aims.append(parse_target(box, len(aims) + 1))
        if len(aims) > MOST_TARGETS:
            raise TargetInvalid(f"--target: expected at most {MOST_TARGETS} of a source")
    return {name: tuple(aims) for name, aims in found.items()}


def _region(roi: str, mask_path: str, aims: tuple[Aim, ...]) -> Region:
    if roi and not re.fullmatch(r"\d+,\d+,\d+,\d+", roi):
        raise ParameterInvalid(f"--roi: expected x1,y1,x2,y2 in source pixels, got {roi!r}")
    if not mask_path:
        return Region(roi, targets=aims)
    mask = cv2.imread(mask_path, cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise ParameterInvalid(f"--mask: {mask_path} is no picture; expected one of the source's size, black: unseen")
    return Region(roi, mask > 127, targets=aims)
