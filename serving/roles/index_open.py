"""The index of the settings, for the roles."""

from __future__ import annotations

from serving.adapters.redis import RedisIndex
from serving.config import ConfigInvalid, Settings
from serving.ports_index import ResultIndex


def open_index(settings: Settings) -> ResultIndex | None:
    """The result index at `redis`; None where the setting is empty. Nothing connects before it is used.

    Raises ConfigInvalid for an address that is none.
    """
    if not settings.redis:
        return None
    try:
        return RedisIndex(settings.redis, settings.kafka_prefix, settings.retention_results_s)
    except ValueError as error:
        raise ConfigInvalid("redis: expected redis://, rediss:// or unix:// and a host or socket") from error
