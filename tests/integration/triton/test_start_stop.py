"""Starting only what is certified and fits, saying why not, and leaving nothing."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from triton_support import PATCHED_PY, adder_model, certify, colours_model, redness_model, settings_for

from serving.errors import CertificateRefused, EngineFailed, NotFound, Unavailable
from serving.triton.embedded import EmbeddedTriton
from serving.triton.memory import MemoryTooSmall

pytestmark = pytest.mark.needs("triton")


def tampered(version: Path) -> None:
    (version / "model.onnx").write_bytes((version / "model.onnx").read_bytes() + b"\0")


def test_nothing_is_left_after_stop_and_a_broken_model_has_a_reason(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    colours_model(repository)
    broken = "raise RuntimeError('the engine does not open')\n"
    adder_model(repository, model_py=broken)
    tampered(redness_model(repository))
    triton = EmbeddedTriton(repository, (), settings_for(tmp_path))
    triton.start()
    assert triton._runtime is not None
    shm = triton._runtime.shm_prefix
    before = [p for p in Path("/dev/shm").iterdir() if p.name.startswith(shm)]
    family = [psutil.Process(triton.pid), *psutil.Process(triton.pid).children(recursive=True)]
    states = {state.name: state for state in triton.states()}
    assert set(states) == {"colours", "adder"}, "redness changed since it was certified"
    assert states["colours"].ready
    assert not states["adder"].ready and "the engine does not open" in states["adder"].reason
    assert "model.py" not in states["adder"].reason
    assert not triton.ready()
    with pytest.raises(NotFound, match="colours"):
        triton.watch("redness")
    triton.stop()
    triton.stop()
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not list((tmp_path / "cache" / "run").iterdir())
    assert before and not list(Path("/dev/shm").glob(f"{shm}*"))


def test_strict_start_refuses_a_model_that_does_not_load(tmp_path: Path) -> None:
    adder_model(tmp_path / "repository", model_py=PATCHED_PY.format(body="pass") + "\nraise OSError('no such library')")
    triton = EmbeddedTriton(tmp_path / "repository", ("adder",), settings_for(tmp_path))
    with pytest.raises(EngineFailed, match="no such library"):
        triton.start(strict=True)
    assert triton.pid == 0 and not list((tmp_path / "cache" / "run").iterdir())


def test_a_named_model_without_its_certificate_is_refused_before_anything_starts(tmp_path: Path) -> None:
    tampered(colours_model(tmp_path / "repository"))
    with pytest.raises(CertificateRefused, match="changed since"):
        EmbeddedTriton(tmp_path / "repository", ("colours",), settings_for(tmp_path)).start()
    with pytest.raises(NotFound, match="no model nobody; there are: "):
        EmbeddedTriton(tmp_path / "repository", ("nobody",), settings_for(tmp_path)).start()
    with pytest.raises(CertificateRefused, match="lockstep convert"):
        EmbeddedTriton(tmp_path / "empty", (), settings_for(tmp_path)).start()
    assert not (tmp_path / "cache").exists()


def test_staging_serves_what_has_no_certificate(tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    (version / "certificate.cpu.json").unlink()
    (version / "manifest.json").unlink()
    settings = settings_for(tmp_path, staging=True)
    with EmbeddedTriton(tmp_path / "repository", ("colours",), settings) as triton:
        triton.wait_ready(30)
        assert triton.watch("colours").stubs[0].peak_rss_bytes > 20 * 2**20


def test_models_that_exceed_the_memory_are_refused_before_start(tmp_path: Path) -> None:
    version = colours_model(tmp_path / "repository")
    certify(version, peak_rss_bytes=10**15)
    with pytest.raises(MemoryTooSmall, match="colours"):
        EmbeddedTriton(tmp_path / "repository", (), settings_for(tmp_path)).start()
    assert not list((tmp_path / "cache" / "run").iterdir())


def test_without_triton_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    colours_model(tmp_path / "repository")
    settings = settings_for(tmp_path, triton_home=tmp_path / "nowhere")
    with pytest.raises(Unavailable, match="make setup"):
        EmbeddedTriton(tmp_path / "repository", (), settings).start()
