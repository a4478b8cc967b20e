"""Video in and out. The only place that imports PyAV. See docs/video.md."""

from serving.adapters.video.address import SourcePolicy, redacted
from serving.adapters.video.hls import HlsSettings, HlsWriter
from serving.adapters.video.hls_resume import LastShown, last_shown
from serving.adapters.video.mp4 import Mp4Writer
from serving.adapters.video.options import ReaderOptions
from serving.adapters.video.publish import PublishWriter
from serving.adapters.video.recording import RecordingWriter
from serving.adapters.video.source import AddressSource

__all__ = [
    "AddressSource",
    "HlsSettings",
    "HlsWriter",
    "LastShown",
    "Mp4Writer",
    "PublishWriter",
    "ReaderOptions",
    "RecordingWriter",
    "SourcePolicy",
    "last_shown",
    "redacted",
]
