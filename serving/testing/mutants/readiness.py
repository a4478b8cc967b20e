"""The defect 'readiness = server health', for tests with a real Triton (F3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving.triton.watch import ModelWatch


@contextmanager
def readiness_is_server_health() -> Iterator[None]:
    """Within the block a model is ready while its server answers, whatever its canary and its process say."""
    kept = {name: ModelWatch.__dict__[name] for name in ("check", "stub_died")}

    def check(self: ModelWatch) -> None:
        self.due = self.clock() + self.settings.canary_interval_s
        self.ready = self.control.live()

    setattr(ModelWatch, "check", check)  # noqa: B010
    setattr(ModelWatch, "stub_died", False)  # noqa: B010
    try:
        yield
    finally:
        for name, part in kept.items():
            setattr(ModelWatch, name, part)
