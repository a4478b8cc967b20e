"""Constants of a frozen TensorFlow 1 graph, read by the protobuf that tensorboard carries; no TensorFlow needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ImportFailed


class FrozenGraph:
    """Nodes by name; `constant` follows Identity nodes (`.../read`) to their constant."""

    def __init__(self, path: Path) -> None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
        from tensorboard.compat.proto.graph_pb2 import GraphDef

        graph = GraphDef()
        try:
            graph.ParseFromString(path.read_bytes())
        except DecodeError as error:
            raise ImportFailed(f"{path.name}: not a TensorFlow GraphDef: {error}") from error
        self.path = path
        self.nodes: dict[str, Any] = {node.name: node for node in graph.node}

    def constant(self, name: str) -> npt.NDArray[Any]:
        """The array of a Const node. Raises ImportFailed when there is none of that name."""
        from tensorboard.util.tensor_util import make_ndarray

        node = self.nodes.get(name)
        while node is not None and node.op == "Identity":
            node = self.nodes.get(node.input[0])
        if node is None or node.op != "Const":
            raise ImportFailed(f"{self.path.name}: no constant named {name}")
        return np.asarray(make_ndarray(node.attr["value"].tensor))

    def attribute(self, name: str, key: str) -> Any:
        """An attribute message of a node. Raises ImportFailed when the node is absent."""
        if name not in self.nodes:
            raise ImportFailed(f"{self.path.name}: no node named {name}")
        return self.nodes[name].attr[key]
