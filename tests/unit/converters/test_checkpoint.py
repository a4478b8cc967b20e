"""Every format loads strictly, and every difference is refused by the key's own name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="skipped: torch: make setup")

import nets
import torch
from safetensors.torch import save_file

from converters.checkpoint import open_checkpoint
from converters.frozen import freeze
from converters.job import ChildJob
from serving.errors import CheckpointRefused, KeysMismatch, SpecInvalid

# torch warns that TorchScript is deprecated; its files are read all the same.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning"
)

Job = Callable[..., ChildJob]
Change = Callable[[dict[str, Any]], object]
X = torch.from_numpy(np.random.default_rng(0).random((3, 1, 8, 8), np.float32))


def _trained() -> Any:
    torch.manual_seed(3)
    return nets.tiny().eval()


def _state(path: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    state = dict(_trained().state_dict())
    if change:
        change(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("format_", ["state_dict", "safetensors", "torchscript", "torch_export"])
def test_every_format_answers_like_the_trained_network(format_: str, tmp_path: Path, job: Job) -> None:
    trained, path = _trained(), tmp_path / "tiny.pt2"
    expected = trained(X)
    if format_ == "state_dict":
        torch.save(trained.state_dict(), path)
    elif format_ == "safetensors":
        save_file(trained.state_dict(), path)
    elif format_ == "torchscript":
        torch.jit.save(torch.jit.script(trained), str(path))
    else:
        program = torch.export.export(trained, (X,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path)
    opened = open_checkpoint(job(path, checkpoint={"format": format_}))
    freeze(opened.module)
    torch.testing.assert_close(opened.module(X), expected, rtol=1e-6, atol=1e-6)
    assert opened.report.format == format_
    assert opened.report.parameters == sum(p.numel() for p in trained.parameters())
    assert not any(parameter.requires_grad for parameter in opened.module.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("head.weight"), "1 missing: head.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"head.weight": torch.zeros(7, 4)}), r"1 reshaped: head.weight \(module \[10, 4\] float32"),
        (lambda s: s.update({"head.bias": s["head.bias"].half()}), "1 dtype changed: head.bias"),
    ],
)
def test_a_changed_key_is_named(
    change: Callable[[dict[str, Any]], object], says: str, tmp_path: Path, job: Job
) -> None:
    with pytest.raises(KeysMismatch, match=says):
        open_checkpoint(job(_state(tmp_path / "t.pt", change)))


def test_keys_that_the_spec_names_are_allowed_and_reported(tmp_path: Path, job: Job) -> None:
    def change(state: dict[str, Any]) -> None:
        state["old.head"] = state.pop("head.bias")
        state["conv.weight"] = state["conv.weight"].half()

    allowed = {"allow_missing": ["head.bias"], "allow_unexpected": ["old.*"], "allow_dtype_change": ["conv.weight"]}
    report = open_checkpoint(job(_state(tmp_path / "t.pt", change), checkpoint=allowed)).report
    assert report.missing == ("head.bias",)
    assert report.unexpected == ("old.head",)
    assert set(report.allowed) == {"head.bias", "old.head", "conv.weight"}


def test_a_multi_gpu_prefix_is_stripped_or_suggested(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "t.pt"
    torch.save({f"module.{key}": value for key, value in _trained().state_dict().items()}, path)
    with pytest.raises(KeysMismatch) as caught:
        open_checkpoint(job(path))
    assert "strip_prefix: module." in caught.value.hint
    opened = open_checkpoint(job(path, checkpoint={"strip_prefix": "module."}))
    torch.testing.assert_close(opened.module.eval()(X), _trained()(X))


def test_a_training_checkpoint_needs_state_key(tmp_path: Path, job: Job) -> None:
    path = tmp_path / "t.pt"
    torch.save({"epoch": 3, "model": _trained().state_dict()}, path)
    with pytest.raises(CheckpointRefused) as caught:
        open_checkpoint(job(path))
    assert "state_key: model" in caught.value.hint
    open_checkpoint(job(path, checkpoint={"state_key": "model"}))
    with pytest.raises(CheckpointRefused, match="no 'ema' there"):
        open_checkpoint(job(path, checkpoint={"state_key": "ema"}))


@pytest.mark.parametrize(("key", "value"), [("conv.weight", float("nan")), ("bn.running_var", float("inf"))])
def test_a_weight_that_is_no_number_is_named(key: str, value: float, tmp_path: Path, job: Job) -> None:
    path = _state(tmp_path / "t.pt", lambda state: state[key].view(-1).__setitem__(0, value))
    with pytest.raises(CheckpointRefused, match=key):
        open_checkpoint(job(path))


def test_another_architecture_is_refused_with_the_nearest_key(tmp_path: Path, job: Job) -> None:
    with pytest.raises(KeysMismatch, match="reshaped"):
        open_checkpoint(job(_state(tmp_path / "t.pt"), factory={"callable": "nets:tiny", "arguments": {"width": 8}}))


def test_the_hash_must_be_the_specs(tmp_path: Path, job: Job) -> None:
    with pytest.raises(CheckpointRefused, match="expected SHA-256 0000"):
        open_checkpoint(job(_state(tmp_path / "t.pt"), checkpoint={"sha256": "0" * 64}))


@pytest.mark.parametrize("format_", ["state_dict", "safetensors", "torchscript", "torch_export"])
@pytest.mark.parametrize("data", [b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip", b"\x80\x02}q\x00."])
def test_a_damaged_file_is_refused(format_: str, data: bytes, tmp_path: Path, job: Job) -> None:
    path = tmp_path / "t.pt2"
    path.write_bytes(data)
    with pytest.raises((CheckpointRefused, KeysMismatch)):
        open_checkpoint(job(path, checkpoint={"format": format_}))


@pytest.mark.parametrize(
    ("address", "says"),
    [("nets:missing", "no 'missing'"), ("nowhere:tiny", "No module"), ("nets:not_a_module", "expected a torch.nn.Mod")],
)
def test_a_factory_that_gives_no_module_is_a_spec_error(address: str, says: str, tmp_path: Path, job: Job) -> None:
    with pytest.raises(SpecInvalid, match=says):
        open_checkpoint(job(_state(tmp_path / "t.pt"), factory={"callable": address}))
    with pytest.raises(SpecInvalid, match="unexpected keyword"):
        open_checkpoint(job(_state(tmp_path / "t.pt"), factory={"callable": "nets:tiny", "arguments": {"depth": 3}}))
