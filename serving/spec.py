"""The model spec: one YAML a model, read strictly. An unknown key is an error with its line and the nearest key.

`ModelSpec.read(path)` is the only way in; `json_schema()` is published for editors. Relative paths are relative to
the YAML's folder. What a served version needs of its spec travels beside the engine as `spec.json`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.errors import SpecInvalid
from serving.spec_files import labels_in
from serving.spec_rules import RuleSpec
from serving.spec_steps import MAY_HAVE_STEPS, OF_STEPS, AnswerSpec, StepSpec
from serving.spec_yaml import Tree, line_of, read_yaml

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
ResizeRule = Literal["none", "stretch", "pad_square", "letterbox", "shortest_side_crop", "center_crop", "min_max_side"]
Kernel = Literal["pil_bilinear", "pil_bicubic", "pil_nearest", "cv2_linear", "cv2_area", "cv2_nearest", "tf1_bilinear"]
ColourOrder = Literal["rgb", "bgr", "grey", "pseudo_grey"]
ValueRange = Literal["unit", "byte", "signed"]
CheckpointFormat = Literal["state_dict", "torchscript", "torch_export", "safetensors", "onnx"]
Threshold = float | dict[str, float]
EngineName = Literal["openvino", "onnxruntime", "tensorrt_rtx", "tensorrt"]
MAX_QUEUE_SIZE = "max_queue_size"  # the parameter of config.pbtxt that carries ServingSpec.max_queue_size to clients


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessSpec(_Strict):
    """How a picture becomes the network's input. The exact arithmetic is in docs/preprocessing.md.

    Order: decode -> EXIF orientation -> alpha onto black, 16-bit to 8 -> colour -> resize rule -> pad -> range ->
    mean/std -> layout. `width` x `height` is the network's plane (for `min_max_side` and `none`, 0: free).
    """

    width: int = Field(0, ge=0, le=16384)
    height: int = Field(0, ge=0, le=16384)
    resize: ResizeRule = "stretch"
    kernel: Kernel = "pil_bilinear"
    shortest_side: int | None = Field(None, ge=1, description="shortest_side_crop: the side before the centre crop")
    min_side: int | None = Field(None, ge=1)
    max_side: int | None = Field(None, ge=1)
    pad_value: int = Field(0, ge=0, le=255)
    pad_multiple: int = Field(1, ge=1, le=1024)
    pad_position: Literal["center", "right_bottom"] = "center"
    scale_up: bool = True
    colour: ColourOrder = "rgb"
    range: ValueRange = "unit"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["nchw", "nhwc"] = "nchw"
    fast: bool = Field(False, description="scaled JPEG decode and a uint8 graph, served only if their row passes")

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 1 if self.colour == "grey" else 3

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessSpec:
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given and len(given) != self.channels:
                raise ValueError(f"{name}: expected {self.channels} values for colour {self.colour}, got {len(given)}")
        if any(value == 0 for value in self.std):
            raise ValueError("std: expected values other than 0; the input is divided by them")
        fixed = self.resize not in ("none", "min_max_side")
        if fixed and not (self.width and self.height):
            raise ValueError(f"resize {self.resize} needs width and height")
        if self.resize == "shortest_side_crop" and self.shortest_side is None:
            raise ValueError("resize shortest_side_crop needs shortest_side (the side before the centre crop)")
        if self.resize == "min_max_side" and self.min_side is None and self.max_side is None:
            raise ValueError("resize min_max_side needs min_side, max_side or both")
        if self.resize == "pad_square" and self.fast:
            raise ValueError("fast: not with resize pad_square, which has no fast path")
        return self


class StateSpec(_Strict):
    """A tensor that goes from one window to the next: it starts as zeros."""

    input: str
    output: str
    shape: tuple[int, ...] = Field(description="without the batch axis, which comes first")


class SoundSpec(_Strict):
    """How sound becomes the network's input (docs/audio.md): mono float32 at `sample_rate`, cut into windows.

    Window k holds samples k * hop - context to k * hop + window; what lies outside the sound is zero.
    """

    sample_rate: int = Field(16000, ge=8000, le=48000, description="what the network hears; sound is resampled to it")
    window: int = Field(ge=1, le=480_000, description="samples of a window")
    hop: int = Field(0, ge=0, description="samples from window to window; 0: window")
    context: int = Field(0, ge=0, description="samples of the past put before each window")
    state: tuple[StateSpec, ...] = ()

    @property
    def step(self) -> int:
        """Samples from window to window."""
        return self.hop or self.window

    @model_validator(mode="after")
    def _consistent(self) -> SoundSpec:
        if self.hop > self.window:
            raise ValueError(f"hop: expected at most window ({self.window}), got {self.hop}: sound would be skipped")
        return self


class CheckpointSpec(_Strict):
    """Where the trained weights are and how strictly they are loaded."""

    path: str | None = Field(None, description="file, relative to the YAML; absent where `importer` brings it")
    format: CheckpointFormat = "state_dict"
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    strip_prefix: str = ""
    state_key: str = Field("", description="key of the state dict inside a training checkpoint, e.g. model")
    allow_missing: tuple[str, ...] = ()
    allow_unexpected: tuple[str, ...] = ()
    allow_dtype_change: tuple[str, ...] = Field((), description="keys (or patterns with *) converted to the module's")


class FactorySpec(_Strict):
    """The callable that builds the untrained module: `package.module:function` and its keyword arguments."""

    callable: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)


class TensorDecl(_Strict):
    """A named tensor of a raw model, without its batch axis."""

    name: str
    datatype: Literal["FP32", "INT64", "INT32", "UINT8", "BOOL"] = "FP32"
    shape: tuple[int, ...] = ()
    dynamic: dict[int, tuple[int, int]] = Field(default_factory=dict, description="axis -> (min, max)")


class BatchSpec(_Strict):
    """Batch sizes of the engine's profile. max 1 switches dynamic batching off."""

    opt: int = Field(1, ge=1, le=1024)
    max: int = Field(8, ge=1, le=1024)

    @model_validator(mode="after")
    def _ordered(self) -> BatchSpec:
        if self.opt > self.max:
            raise ValueError(f"batch: opt {self.opt} is over max {self.max}")
        return self


class ParitySpec(_Strict):
    """The real samples and the gates of the certificate."""

    samples: str | None = Field(None, description="folder of pictures (or .npz tensors), relative to the YAML")
    reference: str | None = Field(
        None, description="ONNX file that an ONNX checkpoint is compared with; default: itself"
    )
    labels: str | None = Field(None, description="CSV `file,label`, relative to the samples folder")
    training_side: str | None = Field(None, description="module:function(bytes, arguments) of the training code")
    training_arguments: dict[str, Any] = Field(default_factory=dict)
    gates: dict[str, dict[str, float]] = Field(default_factory=dict, description="row -> metric -> bound")
    because: str = Field("", description="why a gate is loosened; printed red")


class ExpectSpec(_Strict):
    """The score that checkpoint and served model must reach on the labelled samples (`parity.labels`)."""

    metric: str
    at_least: float


class ConstantsSpec(_Strict):
    """Training-side post-processing constants and where they come from, hashed into the certificate."""

    source: str | None = Field(None, description="module:function giving a JSON value read from the source package")
    labels_source: str | None = None


class ServingSpec(_Strict):
    """How the model is served."""

    instances: int = Field(1, ge=1, le=64)
    threads: int = Field(1, ge=1, le=64)
    max_queue_size: int = Field(64, ge=1, le=4096)
    max_queue_delay_us: int = Field(0, ge=0, le=1_000_000)
    queue_timeout_ms: int | None = Field(None, ge=1, description="None: a request waits as long as its caller does")
    required: bool = True


class ModelSpec(_Strict):
    """One model: what it is, where its weights are, how its input is made and what its output means."""

    name: Name
    task: Name
    description: str = ""
    licence: str = ""
    version: int = Field(1, ge=1)
    importer: str | None = Field(None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    checkpoint: CheckpointSpec = CheckpointSpec()
    factory: FactorySpec | None = None
    inputs: tuple[TensorDecl, ...] = ()
    outputs: tuple[str, ...] = Field((), description="names of the network's outputs, in order")
    preprocess: PreprocessSpec | None = None
    steps: tuple[StepSpec, ...] = Field((), description="what it does, without a network of its own")
    answer: AnswerSpec = AnswerSpec()
    sound: SoundSpec | None = Field(None, description="the input is sound, not a picture")
    labels: str | tuple[str, ...] = Field((), description="a file with one label a line, or the labels themselves")
    options: dict[str, Any] = Field(default_factory=dict, description="the task's own settings, checked by the task")
    thresholds: dict[str, dict[str, Threshold]] = Field(
        default_factory=dict, description="scenario -> parameter -> value, or label -> value ('*': the other classes)"
    )
    rules: dict[str, tuple[RuleSpec, ...]] = Field(
        default_factory=dict, description="task detection: scenario -> rules for boxes, in their order"
    )
    precision: Literal["fp16", "fp32"] = "fp16"
    keep_fp32: tuple[str, ...] = Field((), description="operators or node names kept in FP32")
    engines: tuple[EngineName, ...] = ("openvino", "onnxruntime", "tensorrt_rtx")
    batch: BatchSpec = BatchSpec()
    parity: ParitySpec = ParitySpec()
    expect: ExpectSpec | None = None
    constants: ConstantsSpec = ConstantsSpec()
    serving: ServingSpec = ServingSpec()
    shipped: bool = Field(False, description="shipped models may not be weak (fewer than 32 samples)")

    @field_validator("labels")
    @classmethod
    def _unique(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and len(set(value)) != len(value):
            raise ValueError("labels: expected unique names")
        return value

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        if self.steps and self.task not in MAY_HAVE_STEPS:
            raise ValueError(f"`steps` belong to task {', '.join(MAY_HAVE_STEPS)}, got task {self.task}")
        if self.task in OF_STEPS and not self.steps:
            raise ValueError(f"task {self.task} is made of `steps`: it needs at least one")
        for scenario, rules in self.rules.items():
            if len({rule.name for rule in rules}) < len(rules):
                raise ValueError(f"rules.{scenario}: expected unique names")
        if self.rules and self.task != "detection":
            raise ValueError(f"`rules` belong to task detection, got {self.task}")
        if self.steps:
            return self
        if self.checkpoint.format in ("state_dict", "safetensors") and self.factory is None:
            raise ValueError(f"checkpoint format {self.checkpoint.format} holds weights only: `factory` is missing")
        if self.task == "raw":
            if not self.inputs:
                raise ValueError("task raw needs `inputs` (name, datatype, shape)")
        elif (self.preprocess is None) == (self.sound is None):
            raise ValueError(f"task {self.task} needs `preprocess` (pictures) or `sound`, one of them")
        return self

    @property
    def takes_pictures(self) -> bool:
        """Whether a request is a picture."""
        return self.preprocess is not None or bool(self.steps)

    @property
    def takes_files(self) -> bool:
        """Whether a request is the bytes of a file, a picture or a sound; else it is named tensors."""
        return self.takes_pictures or self.sound is not None

    def with_class_ids(self, labels: Sequence[str]) -> ModelSpec:
        """The spec with the labels inside `thresholds` and `rules` as class ids, as tasks read them; SpecInvalid for
        another label."""
        ids = {label: str(number) for number, label in enumerate(labels)}

        def numbered(where: str, label: str, known: Mapping[str, str]) -> str:
            if label not in known:
                close = difflib.get_close_matches(label, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(list(known)[:20])}"
                raise SpecInvalid(f"{self.name}: {where}: unknown label {label!r}", hint=hint)
            return known[label]

        def bound(where: str, value: Threshold) -> Threshold:
            if not isinstance(value, dict):
                return value
            return {numbered(where, label, ids | {"*": "*"}): number for label, number in value.items()}

        def rule(scenario: str, one: RuleSpec) -> RuleSpec:
            where = f"rules.{scenario}.{one.name}"
            into = one.merge_into and numbered(where, one.merge_into, ids)
            named = tuple(numbered(where, label, ids) for label in one.labels)
            return one.model_copy(update={"labels": named, "merge_into": into})

        thresholds = {
            scenario: {name: bound(f"thresholds.{scenario}.{name}", value) for name, value in values.items()}
            for scenario, values in self.thresholds.items()
        }
        rules = {scenario: tuple(rule(scenario, one) for one in given) for scenario, given in self.rules.items()}
        return self.model_copy(update={"thresholds": thresholds, "rules": rules})

    @property
    def scenarios(self) -> dict[str, dict[str, Threshold]]:
        """The thresholds of every scenario; a scenario may have rules only."""
        return {name: self.thresholds.get(name, {}) for name in sorted({*self.thresholds, *self.rules})}

    @property
    def encoded_input(self) -> str:
        """The name under which the bytes of a file are sent to the server."""
        return "audio" if self.sound is not None else "image"

    @classmethod
    def read(cls, path: Path) -> ModelSpec:
        """Read and check a YAML. Raises SpecInvalid with `file:line: key: what is wrong`."""
        return _read_yaml(cls, path)

    def label_names(self, folder: Path) -> tuple[str, ...]:
        """The labels in class order; a file is read from `folder` when the path is relative."""
        if isinstance(self.labels, tuple):
            return self.labels
        return labels_in(folder, self.labels, self.name)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a model YAML, for editors."""
    return ModelSpec.model_json_schema()


def _read_yaml(kind: type[ModelSpec], path: Path) -> ModelSpec:
    tree, value = read_yaml(path)
    if not isinstance(value, dict):
        raise SpecInvalid(f"{path}: expected a mapping of keys, got {type(value).__name__}")
    try:
        spec = kind.model_validate(value)
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # a typo explains what is missing
        raise SpecInvalid(_explain(path, tree, first, len(error.errors()))) from error
    if spec.expect is not None and spec.parity.labels is None:  # versions that were published with such a spec go on
        where = f"{path}:{line_of(tree, ['expect'])}"
        raise SpecInvalid(
            f"{where}: expect: nothing to score: `parity.labels` names no CSV", hint="parity: {labels: labels.csv}"
        )
    return spec


def _explain(path: Path, tree: Tree, error: Mapping[str, Any], count: int) -> str:
    where = [part for part in error["loc"] if isinstance(part, str | int)]
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"unknown key{_nearest(where)}"
    elif "input" in error and error["type"] not in ("value_error", "missing"):
        message += f", got {repr(error['input'])[:80]}"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{path}:{line_of(tree, where)}: {'.'.join(map(str, where)) or 'the file'}: {message}{more}"


def _nearest(where: list[str | int]) -> str:
    kind: Any = ModelSpec
    for part in where[:-1]:
        field = getattr(kind, "model_fields", {}).get(part)
        kind = next(iter(_models_in(field.annotation)), None) if field else kind
    known = list(getattr(kind, "model_fields", {}))
    close = difflib.get_close_matches(str(where[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _models_in(part)]
