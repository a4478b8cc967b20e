"""Errors of galleries; branches of the tree in serving.errors."""

from __future__ import annotations

from serving.errors import InputError, ServingError


class GalleryExists(InputError):
    """Another gallery has this name."""

    code = "gallery_exists"


class GalleryMismatch(InputError):
    """Vectors of another chain of models (detector, alignment, preprocessing, embedder, precision)."""

    code = "gallery_mismatch"


class NothingToEnrol(InputError):
    """The pipeline found nothing in the picture."""

    code = "nothing_to_enrol"


class SeveralToEnrol(InputError):
    """The pipeline found more than one in the picture."""

    code = "several_to_enrol"


class QualityTooLow(InputError):
    """What was found is too small, blurred or turned away."""

    code = "quality_too_low"


class GalleryBusy(ServingError):
    """Another writer holds the gallery."""

    code = "gallery_busy"
    retryable = True


class GalleryDamaged(ServingError):
    """A gallery's files do not hold together."""

    code = "gallery_damaged"


class GalleryNotWritten(ServingError):
    """The disk is full or not writable; the gallery is as it was."""

    code = "gallery_not_written"
    retryable = True
