"""A served model that hears: encoded sound or windows in, the network's outputs of all its windows out.

An encoded sound is decoded, resampled, cut and answered piece by piece, so that three hours of it cost no more memory
than ten seconds; what is kept are the scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serving.errors import BodyInvalid
from serving.errors_audio import AudioInvalid
from serving.preprocess.audio import SoundLimits, windows_of
from serving.sequences import HEARD, WINDOW, Run, run_windows
from serving.spec import ModelSpec, SoundSpec
from serving.types import Array, InferRequest

MOST_WINDOWS = 4096  # in one request of tensors: two minutes of 32 ms windows


def hear(
    run: Run, request: InferRequest, spec: ModelSpec, parameters: Mapping[str, Any], limits: SoundLimits
) -> tuple[dict[str, Array], dict[str, float]]:
    """Outputs [t, ...] of all windows by name, with the state after the last; and times in ms (decode, infer).

    Raises InputError classes and EngineFailed.
    """
    rule = spec.sound
    assert rule is not None
    if request.tensors is not None:
        return _of_windows(run, request.tensors, rule, spec.batch.max)
    if request.encoded is None:
        raise BodyInvalid(f"{spec.name} takes sound, got a picture", hint="send the bytes of a WAV or FLAC file")
    times = {"decode": 0.0, "infer": 0.0}
    parts: list[dict[str, Array]] = []
    state: dict[str, Array] | None = None
    samples: list[int] = []
    pcm = str(parameters.get("pcm") or "")
    for windows in _timed(windows_of(request.encoded, rule, limits, pcm, count=samples.append), times):
        started = time.perf_counter()
        outputs, state = run_windows(run, windows[None], rule, state, spec.batch.max)
        parts.append({key: array[0] for key, array in outputs.items()})
        times["infer"] += (time.perf_counter() - started) * 1e3
    if not parts:
        raise AudioInvalid(f"the sound is shorter than one sample at {rule.sample_rate} Hz", hint="send a longer sound")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    after = {key: array[0] for key, array in (state or {}).items()}
    return {**joined, **after, HEARD: np.array(sum(samples))}, times


def _of_windows(
    run: Run, tensors: Mapping[str, Array], rule: SoundSpec, most: int
) -> tuple[dict[str, Array], dict[str, float]]:
    """Windows [t, context + window] and, where they go on from others, the state after those."""
    wide = rule.context + rule.window
    known = {WINDOW: (-1, wide), **{state.input: state.shape for state in rule.state}}
    for key, array in tensors.items():
        shape = known.get(key)
        if shape is None or array.ndim != len(shape) or array.shape[-1] != shape[-1] or array.dtype != np.float32:
            raise BodyInvalid(f"tensor {key}: expected one of {known} in FP32, got {list(array.shape)} {array.dtype}")
    if WINDOW not in tensors or not 0 < len(tensors[WINDOW]) <= MOST_WINDOWS:
        raise BodyInvalid(f"expected the tensor {WINDOW}, one to {MOST_WINDOWS} windows of it")
    if not np.isfinite(tensors[WINDOW]).all():
        raise BodyInvalid(f"tensor {WINDOW}: samples that are no numbers")
    started = time.perf_counter()
    carried = {s.input: np.asarray(tensors[s.input])[None] for s in rule.state if s.input in tensors}
    state = carried if len(carried) == len(rule.state) else None
    outputs, after = run_windows(run, tensors[WINDOW][None], rule, state, most)
    raw = {key: array[0] for key, array in (outputs | after).items()}
    return raw, {"infer": (time.perf_counter() - started) * 1e3}


def _timed(windows: Iterator[Array], times: dict[str, float]) -> Iterator[Array]:
    while True:
        started = time.perf_counter()
        piece = next(windows, None)
        times["decode"] += (time.perf_counter() - started) * 1e3
        if piece is None:
            return
        yield piece
