"""Any address or folder as a `serving.media.VideoSource`."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.adapters.video.address import LIVE_SCHEMES, path_of, redacted, scheme_of
from serving.adapters.video.images import ImageFolderReader
from serving.adapters.video.options import ReaderOptions
from serving.adapters.video.reader import open_reader
from serving.clock import Clock, SystemClock
from serving.frames import SourceKind
from serving.media import VideoReader


@dataclass(frozen=True, slots=True)
class AddressSource:
    """A file, a folder of pictures, or a network address. The address may name secrets: `{CAMERA_1_PASSWORD}`."""

    source_id: str
    address: str
    options: ReaderOptions = field(default_factory=ReaderOptions)
    clock: Clock = field(default_factory=SystemClock)

    @property
    def kind(self) -> SourceKind:
        """Live by scheme; http is known when it is connected."""
        return SourceKind.LIVE if scheme_of(self.address) in LIVE_SCHEMES else SourceKind.FILE

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return redacted(self.address)

    def connect(self) -> VideoReader:
        """See `open_reader` for the errors."""
        if scheme_of(self.address) == "file" and path_of(self.address).is_dir():
            self.options.policy.check(self.address)
            folder = path_of(self.address)
            return ImageFolderReader(self.source_id, folder, self.options.assume_fps, self.clock)
        return open_reader(self.source_id, self.address, self.options, self.clock)
