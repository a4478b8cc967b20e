"""A real checkpoint through the whole flow: every row, the files, the second run, the certificate again."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest
from convert_support import LIMIT, Converted, Lines, visible

from converters.certify import certify
from converters.main import convert
from converters.private_server import private_triton
from serving.bundle import ModelBundle
from serving.errors import CertificateRefused

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("triton"), pytest.mark.needs("tensorrt_rtx")]

BEFORE_THE_SERVER = ["load", "preprocess", "preprocess_fast", "onnx_fp32", "onnx_fp16", "engine_openvino",
                     "engine_onnxruntime", "engine_tensorrt_rtx", "labels", "constants"]  # fmt: skip
ORDER = [*BEFORE_THE_SERVER, "server", "gateway", "transport", "expected_score", "memory"]


def test_every_stage_is_in_the_certificate_in_the_order_of_the_datas_way(converted: Converted) -> None:
    document = converted.result.certificate
    assert converted.result.outcome == "published", document["statement"]
    assert [row["stage"] for row in document["rows"]] == ORDER
    passed = {row["stage"] for row in document["rows"] if row["status"] == "passed"}
    assert passed >= {"load", "preprocess", "onnx_fp32", "onnx_fp16", "engine_openvino", "engine_onnxruntime", "server",
                      "gateway", "transport", "expected_score", "memory"}  # fmt: skip
    reasons = {row["stage"]: row["reason"] for row in document["rows"] if row["status"] == "not_run"}
    assert reasons["labels"] == "no source" and document["memory"]["peak_rss_bytes"] > 50e6


def test_dtypes_were_read_back_from_the_runtime_and_from_the_parsed_network(converted: Converted) -> None:
    dtypes = converted.result.certificate["dtypes"]
    openvino = dtypes[f"openvino_{converted.result.certificate['engine']['precision']}"]
    assert openvino["read_from"] == "runtime model" and any(name.startswith("layer ") for name in openvino)
    plans = {name: told for name, told in dtypes.items() if name.endswith(".trt")}
    assert {"engine.tensorrt_rtx.sm86_sm89_sm120.trt", "engine.tensorrt_rtx.sm75.trt"} <= plans.keys()
    for told in plans.values():
        assert told["read_from"] == "parsed network"
        layers = [value for name, value in told.items() if name.startswith("layer ") and "CAST" not in name]
        assert layers.count("f16") > len(layers) / 2
        assert all("FP32" in value for name, value in told.items() if name.startswith(("input ", "output ")))


def test_the_published_version_loads_and_its_id_is_the_files_hash(converted: Converted) -> None:
    folder = converted.result.version_dir
    bundle = ModelBundle.load(folder)
    data = (folder / "certificate.cpu.json").read_bytes()
    assert bundle.certificate_id == hashlib.sha256(data).hexdigest()[:12]
    assert json.loads(data) == converted.result.certificate
    page = (folder / "certificate.cpu.html").read_text("utf-8")
    assert bundle.certificate_id in page and "data:image/jpeg;base64," in page
    assert not [p for p in folder.iterdir() if p.is_dir()], "no cache of Python's that the manifest does not know"
    assert (folder.parent / "config.pbtxt").read_bytes() == (folder / "config.pbtxt").read_bytes()


def test_progress_names_the_stages(converted: Converted) -> None:
    for words in ("export to ONNX", "half precision", "OpenVINO", "tensorrt_rtx", "private Triton", "publish digits"):
        assert converted.lines.any(words), words


def test_the_second_run_takes_seconds_and_publishes_nothing(converted: Converted) -> None:
    before = visible(converted.settings.repository)
    started = time.monotonic()
    again = convert(converted.spec_path, settings=converted.settings, limit=LIMIT, progress=Lines())
    assert again.outcome == "up_to_date" and again.version_dir == converted.result.version_dir
    assert time.monotonic() - started < 10
    assert visible(converted.settings.repository) == before


def test_a_run_after_the_repository_was_lost_reuses_every_finished_stage(converted: Converted, tmp_path: Path) -> None:
    lines = Lines()
    settings = converted.settings.model_copy(update={"repository": tmp_path, "triton_home": tmp_path / "none"})
    result = convert(converted.spec_path, settings=settings, limit=LIMIT, progress=lines)
    assert lines.any("checkpoint: reused") and not lines.any("export to ONNX")
    # A shipped model is not servable when nothing was proven through the server.
    assert result.outcome == "failed" and result.failed_stage == ""
    assert any(b.startswith("server: not run: no Triton") for b in result.certificate["blockers"])
    assert visible(tmp_path) == []


def test_certify_replaces_the_certificate_and_names_a_running_server(converted: Converted, tmp_path: Path) -> None:
    settings = converted.settings.model_copy(update={"repository": tmp_path / "repository"})
    shutil.copytree(converted.settings.repository, settings.repository)
    folder = settings.repository / "digits" / "1"
    before = ModelBundle.load(folder).certificate_id
    result = certify(converted.spec_path, settings=settings, limit=LIMIT, progress=Lines())
    assert result.outcome == "certified", result.certificate["statement"]
    assert ModelBundle.load(folder).certificate_id != before
    assert result.certificate["certified_with"] == converted.result.certificate["tools"]
    with private_triton(folder, settings) as triton:
        other = certify(converted.spec_path, settings=settings, limit=LIMIT, server=f"grpc://{triton.grpc_url}",
                        progress=Lines())  # fmt: skip
    rows = {row["stage"]: row for row in other.certificate["rows"]}
    assert rows["server"]["status"] == "passed" and triton.grpc_url in rows["server"]["compared"]
    assert rows["gateway"]["status"] == "not_run" and other.version_dir != folder


def test_certify_refuses_a_version_whose_yaml_or_file_changed(converted: Converted, tmp_path: Path) -> None:
    settings = converted.settings.model_copy(update={"repository": tmp_path / "repository"})
    shutil.copytree(converted.settings.repository, settings.repository)
    changed = tmp_path / "digits.yaml"
    changed.write_text(converted.spec_path.read_text().replace("opt: 8", "opt: 4"))
    with pytest.raises(CertificateRefused, match="changed since version 1"):
        certify(changed, settings=settings, limit=LIMIT, progress=Lines())
    with (settings.repository / "digits" / "1" / "engine.openvino.bin").open("r+b") as file:
        file.write(b"patched")
    with pytest.raises(CertificateRefused, match=r"engine\.openvino\.bin"):
        certify(converted.spec_path, settings=settings, limit=LIMIT, progress=Lines())
