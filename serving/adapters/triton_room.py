"""How many requests of a model may be on their way to Triton from here; one more is refused at once.

Triton could bound its queue itself (`default_queue_policy`), but any policy switches off its prefetching, and without
that its batcher does not hear of what arrives while a batch runs: a lone request then waits for up to half a second in
front of an idle model (docs/decisions/0022). So the bound travels in the model's configuration and is kept by who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serving.errors import Overloaded
from serving.spec import MAX_QUEUE_SIZE


class Room:
    """Places of one model in one client, for an event loop. size: None is without bound."""

    def __init__(self, name: str, size: int | None) -> None:
        self._name, self.size, self.used = name, size, 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place for the block. Raises Overloaded where none is left."""
        if self.size is not None and self.used >= self.size:
            raise Overloaded(f"{self._name}: the queue is full", hint="try again later")
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1


def room_of(config: Any) -> int | None:
    """Places of a model with this `ModelConfig`: what may wait, and a batch an instance; None where it tells none."""
    told = config.parameters[MAX_QUEUE_SIZE].string_value if MAX_QUEUE_SIZE in config.parameters else ""
    if not told.isdecimal():
        return None
    instances = sum(group.count for group in config.instance_group)
    batch = int(config.max_batch_size)
    return int(told) + max(1, batch) * max(1, int(instances))
