"""The index of the settings, for the roles."""

from __future__ import annotations

from serving.adapters.redis_states import RedisStates
from serving.config import ConfigInvalid, Settings
from serving.ports_index import ResultIndex, StateSink

NO_ADDRESS = "redis: expected redis://, rediss:// or unix:// and a host or socket"


def open_index(settings: Settings) -> ResultIndex | None:
    """The result index at `redis`; None where the setting is empty. Nothing connects before it is used.

    Raises ConfigInvalid for an address that is none.
    """
    if not settings.redis:
        return None
    from serving.adapters.redis import RedisIndex

    try:
        return RedisIndex(settings.redis, settings.kafka_prefix, settings.retention_results_s)
    except ValueError as error:
        raise ConfigInvalid(NO_ADDRESS) from error


def open_states(settings: Settings) -> StateSink | None:
    """For roles that only say how their sources are: they start before the client of Redis is imported.

    Raises ConfigInvalid for an address that is none.
    """
    try:
        return RedisStates(settings.redis, settings.kafka_prefix) if settings.redis else None
    except ValueError as error:
        raise ConfigInvalid(NO_ADDRESS) from error
