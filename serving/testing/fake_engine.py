"""An engine made of a function: the double of `ports.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from serving.types import Array, EngineInfo, TensorSpec


class FunctionEngine:
    """Runs `function(inputs) -> outputs` on batches and remembers the batch sizes it saw."""

    def __init__(
        self,
        function: Callable[[Mapping[str, Array]], dict[str, Array]],
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self._function = function
        self._info = EngineInfo("function", "0", "cpu", "f32", inputs, outputs)
        self.batches: list[int] = []
        self.closed = False

    @property
    def info(self) -> EngineInfo:
        """What the engine says of itself."""
        return self._info

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Apply the function to one batch."""
        self.batches.append(len(next(iter(inputs.values()))))
        return self._function(inputs)

    def close(self) -> None:
        """Mark as closed."""
        self.closed = True
