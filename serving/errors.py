"""Every error the system shows, by class; translated to a protocol once, at the edge.

LockstepError
├── ServingError                 a running process could not answer
│   ├── InputError               the caller's data; sending it again gives the same answer
│   │   ├── ImageInvalid         truncated, empty or not a picture
│   │   ├── ImageUnsupported     a format, mode or animation that is not served
│   │   ├── ImageTooLarge        header dimensions over the limits (refused before decoding)
│   │   ├── BodyInvalid          not the JSON, form or tensor layout that was promised
│   │   ├── BodyTooLarge, BodyTimeout   more bytes than may be; they came in too slowly
│   │   ├── MediaTypeUnsupported
│   │   ├── ParameterInvalid     unknown parameter, or a value outside its range
│   │   ├── AddressRefused, StreamExists   a source may not be at this address; another has its name
│   │   └── NotFound             unknown model, version, stream or route
│   ├── Overloaded               shed at the door; try again later
│   ├── DeadlineExceeded         the caller's time is over
│   ├── Unavailable              a dependency (Triton, a model) is down
│   │   ├── StreamsOff, StreamsUnavailable   no Kafka is configured; it does not answer
│   │   └── IndexUnavailable     Redis does not answer, or none is configured
│   └── EngineFailed             the engine refused or broke
├── ConversionError              a checkpoint could not become a servable version
│   ├── SpecInvalid              the YAML, with line and nearest key
│   ├── ImportFailed             a package could not be had or its hash differs
│   ├── CheckpointRefused        hostile, unreadable, not what the spec says
│   ├── KeysMismatch             strict load: missing, unexpected, reshaped, dtype-changed keys
│   ├── NotFrozen                train mode, dropout or BatchNorm still active
│   ├── ModelRefused             an ONNX file that reaches outside its folder or is malformed
│   ├── OperatorUnsupported      with the module path it came from
│   ├── PrecisionFailed
│   ├── BuildFailed              an engine could not be built
│   ├── ParityFailed             a certificate row failed
│   ├── CertificateRefused       missing, failed, or its hashes do not match
│   ├── ConversionBusy           another converter holds this model
│   └── StorageFailed            disk full, not writable
├── LogError                     the record log (Kafka) refused or cannot be reached
│   ├── LogUnavailable           no broker answers
│   ├── LogFull                  the producer's bounded queue is full
│   ├── RecordTooLarge           more bytes than a record may have
│   ├── RecordInvalid            a record that is not what its topic promises; names the field
│   ├── CommitRefused            the partition is another member's now
│   ├── MemberFenced             another process has joined the group under our name
│   ├── LogTruncated             the log ends before our position: it was deleted and made anew
│   └── TopicUnknown, TopicsInvalid   no such topic; settings that would lose or mix records
├── StartFailed                  a process could not start: settings, memory
└── SourceError                  video or audio that cannot be read
    ├── SourceNotFound           no such file or folder
    ├── SourceRefused            a scheme, host, codec or playlist target that is not allowed
    ├── SourceInvalid            not video, truncated before the first picture, without usable PTS
    ├── SourceUnreachable        nobody answers, or the connection broke
    └── SourceStalled            connected, then silent for longer than the read timeout
"""

from __future__ import annotations

from typing import ClassVar


class LockstepError(Exception):
    """Base of all our errors. `code` is stable; `retryable` says whether trying the same again can help."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ServingError(LockstepError):
    """A running process could not answer."""

    code = "serving_failed"


class InputError(ServingError):
    """The caller's data is at fault."""

    code = "input_invalid"


class ImageInvalid(InputError):
    """Truncated, empty, or not a picture."""

    code = "image_invalid"


class ImageUnsupported(InputError):
    """A format, colour mode or animation that is not served."""

    code = "image_unsupported"


class ImageTooLarge(InputError):
    """Header dimensions over the limits; nothing was decoded."""

    code = "image_too_large"


class BodyInvalid(InputError):
    """Not the JSON, form or tensor layout that was promised."""

    code = "body_invalid"


class BodyTooLarge(InputError):
    """More bytes than the limit."""

    code = "body_too_large"


class BodyTimeout(InputError):
    """The body came in too slowly."""

    code = "body_timeout"
    retryable = True


class MediaTypeUnsupported(InputError):
    """A Content-Type (or Content-Encoding) that no route takes."""

    code = "media_type_unsupported"


class ParameterInvalid(InputError):
    """An unknown parameter, or a value outside its range."""

    code = "parameter_invalid"


class NotFound(InputError):
    """Unknown model, version or route."""

    code = "not_found"


class AddressRefused(InputError):
    """A source may not be at this address; an address is never repeated in the message where it may hold a secret."""

    code = "address_refused"


class StreamExists(InputError):
    """Another source is registered under this name."""

    code = "stream_exists"


class Overloaded(ServingError):
    """Shed at the door."""

    code = "overloaded"
    retryable = True


class DeadlineExceeded(ServingError):
    """The caller's time is over."""

    code = "deadline_exceeded"
    retryable = True


class Unavailable(ServingError):
    """A dependency is down."""

    code = "unavailable"
    retryable = True


class StreamsOff(Unavailable):
    """This gateway has no Kafka, so it has no streams."""

    code = "streams_off"
    retryable = False


class StreamsUnavailable(Unavailable):
    """Kafka does not answer; the models go on."""

    code = "streams_unavailable"


class IndexUnavailable(Unavailable):
    """Redis does not answer, or none is configured: no results by PTS, no states."""

    code = "index_unavailable"


class EngineFailed(ServingError):
    """The engine refused or broke."""

    code = "engine_failed"


class ConversionError(LockstepError):
    """A checkpoint could not become a servable version."""

    code = "conversion_failed"


class SpecInvalid(ConversionError):
    """The model's YAML is wrong."""

    code = "spec_invalid"


class ImportFailed(ConversionError):
    """A package could not be had, or what came has another hash."""

    code = "import_failed"
    retryable = True


class CheckpointRefused(ConversionError):
    """Hostile, unreadable, or not of the format the spec names."""

    code = "checkpoint_refused"


class KeysMismatch(ConversionError):
    """Strict load: keys are missing, unexpected, reshaped or of another dtype."""

    code = "keys_mismatch"


class NotFrozen(ConversionError):
    """Train mode, active dropout, or a BatchNorm that still learns."""

    code = "not_frozen"


class ModelRefused(ConversionError):
    """An ONNX file that reaches outside its folder, or is malformed."""

    code = "model_refused"


class OperatorUnsupported(ConversionError):
    """An operator that a target lacks, with the module path it came from."""

    code = "operator_unsupported"


class PrecisionFailed(ConversionError):
    """Half precision could not be written into the graph."""

    code = "precision_failed"


class BuildFailed(ConversionError):
    """An engine could not be built."""

    code = "build_failed"


class ParityFailed(ConversionError):
    """A certificate row failed; the message names the stage."""

    code = "parity_failed"


class CertificateRefused(ConversionError):
    """No certificate, a failed one, or files that do not match it."""

    code = "certificate_refused"


class ConversionBusy(ConversionError):
    """Another converter is at work on this model."""

    code = "conversion_busy"
    retryable = True


class StorageFailed(ConversionError):
    """Disk full or not writable; nothing half-written stays."""

    code = "storage_failed"
    retryable = True


class LogError(LockstepError):
    """The record log refused, or cannot be reached."""

    code = "log_failed"


class LogUnavailable(LogError):
    """No broker answers."""

    code = "log_unavailable"
    retryable = True


class LogFull(LogError):
    """The producer's bounded queue is full; take delivery reports, then try again."""

    code = "log_full"
    retryable = True


class RecordTooLarge(LogError):
    """More bytes than a record of this topic may have."""

    code = "record_too_large"


class RecordInvalid(LogError):
    """A record that is not what its topic promises. `field` names what is wrong."""

    code = "record_invalid"

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class CommitRefused(LogError):
    """The partition is another member's now, so its positions are not ours to write."""

    code = "commit_refused"


class MemberFenced(LogError):
    """Another process has joined the group under our member name: one of the two has to have another one."""

    code = "member_fenced"


class LogTruncated(LogError):
    """The log ends before our position: its topic was deleted and made anew, or lost its end."""

    code = "log_truncated"


class TopicUnknown(LogError):
    """The broker has no such topic."""

    code = "topic_unknown"


class TopicsInvalid(LogError):
    """Topic settings that would lose or mix records."""

    code = "topics_invalid"


class StartFailed(LockstepError):
    """A process could not start as asked."""

    code = "start_failed"


class SourceError(LockstepError):
    """Video or audio that cannot be opened or read."""

    code = "source_failed"


class SourceNotFound(SourceError):
    """No such file, folder or stream."""

    code = "source_not_found"


class SourceRefused(SourceError):
    """A scheme, host, codec or playlist target that is not on the allow-list."""

    code = "source_refused"


class SourceInvalid(SourceError):
    """Not video, cut off before its first picture, or without usable PTS."""

    code = "source_invalid"


class SourceUnreachable(SourceError):
    """Nobody answers, or the connection broke."""

    code = "source_unreachable"
    retryable = True


class SourceStalled(SourceError):
    """Connected, then silent for longer than the read timeout."""

    code = "source_stalled"
    retryable = True


def subclasses_by_code(root: type[LockstepError] = LockstepError) -> dict[str, type[LockstepError]]:
    """Every error class below `root` by its code; codes are unique (a test says so)."""
    found: dict[str, type[LockstepError]] = {root.code: root}
    for child in root.__subclasses__():
        found.update(subclasses_by_code(child))
    return found
