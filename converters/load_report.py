"""The strict load: a checkpoint's keys against a module's, every difference by name, none forgiven in silence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from converters.job import LoadReport
from serving.errors import CheckpointRefused, KeysMismatch
from serving.spec import CheckpointSpec

_SHOWN = 8


class TensorLike(Protocol):
    """What is asked of a tensor here: torch's, without importing torch."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def dtype(self) -> object: ...

    def numel(self) -> int: ...


def compare(
    wanted: Mapping[str, TensorLike], found: Mapping[str, TensorLike], spec: CheckpointSpec, sha256: str
) -> tuple[LoadReport, list[str]]:
    """Compare the module's tensors with the checkpoint's. Returns the report and the keys to load.

    `allow_missing` and `allow_unexpected` name keys (or patterns with *). A reshaped key that both name keeps the
    module's own values; a key of another dtype that `allow_dtype_change` names is converted. Raises KeysMismatch.
    """
    shared = [key for key in wanted if key in found]
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    reshaped = [key for key in shared if tuple(wanted[key].shape) != tuple(found[key].shape)]
    changed = [key for key in shared if key not in reshaped and wanted[key].dtype != found[key].dtype]
    allowed = [
        *(key for key in missing if _named(key, spec.allow_missing)),
        *(key for key in unexpected if _named(key, spec.allow_unexpected)),
        *(key for key in reshaped if _named(key, spec.allow_missing) and _named(key, spec.allow_unexpected)),
        *(key for key in changed if _named(key, spec.allow_dtype_change)),
    ]
    shape_of = {key: f"{key} (module {_about(wanted[key])}, checkpoint {_about(found[key])})" for key in shared}
    report = LoadReport(
        format=spec.format,
        sha256=sha256,
        keys=len(found),
        parameters=sum(tensor.numel() for tensor in wanted.values()),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        reshaped=tuple(shape_of[key] for key in reshaped),
        dtype_changed=tuple(shape_of[key] for key in changed),
        allowed=tuple(allowed),
    )
    _refuse_unnamed(missing, unexpected, reshaped, changed, allowed, shape_of)
    skipped = {key for key in reshaped if key in allowed}
    return report, [key for key in shared if key not in skipped]


def strip_prefix(state: Mapping[str, TensorLike], prefix: str) -> dict[str, TensorLike]:
    """Remove `prefix` (module. of multi-GPU training) where a key has it; two keys that become one are refused."""
    stripped: dict[str, TensorLike] = {}
    for key, value in state.items():
        short = key.removeprefix(prefix)
        if short in stripped:
            raise KeysMismatch(f"strip_prefix {prefix!r}: {key} and another key are both {short!r} without it")
        stripped[short] = value
    return stripped


def pick_state(checkpoint: object, key: str, name: str) -> Mapping[str, object]:
    """The state dict at `state_key` (dots go deeper) of a training checkpoint. Raises CheckpointRefused with a hint."""
    value = checkpoint
    for part in key.split(".") if key else ():
        if not isinstance(value, Mapping) or part not in value:
            known = sorted(map(str, value))[:_SHOWN] if isinstance(value, Mapping) else type(value).__name__
            raise CheckpointRefused(f"{name}: state_key {key!r}: no {part!r} there; found {known}")
        value = value[part]
    if not isinstance(value, Mapping):
        raise CheckpointRefused(
            f"{name}: expected a state dict, got {type(value).__name__}", hint="save model.state_dict() alone"
        )
    inside = [str(k) for k, v in value.items() if isinstance(v, Mapping)]
    if inside:
        raise CheckpointRefused(
            f"{name}: this is a training checkpoint, not a state dict: {inside[:_SHOWN]} hold mappings",
            hint=f"set state_key, e.g. state_key: {_likely(inside)}",
        )
    return {str(k): v for k, v in value.items()}


def _refuse_unnamed(
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
    changed: list[str],
    allowed: list[str],
    shape_of: Mapping[str, str],
) -> None:
    lists = {"missing": missing, "unexpected": unexpected, "reshaped": reshaped, "dtype changed": changed}
    problems = []
    for word, keys in lists.items():
        left = [shape_of.get(key, key) for key in keys if key not in allowed]
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            problems.append(f"{len(left)} {word}: {', '.join(left[:_SHOWN])}{more}")
    if problems:
        raise KeysMismatch(
            "the checkpoint's keys are not the module's: " + "; ".join(problems), hint=_hint(missing, unexpected)
        )


def _hint(missing: list[str], unexpected: list[str]) -> str:
    if missing and unexpected:
        for prefix in ("module.", "model.", "backbone.", "net."):
            if all(f"{prefix}{key}" in unexpected for key in missing[:3]):
                return f"set strip_prefix: {prefix}"
        close = difflib.get_close_matches(missing[0], unexpected, n=1, cutoff=0.8)
        if close:
            return f"{missing[0]} is called {close[0]} in the checkpoint: the factory builds another version of it"
    return "the factory's arguments must build the model that was trained; keys may be named in allow_missing and so on"


def _named(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _about(tensor: TensorLike) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _likely(keys: Sequence[str]) -> str:
    return next((key for key in keys if key in ("state_dict", "model_state_dict", "model", "ema")), keys[0])
