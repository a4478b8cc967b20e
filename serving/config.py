"""Settings of every process: one YAML, the environment (LOCKSTEP_*) on top, defaults below. Only here is the
environment read. `lockstep config` prints each value with where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import StartFailed

PREFIX = "LOCKSTEP_"
_TRITON_HOME = Path(".triton/site/pytriton/tritonserver")
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "cuda_version": ("CUDA_VERSION",),
    "triton_version": ("NVIDIA_TRITON_SERVER_VERSION",),
}


class ConfigInvalid(StartFailed):
    """A setting is unknown or out of range."""

    code = "config_invalid"


class Settings(BaseModel):
    """All settings, flat. Paths are relative to the working folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: Path = Field(Path("model_repository"), description="model repository that is served")
    galleries: Path = Field(Path("galleries"), description="galleries that pipelines ask, a folder each")
    cache_dir: Path = Field(Path(".cache/lockstep"), description="fetched packages, checkpoints, samples")
    triton_home: Path = Field(
        default_factory=lambda: installed_triton(Path.cwd()),
        description="the embedded Triton; default: in the working folder, else where `make setup` put it",
    )
    triton_url: str = Field(
        "", description="grpc://host:port of an existing Triton; several with commas; empty: start the embedded one"
    )
    triton_metrics_port: int = Field(
        0, ge=0, le=65535, description="loopback port of the embedded Triton's own /metrics; 0: any free one"
    )
    host: str = Field("127.0.0.1", description="address the gateway binds")
    port: int = Field(8080, ge=0, le=65535, description="port the gateway binds; 0: any free one")
    workers: int = Field(2, ge=1, le=64, description="gateway processes")
    allow_unauthenticated: bool = Field(False, description="allow a bind address other than loopback")
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1024, description="largest request body, bytes")
    max_pixels: int = Field(40_000_000, ge=1, description="largest picture by its header, pixels")
    max_side: int = Field(16_384, ge=1, description="longest side of a picture by its header, pixels")
    max_sound_s: float = Field(600.0, gt=0, le=14_400, description="longest sound in one request, seconds")
    body_timeout_s: float = Field(30.0, gt=0, description="time for a whole request body to arrive, seconds")
    body_min_rate: int = Field(1024, ge=0, description="bytes per second below which a body is cut")
    request_timeout_ms: int = Field(10_000, ge=1, description="deadline where the caller names none, milliseconds")
    max_in_flight: int = Field(64, ge=1, description="samples in flight per gateway process before 429")
    drain_s: float = Field(5.0, ge=0, le=20, description="time between failing readiness and closing, up to 20 seconds")
    canary_interval_s: float = Field(2.0, gt=0, description="time between canary inferences, seconds")
    staging: bool = Field(False, description="serve a version without certificate (private staging Triton only)")
    cuda_version: str = Field("", description="CUDA of the container, for doctor (NVIDIA images set CUDA_VERSION)")
    triton_version: str = Field(
        "", description="Triton of the container, for doctor (NVIDIA images set NVIDIA_TRITON_SERVER_VERSION)"
    )
    kafka: str = Field("", description="host:port of Kafka brokers, comma-separated; empty: no Kafka")
    kafka_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,40}$", description="before every topic and group name: two systems, one Kafka"
    )
    kafka_profile: str = Field("single", description="how topics are kept safe: a profile of deploy/kafka/topics.yaml")
    retention_frames_s: int = Field(900, ge=1, description="how long pictures stay on the log, seconds")
    retention_results_s: int = Field(21_600, ge=1, description="how long results stay on the log and in Redis, seconds")
    retention_dead_letters_s: int = Field(604_800, ge=1, description="how long dead letters stay, seconds")
    delay_max_ms: int = Field(2_000, ge=0, description="largest presentation delay D of a source, milliseconds")
    lateness_ms: int = Field(2_000, ge=0, description="L: how late after release a result still counts, milliseconds")
    recovery_s: int = Field(300, ge=0, description="longest outage of a role after which nothing may be lost, seconds")
    role_metrics_host: str = Field("127.0.0.1", description="address a role's healthz, readyz, metrics bind")
    role_metrics_port: int = Field(
        0, ge=0, le=65535, description="port of a role's healthz, readyz, metrics; 0: any free one"
    )
    frame_codec: str = Field(
        "jpeg",
        pattern="^(jpeg|jpeg444)$",
        description="pictures on the log: jpeg, or jpeg444 with full colour",
    )
    frame_quality: int = Field(90, ge=1, le=100, description="quality of pictures on the log")
    frame_side: int = Field(
        1280, ge=64, le=16_384, description="longest side of a picture that was too large for a record, pixels"
    )
    sources_allowed_folders: str = Field(
        "", description="folders whose files a registered source may be, comma-separated; empty: none"
    )
    sources_allowed_hosts: str = Field(
        "", description="private hosts and networks a registered source may be at, comma-separated; empty: none"
    )
    sources_secrets: str = Field(
        "", description="environment variables a registered address may name as {NAME}, comma-separated; empty: none"
    )
    ingest_max_sources: int = Field(64, ge=1, le=1000, description="sources one ingest process reads at once")
    redis: str = Field("", description="redis://, rediss:// or unix:// of the result index; empty: no index")
    mixed_dir: Path = Field(Path("output/mixed"), description="mixed video of the mixers, a folder a source")
    hls_window_s: int = Field(120, ge=6, description="how much of a live source's mixed video is listed, seconds")
    recording_s: int = Field(600, ge=10, description="longest file of a recording, seconds")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="least that is logged: debug, info, warning, error"
    )


def installed_triton(folder: Path, installation: Path = Path(__file__).resolve().parents[1]) -> Path:
    """The embedded Triton below `folder`, else the one of the installation; commands work from any folder."""
    home = installation / _TRITON_HOME
    return home if home.is_dir() and not (folder / _TRITON_HOME).is_dir() else _TRITON_HOME


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and, for each name, where its value came from: default, environment or the file's name."""

    settings: Settings
    sources: Mapping[str, str]


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None, **overrides: Any) -> Loaded:
    """Read settings. `overrides` (command line) win over the environment, which wins over the file.

    Raises ConfigInvalid with the name, the value and what was expected.
    """
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    for name, value in _from_file(path).items():
        values[name], sources[name] = value, str(path)
    for name in Settings.model_fields:
        for key in (PREFIX + name.upper(), *FOREIGN.get(name, ())):
            if key in env:
                values[name], sources[name] = env[key], f"environment {key}"
                break
    for name, value in overrides.items():
        if value is not None:
            values[name], sources[name] = value, "command line"
    try:
        return Loaded(Settings.model_validate(values), sources)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        known = f"; known settings: {', '.join(Settings.model_fields)}" if first["type"] == "extra_forbidden" else ""
        source = sources.get(name, str(path))
        raise ConfigInvalid(f"{name} ({source}): {first['msg']}, got {first.get('input')!r}{known}") from error


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that is none
        raise ConfigInvalid(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ConfigInvalid(f"{path}: expected a mapping of settings, got {type(value).__name__}")
    return value


def as_environment(settings: Settings) -> dict[str, str]:
    """Settings as the environment of a process that shall have the same."""
    return {PREFIX + name.upper(): str(value) for name, value in settings.model_dump(mode="json").items()}


def child_environment(**extra: str) -> dict[str, str]:
    """This process's environment with `extra` on top, for a process we start."""
    return {**os.environ, **extra}


def forget_foreign_metrics() -> None:
    """Leave the folder for the metrics of another program's processes, inherited from who started us: it may be gone
    or full, and what lies in it is not what we counted. Before prometheus_client is imported."""
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)


def words(text: str) -> list[str]:
    """Of a comma-separated setting."""
    return [word.strip() for word in text.split(",") if word.strip()]
