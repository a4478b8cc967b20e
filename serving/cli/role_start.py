"""What every role asks before it starts: are the topics there, and will they do?"""

from __future__ import annotations

from serving.cli.commands_topics import default_file, retention_of
from serving.cli.output import say
from serving.config import Settings


def checked(settings: Settings) -> Settings:
    """The settings, once the topics suit them; what is doubtful is said. Raises ConfigInvalid for a page that others
    could reach, TopicsInvalid, LogUnavailable."""
    from serving.adapters.kafka import KafkaOptions, KafkaTopics
    from serving.gateway.auth import check_bind
    from serving.roles.main import open_log
    from serving.topics import load_topics
    from serving.topics_found import check_cluster

    check_bind(settings.role_metrics_host, settings.allow_unauthenticated, "role_metrics_host")
    open_log(settings, "start")  # its errors about the address are the roles' own
    admin = KafkaTopics(KafkaOptions(settings.kafka))
    for warning in check_cluster(admin, load_topics(default_file()), retention_of(settings), settings.kafka_prefix):
        say(f"warning: {warning}")
    return settings
