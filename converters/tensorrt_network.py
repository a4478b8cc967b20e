"""Parse an ONNX graph into a strongly typed TensorRT(-RTX) network and read every dtype back from the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import TensorProto

from converters.modules import described, module_of
from converters.onnx_safety import load_checked
from serving.engines.layers import TENSORRT_DATATYPES, LayerDtype
from serving.errors import BuildFailed, ConversionError, OperatorUnsupported
from serving.types import TensorSpec

_HEAVY = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION_INPUT")
_WORDS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT64": "i64", "INT32": "i32", "INT8": "i8", "BOOL": "bool"}


@dataclass(slots=True)
class Messages:
    """What the library said, kept for the error message; nothing is printed."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ParsedNetwork:
    """A parsed network with its builder (which must outlive it) and what was read from it."""

    source: Path
    model: Any
    builder: Any
    network: Any
    messages: Messages
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerDtype, ...]
    parser: Any

    def heavy_in(self, dtype: str) -> list[LayerDtype]:
        """Convolutions and matrix products that compute in `dtype`."""
        return [layer for layer in self.layers if layer.kind in _HEAVY and layer.dtype == dtype]

    def planned_in_fp32(self, layer: str) -> bool:
        """Whether the ONNX node that the layer came from has FP32 data itself (layers are named after nodes)."""
        halves = {tensor.name for tensor in self.model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
        halves |= {n for node in self.model.graph.node if _casts_to_half(node) for n in node.output}
        nodes = [node for node in self.model.graph.node if node.name and layer.startswith(node.name)]
        return bool(nodes) and not any(name in halves for node in nodes for name in node.input)

    def weights(self) -> int:
        """How many float weights the graph holds."""
        return sum(self._weights_by_dtype().values())

    def weight_share(self, dtype: str) -> float:
        """Share of the float weights (by count) that the graph holds in `dtype` (f32 or f16)."""
        return self._weights_by_dtype()[dtype] / max(1, self.weights())

    def _weights_by_dtype(self) -> dict[str, int]:
        sizes = {"f32": 0, "f16": 0}
        for tensor in self.model.graph.initializer:
            word = {TensorProto.FLOAT: "f32", TensorProto.FLOAT16: "f16"}.get(tensor.data_type)
            if word:
                count = 1
                for side in tensor.dims:
                    count *= side
                sizes[word] += count
        return sizes


def parse(trt: Any, source: Path) -> ParsedNetwork:
    """Parse `source`. Raises OperatorUnsupported (node, operator, module path) or BuildFailed."""
    messages = Messages()
    builder = trt.Builder(_logger(trt, messages))
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, builder.logger)
    model = load_checked(source)
    if not parser.parse_from_file(str(source)):
        raise _parser_refusal(trt, parser, messages, model)
    return ParsedNetwork(
        source=source,
        model=model,
        builder=builder,
        network=network,
        messages=messages,
        inputs=tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs)),
        layers=tuple(_layers(network)),
        parser=parser,
    )


def refusal(library: str, target: str, messages: Messages, network: ParsedNetwork) -> ConversionError:
    """A failed build in words: the library's last reason, with the module of the node that it names."""
    text = messages.errors[-1] if messages.errors else "the library gave no reason"
    named = [node for node in network.model.graph.node if node.name and f"'{node.name}'" in text]
    where = f" (module {module_of(named[0])})" if named else ""
    reason = " ".join(text.split()).removeprefix("IBuilder::buildSerializedNetwork: ")
    kind = OperatorUnsupported if "not supported" in reason and named else BuildFailed
    return kind(f"{library} {target}: {reason[:400]}{where}", hint="other targets may still be built")


def _flags(trt: Any) -> int:
    """10.x needs the flag; from 11 on every network is strongly typed and the flag may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _logger(trt: Any, messages: Messages) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps warnings and errors; the rest is dropped."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.errors.append(msg)
            elif severity == trt.ILogger.WARNING:
                messages.warnings.append(msg)

    return Logger()


def _parser_refusal(trt: Any, parser: Any, messages: Messages, model: Any) -> ConversionError:
    found, unsupported = [], False
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = model.graph.node[error.node()] if 0 <= error.node() < len(model.graph.node) else None
        where = described(node) if node is not None else "the graph"
        unsupported |= error.code().name.startswith("UNSUPPORTED")
        found.append(f"{where}: {' '.join(error.desc().split())[:200]}")
    text = "; ".join(dict.fromkeys(found)) or (messages.errors[-1] if messages.errors else "no reason given")
    kind = OperatorUnsupported if unsupported else BuildFailed
    return kind(f"{trt.__name__} {trt.__version__} cannot parse the graph: {text[:600]}")


def _layers(network: Any) -> list[LayerDtype]:
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs:
            kind = layer.get_output(0).dtype.name
            found.append(LayerDtype(layer.name, layer.type.name, _WORDS.get(kind, kind.lower())))
    return found


def _tensor(tensor: Any) -> TensorSpec:
    kind = tensor.dtype.name
    if kind not in TENSORRT_DATATYPES:
        raise BuildFailed(f"tensor {tensor.name} has the datatype {kind}, which is not served")
    return TensorSpec(tensor.name, TENSORRT_DATATYPES[kind], tuple(tensor.shape))


def _casts_to_half(node: Any) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute)
