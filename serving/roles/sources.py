"""What a registered source may open: the settings `sources_*` as a policy. An address on the command line is the
operator's own and is held to none of this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving.adapters.video import SourcePolicy
from serving.adapters.video.address import with_secrets
from serving.config import Settings, child_environment, words
from serving.records import StreamMessage


def registered_policy(settings: Settings) -> SourcePolicy:
    """Folders and private hosts that were allowed by name; everything else private is refused."""
    folders = tuple(Path(folder) for folder in words(settings.sources_allowed_folders))
    return SourcePolicy(False, folders, tuple(words(settings.sources_allowed_hosts)))


def check_registered(settings: Settings, stream: StreamMessage) -> None:
    """SourceRefused for an address that ingest with these settings would not open, and for one that the mixed video
    may not be sent to: the same rules hold, or a registration could reach any host of a private network."""
    secrets = dict.fromkeys(words(settings.sources_secrets), "secret")
    policy = registered_policy(settings)
    for address in filter(None, (stream.address, stream.publish)):
        policy.check(with_secrets(address, secrets))


def registered_secrets(settings: Settings) -> Mapping[str, str]:
    """Only secrets that were named: whoever may register a source could send any other to a host of their own."""
    environment = child_environment()
    return {name: environment[name] for name in words(settings.sources_secrets) if name in environment}
