"""Proof that a network is in evaluation mode: no BatchNorm that still learns, no dropout that still drops.

Three looks, because each misses what another sees: the modules' own flags, the traced graph (a functional dropout has
no flag), and the statistics before and after a run. Runs in the limited child only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from serving.errors import NotFrozen

_HINT = "the served network must answer the same thing twice; call eval() where the training code overrides it"
_RANDOM = ("dropout", "bernoulli", "rand", "multinomial", "normal_", "uniform_")
_BATCH_NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


def freeze(module: Any) -> None:
    """Evaluation mode, no gradients; then the flags are read back. Raises NotFrozen naming the modules."""
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    check_flags(module)


def check_flags(module: Any) -> None:
    """No submodule in train mode, no BatchNorm without running statistics. Raises NotFrozen."""
    if isinstance(module, torch.fx.GraphModule):
        return
    found = [f"{name or 'the model'} ({_kind(part)}) is in train mode" for name, part in _learning(module)]
    found += [
        f"{name} ({_kind(part)}) has no running statistics and would use the batch's own"
        for name, part in module.named_modules()
        if _kind(part) in _BATCH_NORMS and getattr(part, "running_mean", None) is None
    ]
    if found:
        raise NotFrozen("not in evaluation mode: " + "; ".join(found[:8]), hint=_HINT)


def check_graph(program: Any) -> None:
    """Active dropout, other randomness, or a batch norm in training in a traced graph. Raises NotFrozen with paths."""
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        target = str(node.target)
        if _trains(node, target):
            found.append(f"{_path(node)} ({target.removeprefix('aten.')})")
    if found:
        raise NotFrozen("the network still trains or draws random numbers: " + "; ".join(found[:8]), hint=_HINT)


def check_script_graph(module: Any) -> None:
    """The same for TorchScript: constants `train=True` in its inlined graph (traced modules have no flags)."""
    found = []
    for node in module.inlined_graph.nodes():
        kind = node.kind().removeprefix("aten::")
        names = [value.debugName() for value in node.inputs()]
        flags = [value.toIValue() for value in node.inputs()]
        dropping = kind.rstrip("_").endswith("dropout") and flags[-1] is True
        learning = kind == "batch_norm" and flags[5] is True
        if dropping or learning or kind.startswith(("rand", "bernoulli")):
            found.append(f"{node.scopeName() or names[0]} ({kind})")
    if found:
        raise NotFrozen("the network still trains or draws random numbers: " + "; ".join(found[:8]), hint=_HINT)


def repeated(module: Any, run: Callable[[], list[Any]]) -> list[Any]:
    """Run twice with different seeds: answers and buffers must not move. Raises NotFrozen; returns the answer."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    second = run()
    moved = [name for name, buffer in module.named_buffers() if name in before and not _same(before[name], buffer)]
    if moved:
        raise NotFrozen(f"a run changes the network's own statistics: {', '.join(moved[:8])}", hint=_HINT)
    if not all(_same(a, b) for a, b in zip(first, second, strict=True)):
        raise NotFrozen("two runs on the same input differ: something in the network is random", hint=_HINT)
    check_flags(module)
    return first


def _learning(module: Any) -> Iterator[tuple[str, Any]]:
    """Modules in train mode; a container is named only when no part of it is."""
    active = [(name, part) for name, part in module.named_modules() if part.training]
    for name, part in active:
        inner = f"{name}." if name else ""
        if not any(other != name and other.startswith(inner) for other, _ in active):
            yield name, part


def _trains(node: Any, target: str) -> bool:
    arguments = {**dict(enumerate(node.args)), **node.kwargs}
    if target.startswith("aten.batch_norm."):
        return arguments.get(5) is True or arguments.get("training") is True
    if target.startswith("aten.native_batch_norm."):
        return arguments.get(5) is True or arguments.get("training") is True
    if target.startswith("aten._native_batch_norm_legit.") and "no_training" not in target:
        return True
    if "dropout" in target:
        # dropout(input, p, train); p = 0 drops nothing.
        active = arguments.get(2, arguments.get("train", True))
        return active is True and arguments.get(1, arguments.get("p", 0.5)) != 0
    return any(target.startswith(f"aten.{word}") for word in _RANDOM)


def _path(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return next((path for path in reversed(paths) if path), "the model's own forward")


def _kind(module: Any) -> str:
    return str(getattr(module, "original_name", type(module).__name__))


def _same(a: Any, b: Any) -> bool:
    return bool(a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
