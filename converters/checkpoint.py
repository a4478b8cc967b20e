"""Open a checkpoint of any supported format, strictly. Runs in the limited child only: it imports torch.

state_dict: torch.load(weights_only=True) into the factory's module; safetensors: the same without a pickle;
TorchScript and torch.export: their own loaders, after the archive was searched for what would run as code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from converters.addresses import call, resolve
from converters.archive_safety import check_export_archive, check_script_archive
from converters.digest import sha256_of
from converters.job import ChildJob, LoadReport
from converters.load_report import compare, pick_state, strip_prefix
from serving.errors import CheckpointRefused, SpecInvalid

_WEIGHTS_ONLY_HINT = "save the weights alone: torch.save(model.state_dict(), path), or use safetensors"


@dataclass(frozen=True, slots=True)
class Opened:
    """A module to call, the exported program where the checkpoint is one, and the load report."""

    module: Any
    program: Any | None
    report: LoadReport


def open_checkpoint(job: ChildJob) -> Opened:
    """Load `job.checkpoint` as its spec says. Raises CheckpointRefused, KeysMismatch or SpecInvalid."""
    spec = job.spec.checkpoint
    if job.checkpoint is None:
        if job.spec.factory is None:
            raise SpecInvalid(f"{job.spec.name}: format {spec.format} without a factory needs the checkpoint's file")
        module = build(job)
        return Opened(module, None, LoadReport("none", "", parameters=_count(module)))
    digest = sha256_of(job.checkpoint, spec.sha256)
    if spec.format == "torchscript":
        return _script(job.checkpoint, digest)
    if spec.format == "torch_export":
        return _exported(job.checkpoint, digest)
    state = _read_state(job.checkpoint, spec.format, spec.state_key)
    found = strip_prefix(state, spec.strip_prefix) if spec.strip_prefix else state
    module = build(job)
    refuse_bad_numbers(found, _may_be_infinite(module))
    wanted = module.state_dict()
    report, keys = compare(wanted, found, spec, digest)
    module.load_state_dict({**wanted, **{key: found[key] for key in keys}}, strict=True)
    return Opened(module, None, replace(report, parameters=_count(module)))


def build(job: ChildJob) -> Any:
    """Call the spec's factory. Raises SpecInvalid when it cannot be imported, called, or gives no module."""
    factory = job.spec.factory
    if factory is None:
        raise SpecInvalid(f"{job.spec.name}: `factory` is missing")
    function = resolve(factory.callable, "factory")
    torch.manual_seed(job.seed)
    module = call(function, f"factory {factory.callable}", **factory.arguments)
    if not isinstance(module, torch.nn.Module):
        raise SpecInvalid(f"factory {factory.callable}: expected a torch.nn.Module, got {type(module).__name__}")
    return module


def refuse_bad_numbers(tensors: Mapping[str, Any], may_be_infinite: Callable[[str], bool]) -> None:
    """NaN anywhere, or an infinite value where it cannot be meant, is a CheckpointRefused naming the tensors."""
    bad = []
    for key, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        if torch.isnan(tensor).any():
            bad.append(f"{key} (NaN)")
        elif torch.isinf(tensor).any() and not may_be_infinite(key):
            bad.append(f"{key} (infinite)")
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise CheckpointRefused(
            f"weights that are not numbers: {', '.join(bad[:8])}{more}",
            hint="training diverged or the file is damaged; take an earlier checkpoint",
        )


def _read_state(path: Path, format_: str, state_key: str) -> dict[str, Any]:
    if format_ == "safetensors":
        loaded: object = _safetensors(path)
    else:
        loaded = _weights_only(path)
    state = pick_state(loaded, state_key, path.name)
    odd = [f"{key} ({type(value).__name__})" for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise CheckpointRefused(f"{path.name}: expected tensors only, got {', '.join(odd[:8])}", hint="see state_key")
    return dict(state)


def _weights_only(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"asks for {wanted.group(1)}" if wanted else "holds more than tensors"
        raise CheckpointRefused(
            f"{path.name}: the pickle {what}: refused before it ran", hint=_WEIGHTS_ONLY_HINT
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged or hostile file may break the reader in any way
        raise CheckpointRefused(
            f"{path.name}: not a readable state dict: {type(error).__name__}: {_line(error)}", hint=_WEIGHTS_ONLY_HINT
        ) from error


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointRefused(f"{path.name}: not a safetensors file: {_line(error)}") from error


def _script(path: Path, digest: str) -> Opened:
    check_script_archive(path)
    try:
        module: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise CheckpointRefused(f"{path.name}: not a TorchScript archive: {_line(error)}") from error
    return Opened(module, None, _as_it_is("torchscript", digest, dict(module.state_dict()), module))


def _exported(path: Path, digest: str) -> Opened:
    check_export_archive(path)
    try:
        program = torch.export.load(path)
    except Exception as error:  # the loader raises whatever the archive's JSON leads to
        raise CheckpointRefused(
            f"{path.name}: not a torch.export archive: {type(error).__name__}: {_line(error)}"
        ) from error
    module = program.module()
    return Opened(module, program, _as_it_is("torch_export", digest, dict(program.state_dict), module))


def _as_it_is(format_: str, digest: str, state: Mapping[str, Any], module: Any) -> LoadReport:
    refuse_bad_numbers(state, _may_be_infinite(module))
    return LoadReport(format_, digest, keys=len(state), parameters=_count(module))


def _may_be_infinite(module: Any) -> Callable[[str], bool]:
    """A mask kept as a buffer holds -inf on purpose; a weight or a running statistic never does."""
    buffers = {name for name, _ in module.named_buffers()}
    return lambda key: key in buffers and "running_" not in key


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
