"""The module path of an ONNX node (`layer1.0.conv1`), kept on the node through every pass, so that messages name it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

KEY = "lockstep.module"
_SCOPES = "pkg.torch.onnx.name_scopes"


def module_of(node: Any) -> str:
    """The module path kept by `keep_modules`, else what the exporter wrote, else the node's own name."""
    for entry in node.metadata_props:
        if entry.key == KEY:
            return str(entry.value)
    return _exported_path(node) or node.name or (node.output[0] if node.output else node.op_type)


def described(node: Any) -> str:
    """`Conv in layer1.0.conv1`, as messages say it."""
    return f"{node.op_type} in {module_of(node)}"


def modules_by_tensor(model: Any) -> dict[str, str]:
    """Output tensor name -> module path: what survives a rewriting pass that drops the nodes' metadata."""
    found = {}
    for node in model.graph.node:
        for name in node.output:
            if name:
                found[name] = module_of(node)
    return found


def keep_modules(model: Any, modules: Mapping[str, str]) -> None:
    """Write the module path onto every node: by an output's name, else by the node that consumes its answer."""
    consumer: dict[str, str] = {}
    for node in reversed(model.graph.node):
        path = next((modules[name] for name in node.output if name in modules), None)
        path = path or next((consumer[name] for name in node.output if name in consumer), module_of(node))
        del node.metadata_props[:]
        node.metadata_props.add(key=KEY, value=path)
        for name in node.input:
            consumer.setdefault(name, path)


def _exported_path(node: Any) -> str:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = [str(part) for part in ast.literal_eval(entry.value)]
            except (ValueError, SyntaxError):
                return ""
            # The last part is the operator's own name; the one before it is the innermost module.
            return next((part for part in reversed(scopes[:-1]) if part), "")
    # The older exporter writes the path into the name: /layer1/layer1.0/conv1/Conv.
    parts = [part for part in node.name.split("/") if part]
    return ".".join(_relative(parts[:-1])) if node.name.startswith("/") and len(parts) > 1 else ""


def _relative(parts: list[str]) -> list[str]:
    """`layer1`, `layer1.0`, `conv1` -> `layer1.0`, `conv1`: a part that begins with the one before it replaces it."""
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    return kept
