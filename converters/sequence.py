"""Sounds in the certificate: a sample is a sequence of windows, and every stage hears it from the first to the last
with its own state, as a stream does. A flip late in the sequence is seen, which a comparison window by window cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from converters.arrays import Sample
from serving.sequences import WINDOW, Run, first_state, run_windows
from serving.spec import ModelSpec
from serving.types import Array

STEPS = 256


def sounding(spec: ModelSpec, run: Run) -> Run:
    """`run` as it is, or, where the spec has `sound`, over all windows [n, t, w] of each sample."""
    rule = spec.sound
    if rule is None:
        return run

    def over_windows(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return run_windows(run, inputs[WINDOW], rule, most=spec.batch.max)[0]

    return over_windows


def over_sounds(
    spec: ModelSpec, step: Run, samples: Sequence[Sample], progress: Callable[[str], None]
) -> list[dict[str, Array]]:
    """The outputs [t, ...] of every sample."""
    results = []
    hear = sounding(spec, step)
    for index, sample in enumerate(samples):
        outputs = hear({name: array[None] for name, array in sample.items()})
        results.append({name: array[0] for name, array in outputs.items()})
        if (index + 1) % 8 == 0 or index + 1 == len(samples):
            progress(f"reference outputs {index + 1}/{len(samples)}")
    return results


def step_samples(spec: ModelSpec, samples: Sequence[Sample]) -> list[Sample]:
    """Samples as they are, or single windows of sounds with a first state, spread over all of them."""
    rule = spec.sound
    if rule is None or not samples:
        return list(samples)
    windows = np.concatenate([sample[WINDOW] for sample in samples])
    places = np.unique(np.linspace(0, len(windows) - 1, STEPS).round().astype(int))
    state = {key: array[0] for key, array in first_state(rule, 1).items()}
    return [{WINDOW: windows[place], **state} for place in places.tolist()]
