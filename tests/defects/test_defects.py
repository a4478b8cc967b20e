"""Seeded defects: each is put where it would occur, the comparing code is the shipped one, and the stage that caused it
is the one that is named. `pytest tests/defects -s` prints the table.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import defect_artifacts as artifacts
import defect_training as training
import numpy as np
import pytest
from defect_base import Base, quiet
from safetensors.numpy import load_file, save_file

from converters.certificate import NO_TRITON
from converters.main import convert
from converters.parity import StageRow
from converters.rows_gates import gate_of
from converters.rows_preprocess import TrainingSide, preprocess_row
from converters.samples import prepare_all, read_samples
from serving.config import Settings
from serving.errors import ConversionError
from serving.spec import ModelSpec, PreprocessSpec
from serving.tasks import task_named

pytestmark = [pytest.mark.needs("torch"), pytest.mark.needs("triton")]


def tell(defect: str, where: str, expected: str, got: tuple[str, str]) -> None:
    """One line of the table, then the verdict."""
    stage, reason = got
    print(f"{defect:<46} {where:<12} expected {expected:<16} failed at {stage or 'nowhere':<16} {reason[:110]}")
    assert stage == expected, f"{defect} in the {where}: expected {expected}, failed at {stage or 'nowhere'}: {reason}"


@pytest.mark.parametrize("name", ["colours", "spots"])
def test_the_sound_models_pass_every_row(name: str, request: pytest.FixtureRequest) -> None:
    base: Base = request.getfixturevalue(name)
    assert base.result.outcome == "published", base.result.certificate["statement"]
    assert base.failing_stage(base.spec_path) == ("", "")
    status = {row["stage"]: row["status"] for row in base.result.certificate["rows"]}
    for stage in ("load", "preprocess", "onnx_fp32", "engine_openvino", "labels", "server", "gateway", "memory"):
        assert status[stage] == "passed"


# --- in the YAML: (defect, model, changes, stage)
IN_THE_YAML: list[tuple[str, str, Mapping[str, Any], str]] = [
    ("RGB and BGR swapped", "colours", {"preprocess.colour": "bgr"}, "preprocess"),
    ("0-1 versus 0-255", "colours", {"preprocess.range": "byte"}, "preprocess"),
    ("0-255 versus 0-1", "spots", {"preprocess.range": "unit"}, "preprocess"),
    ("mean and std forgotten", "colours", {"preprocess.mean": None, "preprocess.std": None}, "preprocess"),
    ("mean forgotten", "colours", {"preprocess.mean": None}, "preprocess"),
    ("pad value 0 for 114", "colours", {"preprocess.pad_value": 0}, "preprocess"),
    ("centre crop for letterbox", "colours",
     {"preprocess.resize": "shortest_side_crop", "preprocess.shortest_side": 48}, "preprocess"),
    ("stretch for letterbox", "colours", {"preprocess.resize": "stretch"}, "preprocess"),
    ("nearest for bilinear", "colours", {"preprocess.kernel": "cv2_nearest"}, "preprocess"),
    ("nearest for bilinear (Pillow)", "spots", {"preprocess.kernel": "pil_nearest"}, "preprocess"),
    ("OpenCV's linear for Pillow's bilinear", "spots", {"preprocess.kernel": "cv2_linear"}, "preprocess"),
    ("height and width exchanged", "colours", {"preprocess.width": 48, "preprocess.height": 64}, "preprocess"),
    ("another input size accepted", "spots", {"preprocess.width": 96, "preprocess.height": 96}, "preprocess"),
    ("NHWC read as NCHW", "colours", {"preprocess.layout": "nhwc"}, "preprocess"),
    ("scaled decode switched on unasked", "colours", {"preprocess.fast": True}, "preprocess_fast"),
    ("two class names swapped", "colours", {"labels": ["green", "red", "blue", "yellow"]}, "labels"),
    ("two class names swapped (detector)", "spots", {"labels": ["blue", "red"]}, "labels"),
    ("NMS threshold changed", "spots", {"options.nms_iou": 0.6}, "constants"),
    ("NMS threshold left at the task's default", "spots", {"options.max_detections": None}, "constants"),
    ("boxes in the wrong coordinate frame", "spots", {"options.box_frame": "unit"}, "constants"),
    ("box corners read in the wrong order", "spots", {"options.box_format": "yxyx"}, "constants"),
]  # fmt: skip


@pytest.mark.parametrize(("defect", "model", "changes", "stage"), IN_THE_YAML, ids=[d[0] for d in IN_THE_YAML])
def test_a_defect_in_the_yaml(
    defect: str, model: str, changes: Mapping[str, Any], stage: str, request: pytest.FixtureRequest
) -> None:
    base: Base = request.getfixturevalue(model)
    path = base.changed_yaml(defect.replace(" ", "-"), changes)
    tell(defect, "YAML", stage, base.failing_stage(path))


# --- rules that the two models do not use: the row on its own, with a training side that does
PAD_32 = {"resize": "min_max_side", "min_side": 48, "pad_multiple": 32, "pad_position": "right_bottom"}
RULES: list[tuple[str, Callable[[bytes], training.Pair], dict[str, Any], dict[str, Any]]] = [
    ("pad multiple ignored", training.padded_to_32, PAD_32, {"pad_multiple": 1}),
    ("pseudo-grey fed as colour", training.grey_three_times,
     {"width": 32, "height": 32, "colour": "pseudo_grey"}, {"colour": "rgb"}),
]  # fmt: skip


@pytest.mark.parametrize(("defect", "side", "sound", "change"), RULES, ids=[r[0] for r in RULES])
def test_a_defect_in_a_preprocessing_rule(
    defect: str, side: Callable[[bytes], training.Pair], sound: dict[str, Any], change: dict[str, Any], home: Path
) -> None:
    spec = ModelSpec.read(home / "spots.yaml")
    samples = read_samples(spec, home / "spots", 8)
    theirs = [TrainingSide(*side(s.data)) for s in samples.samples]
    gate = gate_of("preprocess", task_named(spec.task), spec)

    def row(rule: dict[str, Any]) -> StageRow:
        return preprocess_row(samples.names, prepare_all(samples, PreprocessSpec(**rule)), theirs, gate)

    assert row(sound).status == "passed", row(sound).reason
    bad = row(sound | change)
    tell(defect, "YAML", "preprocess", (bad.stage if bad.status == "failed" else "", bad.reason))


# --- in the checkpoint, its factory, or what loads it: the whole flow, from the file on
@dataclass(frozen=True)
class FromTheFile:
    """changes of the YAML, and what is done to the checkpoint's tensors."""

    defect: str
    stage: str
    code: str
    changes: Mapping[str, Any]
    tensors: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def drop_a_tensor(tensors: dict[str, Any]) -> dict[str, Any]:
    """As `strict=False` would let it pass."""
    return {name: value for name, value in tensors.items() if name != "head.weight"}


IN_THE_CHECKPOINT = [
    FromTheFile("BatchNorm in train mode", "load", "not_frozen",
                {"factory.callable": "defect_nets:colours_batchnorm_in_train_mode"}),
    FromTheFile("dropout active", "load", "not_frozen", {"factory.callable": "defect_nets:colours_dropout_active"}),
    FromTheFile("one weight tensor dropped", "load", "keys_mismatch", {}, drop_a_tensor),
    FromTheFile("one weight tensor dropped, strict off in the YAML", "expected_score", "",
                {"checkpoint.allow_missing": ["head.weight"]}, drop_a_tensor),
    FromTheFile("BGR in the YAML and no training side to tell", "expected_score", "",
                {"preprocess.colour": "bgr", "parity.training_side": None}),
]  # fmt: skip


@pytest.mark.parametrize("case", IN_THE_CHECKPOINT, ids=lambda case: case.defect)
def test_a_defect_in_the_checkpoint(case: FromTheFile, colours: Base, offline: Settings) -> None:
    # A name of its own: the cache keeps the work of a model's last few conversions only.
    changes: dict[str, Any] = {**case.changes, "name": f"colours_{IN_THE_CHECKPOINT.index(case)}"}
    if case.tensors is not None:
        changed = colours.spec_path.with_name(f"{case.code or 'lax'}.safetensors")
        save_file(case.tensors(load_file(colours.spec_path.with_name("colours.safetensors"))), changed)
        changes["checkpoint.path"] = changed.name
    path = colours.changed_yaml(case.defect.replace(" ", "-").replace(",", ""), changes)
    try:
        result = convert(path, settings=offline, progress=quiet)
    except ConversionError as error:
        words = str(error).split()
        assert error.code == case.code
        tell(case.defect, "checkpoint", case.stage, (words[1].rstrip(":") if words[0] == "stage" else "", str(error)))
        return
    assert result.outcome == "failed"
    statuses = {row["stage"]: row for row in result.certificate["rows"]}
    assert statuses["server"]["reason"].startswith(NO_TRITON), "the only row that this machine was told to lack"
    reason = statuses[result.failed_stage]["reason"] if result.failed_stage else ""
    tell(case.defect, "checkpoint", case.stage, (result.failed_stage, reason))


# --- in what was exported or built
@pytest.mark.parametrize("case", artifacts.DEFECTS, ids=lambda case: f"{case.defect} ({case.where})")
def test_a_defect_in_an_artifact(
    case: artifacts.ArtifactDefect, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    base: Base = request.getfixturevalue(case.model)
    folder = base.copied_artifacts(tmp_path)
    case.damage(folder, base)
    got = base.failing_stage(base.spec_path, folder)
    assert "cannot be loaded" not in got[1], "a file that nobody can open is no seeded defect"
    tell(case.defect, case.where, case.stage, got)


@pytest.mark.parametrize("defect", [d for d in artifacts.DEFECTS if d.only_in_batches], ids=lambda d: d.defect)
def test_a_batch_defect_cannot_be_seen_at_batch_one(
    defect: artifacts.ArtifactDefect, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The proof that the rows above 1 are what finds them."""
    base: Base = request.getfixturevalue(defect.model)
    folder = base.copied_artifacts(tmp_path)
    defect.damage(folder, base)
    path = base.changed_yaml("batch-one", {"batch": {"opt": 1, "max": 1}})
    assert base.failing_stage(path, folder) == ("", "")


# --- in the backend: one private Triton serves all the damaged ones
BACKENDS: list[tuple[str, str, str]] = [
    ("RGB and BGR swapped", "colours", "swapped"),
    ("mean and std forgotten", "colours", "unnormalised"),
    ("scaled decode switched on unasked", "colours", "scaled"),
    ("answers of a batch handed out shifted by one", "colours", "shifted"),
    ("two class names swapped", "colours", "names"),
    ("NMS threshold changed", "spots", "nms"),
    ("boxes in the wrong coordinate frame", "spots", "frame"),
]
PATCHES = {
    "sound": "",
    "swapped": "served.decode_checked = lambda d, *a, real=served.decode_checked: real(d, *a)[:, :, ::-1].copy()",
    "unnormalised": """
spec_of = bundle.ModelSpec.model_validate
bundle.ModelSpec.model_validate = lambda v: spec_of({**v, 'preprocess': {**v['preprocess'], 'mean': (), 'std': ()}})
""",
    "scaled": """
from serving.preprocess.fast import prepare_fast
files = []
served.decode_checked = lambda data, *more, real=served.decode_checked: files.append(data) or real(data, *more)
served.prepare = lambda frame, spec: prepare_fast(files.pop() if files else frame, spec)
""",
    "shifted": """
real = served.ServedModel.infer
served.ServedModel.infer = lambda self, requests: (lambda answers: answers[1:] + answers[:1])(real(self, requests))
""",
    "names": "",
    "nms": "detection.nms = lambda b, c, k, t, real=detection.nms, **more: real(b, c, k, 0.6, **more)",
    "frame": "ImageTransform.to_source = lambda self, xyxy: np.asarray(xyxy, np.float32)",
}  # fmt: skip
MODEL_PY = """
import numpy as np
import serving.bundle as bundle
import serving.served_model as served
import serving.tasks.detection as detection
from serving.types import ImageTransform
from serving.backend import TritonPythonModel  # noqa: F401
{patch}
"""


def damaged_version(base: Base, name: str, home: Path) -> Path:
    """The published version as a staged one of another name, with its model.py patched."""
    version_dir = home / name / "1"
    shutil.copytree(base.result.version_dir, version_dir, ignore=shutil.ignore_patterns("certificate*", "__pycache__"))
    config = (base.result.version_dir.parent / "config.pbtxt").read_text()
    (version_dir.parent / "config.pbtxt").write_text(config.replace(f'"{base.sources.spec.name}"', f'"{name}"'))
    (version_dir / "model.py").write_text(MODEL_PY.format(patch=PATCHES[name.rsplit("_", 1)[1]]))
    if name.endswith("_names"):
        document = json.loads((version_dir / "spec.json").read_text())
        document["labels"][:2] = reversed(document["labels"][:2])
        (version_dir / "spec.json").write_text(json.dumps(document))
    return version_dir


Ask = Callable[[str], StageRow]


@pytest.fixture(scope="module")
def backends(
    colours: Base, spots: Base, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], StageRow]]:
    """Asks one of the damaged (or sound) models through the real row `server`."""
    from converters.assemble import bundle_of
    from converters.proof import opened
    from converters.runners import LocalRunner, TritonRunner
    from converters.served import _row
    from serving.served_model import ServedModel
    from serving.triton.embedded import EmbeddedTriton

    home = tmp_path_factory.mktemp("damaged")
    bases = {"colours": colours, "spots": spots}
    names = [f"{model}_sound" for model in bases] + [f"{model}_{patch}" for _, model, patch in BACKENDS]
    for name in names:
        damaged_version(bases[name.split("_")[0]], name, home)
    private = colours.settings.model_copy(update={"staging": True, "repository": home, "canary_interval_s": 600.0})
    triton = EmbeddedTriton(home, names, private)
    triton.start(strict=True)

    def ask(name: str) -> StageRow:
        base = bases[name.split("_")[0]]
        proof = artifacts.served_proof(base)
        with opened(proof.engine, base.work.path, proof.precision) as engine:
            local = LocalRunner(ServedModel(bundle_of(base.result.version_dir, base.sources, proof), engine))
            with TritonRunner(triton.grpc_url, name, base.sources.spec.task) as runner:
                return _row("server", "damaged backend", runner, local, base.sources, quiet)

    try:
        yield ask
    finally:
        triton.stop()


@pytest.mark.parametrize("model", ["colours", "spots"])
def test_the_sound_backend_passes(model: str, backends: Ask) -> None:
    row = backends(f"{model}_sound")
    assert row.status == "passed", row.reason
    assert row.figures["identical"] == row.samples


@pytest.mark.parametrize(("defect", "model", "patch"), BACKENDS, ids=[b[0] for b in BACKENDS])
def test_a_defect_in_the_backend(defect: str, model: str, patch: str, backends: Ask) -> None:
    row = backends(f"{model}_{patch}")
    tell(defect, "backend", "server", (row.stage if row.status == "failed" else "", row.reason))
    if patch == "shifted":
        assert "at once" in row.reason and row.figures["identical"] == row.samples, "invisible one by one"


def test_the_guard_against_half_overflow_was_needed(colours: Base) -> None:
    """The sound model has activations beyond half precision; its certificate says which layers stayed in FP32."""
    kept = colours.result.certificate["conversion"]["model.fp16.onnx"]["kept"]
    assert kept and any(float(value) > 65504 for _, value in
                        colours.result.certificate["conversion"]["model.fp16.onnx"]["largest"])  # fmt: skip
    assert np.isfinite(colours.computed.reference.outputs[0]["logits"]).all()
