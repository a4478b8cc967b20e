"""The spec of the tiny network that the converters' tests use."""

from __future__ import annotations

from typing import Any

from serving.spec import ModelSpec


def tiny_spec(**changes: Any) -> ModelSpec:
    """The spec of nets.tiny: a grey 8x8 picture in, ten logits out."""
    value: dict[str, Any] = {
        "name": "tiny",
        "task": "classification",
        "factory": {"callable": "nets:tiny"},
        "preprocess": {"width": 8, "height": 8, "colour": "grey"},
        "labels": [str(i) for i in range(10)],
        "outputs": ["logits"],
    }
    return ModelSpec.model_validate({**value, **changes})
