"""config.pbtxt against Triton's own protobuf: what is written must parse, and mean what the spec says."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from converters.config_pbtxt import config_pbtxt
from serving.adapters.triton_room import room_of
from serving.errors import SpecInvalid
from serving.spec import ModelSpec
from serving.types import TensorSpec


def image_spec(task: str = "classification", **changes: Any) -> ModelSpec:
    options = {"options": changes.pop("options")} if "options" in changes else {}
    document = {
        "name": "net",
        "task": task,
        "checkpoint": {"format": "onnx", "path": "x.onnx"},
        "preprocess": {"width": 32, "height": 24},
        "labels": ["a", "b"],
        **options,
        **changes,
    }
    return ModelSpec.model_validate(document)


def raw_spec(**changes: Any) -> ModelSpec:
    document = {
        "name": "raw_net",
        "task": "raw",
        "checkpoint": {"format": "onnx", "path": "x.onnx"},
        "inputs": [
            {"name": "tokens", "datatype": "INT64", "shape": [16], "dynamic": {0: [1, 128]}},
            {"name": "mask", "datatype": "BOOL", "shape": [4, 2]},
        ],
        "outputs": ["logits", "score"],
        **changes,
    }
    return ModelSpec.model_validate(document)


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def test_image_model_takes_exactly_the_two_optional_ragged_inputs() -> None:
    config = parsed(config_pbtxt(image_spec()))
    assert [(i.name, i.data_type, list(i.dims), i.optional, i.allow_ragged_batch) for i in config.input] == [
        ("image", pb.TYPE_UINT8, [-1], True, True),
        ("frame", pb.TYPE_UINT8, [-1, -1, 3], True, True),
    ]
    assert (config.name, config.backend, config.max_batch_size) == ("net", "python", 8)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (
            "detection",
            [("xyxy", pb.TYPE_FP32, [-1, 4]), ("confidence", pb.TYPE_FP32, [-1]), ("class_id", pb.TYPE_INT32, [-1])],
        ),
        ("classification", None),
        ("embedding", None),
    ],
)
def test_outputs_are_the_tasks_own_and_the_result(task: str, expected: list[Any] | None) -> None:
    config = parsed(config_pbtxt(image_spec(task)))
    outputs = [(o.name, o.data_type, list(o.dims)) for o in config.output]
    assert outputs[-1] == ("result", pb.TYPE_UINT8, [-1])
    assert len(outputs) > 1
    if expected is not None:
        assert outputs[:-1] == expected


def test_raw_model_has_the_networks_tensors_without_their_batch_axis() -> None:
    outputs = [TensorSpec("score", "FP32", (-1,)), TensorSpec("logits", "FP32", (-1, -1, 10))]
    config = parsed(config_pbtxt(raw_spec(), outputs))
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
        ("tokens", pb.TYPE_INT64, [-1], False),
        ("mask", pb.TYPE_BOOL, [4, 2], False),
    ]
    assert [(o.name, list(o.dims)) for o in config.output] == [("logits", [-1, 10]), ("score", [1]), ("result", [-1])]


def test_raw_model_without_the_engines_outputs_is_refused_by_name() -> None:
    with pytest.raises(SpecInvalid, match="score"):
        config_pbtxt(raw_spec(), [TensorSpec("logits", "FP32", (-1, 10))])


def test_queue_instances_version_and_parameters_come_from_the_spec() -> None:
    serving = {"instances": 3, "threads": 2, "max_queue_size": 17, "max_queue_delay_us": 250, "queue_timeout_ms": 40}
    config = parsed(config_pbtxt(image_spec(serving=serving, version=7)))
    policy = config.dynamic_batching.default_queue_policy
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (17, 40_000)
    assert policy.allow_timeout_override and policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert [(g.kind, g.count) for g in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 3)]
    assert list(config.version_policy.specific.versions) == [7]
    parameters = {k: v.string_value for k, v in config.parameters.items()}
    assert parameters == {"task": "classification", "threads": "2", "max_queue_size": "17"}


def test_no_queue_policy_unless_asked_for_as_any_ends_prefetching() -> None:
    config = parsed(
        config_pbtxt(image_spec(serving={"instances": 3, "max_queue_size": 17}, batch={"opt": 1, "max": 4}))
    )
    assert config.HasField("dynamic_batching") and not config.dynamic_batching.HasField("default_queue_policy")
    assert room_of(config) == 17 + 3 * 4
    assert room_of(pb.ModelConfig(max_batch_size=8)) is None


def test_another_version_can_be_named() -> None:
    assert list(parsed(config_pbtxt(image_spec(), version=9)).version_policy.specific.versions) == [9]


def test_warm_up_has_real_shapes_for_one_for_opt_and_for_the_full_batch() -> None:
    config = parsed(config_pbtxt(image_spec(batch={"opt": 4, "max": 16})))
    assert [w.batch_size for w in config.model_warmup] == [1, 4, 16]
    for warmup in config.model_warmup:
        ((name, tensor),) = warmup.inputs.items()
        assert name == "frame" and tensor.zero_data and tensor.data_type == pb.TYPE_UINT8
        assert list(tensor.dims) == [480, 640, 3]


def test_warm_up_of_a_raw_model_takes_the_longest_dynamic_size() -> None:
    outputs = [TensorSpec("logits", "FP32", (-1, 10)), TensorSpec("score", "FP32", (-1, 1))]
    config = parsed(config_pbtxt(raw_spec(batch={"max": 1}), outputs))
    (warmup,) = config.model_warmup
    assert {k: list(v.dims) for k, v in warmup.inputs.items()} == {"tokens": [128], "mask": [4, 2]}


@settings(max_examples=50, deadline=None)
@given(
    opt=st.integers(1, 64),
    extra=st.integers(0, 64),
    instances=st.integers(1, 64),
    queue=st.integers(1, 4096),
    delay=st.integers(0, 1_000_000),
    task=st.sampled_from(["classification", "detection", "embedding"]),
)
def test_every_spec_writes_text_that_tritons_protobuf_reads_back(
    opt: int, extra: int, instances: int, queue: int, delay: int, task: str
) -> None:
    serving = {"instances": instances, "max_queue_size": queue, "max_queue_delay_us": delay}
    config = parsed(config_pbtxt(image_spec(task, batch={"opt": opt, "max": opt + extra}, serving=serving)))
    assert config.max_batch_size == opt + extra
    assert config.instance_group[0].count == instances
    assert room_of(config) == queue + (opt + extra) * instances
    assert config.dynamic_batching.max_queue_delay_microseconds == delay
