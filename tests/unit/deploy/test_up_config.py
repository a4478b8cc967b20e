"""The settings file that `lockstep up` leaves for other commands."""

from __future__ import annotations

from pathlib import Path

from deploy.embedded.up import System, UpOptions
from serving.config import Settings, load_settings


def test_it_holds_every_setting_of_the_system_and_not_another_triton(tmp_path: Path) -> None:
    """`lockstep streams add --config output/up/lockstep.yaml` takes what `POST /v1/streams` takes."""
    given = Settings(
        sources_secrets="CAM_PASSWORD", sources_allowed_folders="/srv/clips", sources_allowed_hosts="10.0.0.0/8",
        retention_results_s=60, kafka_prefix="a.", triton_url="grpc://elsewhere:8001", drain_s=3.0, port=8099,
    )  # fmt: skip
    system = System(given, UpOptions(tmp_path), lambda text: None)
    system._write_config()
    found = load_settings(system.config_file, {}).settings
    assert found == system.settings.model_copy(update={"triton_url": ""})
    assert (found.sources_secrets, found.sources_allowed_folders) == ("CAM_PASSWORD", "/srv/clips")
    assert found.retention_results_s == 60 and found.drain_s == 0.0, "what `up` itself decides is on top"
    assert system.config_file.stat().st_mode & 0o777 == 0o600
