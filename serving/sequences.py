"""A network that hears window after window: its state goes from one to the next, everything else is per window.

Used by the served model, the streams and the certificate alike. Windows without state go through in batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from serving.errors import EngineFailed
from serving.spec import SoundSpec
from serving.types import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
WINDOW = "window"
HEARD = "heard"  # samples of a whole sound, beside the network's outputs: where it ends inside its last window


def first_state(rule: SoundSpec, batch: int) -> dict[str, Array]:
    """Zeros, by the inputs' names."""
    return {state.input: np.zeros((batch, *state.shape), np.float32) for state in rule.state}


def run_windows(
    run: Run, windows: Array, rule: SoundSpec, state: Mapping[str, Array] | None = None, most: int = 64
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Windows [n, t, w] of n sounds -> outputs [n, t, ...] by name, and the state [n, ...] after the last one.

    state: by the inputs' names, absent: zeros. most: windows that a network without state takes at once.
    Raises EngineFailed where an output that the spec names as state is not there.
    """
    if not rule.state:
        return _in_batches(run, windows, most), {}
    carried = dict(first_state(rule, len(windows)) if state is None else state)
    steps: list[dict[str, Array]] = []
    for place in range(windows.shape[1]):
        outputs = dict(run({WINDOW: np.ascontiguousarray(windows[:, place]), **carried}))
        for kept in rule.state:
            if kept.output not in outputs:
                raise EngineFailed(f"state: the network has no output {kept.output!r}; it has {sorted(outputs)}")
            carried[kept.input] = np.asarray(outputs.pop(kept.output), np.float32)
        steps.append(outputs)
    if not steps:
        return {}, carried
    return {key: np.stack([step[key] for step in steps], axis=1) for key in steps[0]}, carried


def _in_batches(run: Run, windows: Array, most: int) -> dict[str, Array]:
    count, length = windows.shape[:2]
    flat = np.ascontiguousarray(windows.reshape(count * length, *windows.shape[2:]))
    parts = [dict(run({WINDOW: flat[start : start + most]})) for start in range(0, len(flat), most)]
    if not parts:
        return {}
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {key: array.reshape(count, length, *array.shape[1:]) for key, array in joined.items()}
