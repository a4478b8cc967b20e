"""The models this gateway serves, by name. Fixed for the life of the process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.bundle import ModelBundle
from serving.errors import NotFound, SpecInvalid
from serving.metrics import OTHER
from serving.tuning import read_tuning

logger = logging.getLogger("lockstep.gateway")

IMAGE, RESULT = "image", "result"  # tensor names of every picture model


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Bundles by model name. `target` chooses which certificate is shown."""

    bundles: Mapping[str, ModelBundle]
    target: str = "cpu"

    def __iter__(self) -> Iterator[ModelBundle]:
        return iter(self.bundles.values())

    def get(self, name: str, version: str = "") -> ModelBundle:
        """The model, or NotFound with the names there are."""
        bundle = self.bundles.get(name)
        if bundle is None:
            known = ", ".join(sorted(self.bundles)) or "none"
            raise NotFound(f"unknown model {name[:60]!r}; served: {known}")
        if version not in ("", str(bundle.version)):
            raise NotFound(f"{name}: unknown version {version[:20]!r}; served: {bundle.version}")
        return bundle

    def label(self, name: str) -> str:
        """The name as a metric's label: one of the catalogue, else `other`."""
        return name if name in self.bundles else OTHER

    def certificate(self, bundle: ModelBundle, kind: str) -> bytes:
        """The certificate's file, `kind` json or html; NotFound where the version has none."""
        path: Path = bundle.version_dir / f"certificate.{self.target}.{kind}"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{bundle.name} version {bundle.version} has no {kind} certificate") from None


def tuned_batch_max(bundle: ModelBundle) -> int:
    """The most samples that the inference server takes in one request: the YAML's, or fewer by `lockstep tune`."""
    try:
        tuning = read_tuning(bundle.version_dir)
    except SpecInvalid as error:  # no reason to serve nothing: the server itself says so where it minds
        logger.warning("model %s: batches as its YAML says: %s", bundle.name, error)
        tuning = None
    return min(bundle.spec.batch.max, tuning.max_batch) if tuning else bundle.spec.batch.max
