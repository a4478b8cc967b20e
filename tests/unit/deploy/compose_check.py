"""What deploy/compose.yaml and the files around it say of each other and of the code: `problems(root)` names each lie.

A port, secret, file, setting or option that one file names and another (or the program) does not have is found here,
without a container engine. The source of each port is the file that makes a process listen there.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import typer
import yaml

from serving import cli
from serving.config import ConfigInvalid, Settings, load_settings
from serving.doctor import TRITON_FLOOR
from serving.gateway.errors import TABLE
from serving.gateway.main import argument_parser
from serving.gateway.worker import EXIT_WITHIN_S, KEEP_ALIVE_S
from serving.triton.home import RESTRICTED

ONE_SHOT = {"topics"}
CONTAINERFILES = ("Containerfile.cpu", "Containerfile.gpu")
REDIS_PORT = 6379  # redis-server's own; nothing here changes it
Service = Mapping[str, Any]


def problems(root: Path) -> list[str]:
    """Everything that does not hold together, a line each; root: the repository."""
    compose = Compose(root)
    checks = (
        settings_of, commands_of, ports_of, secrets_of, places_of, given_of, hardening_of, images_of, programs_of,
        limits_of,
    )  # fmt: skip
    return [text for check in checks for text in check(compose)]


class Compose:
    """The files, read; variables have their defaults."""

    def __init__(self, root: Path) -> None:
        self.root, self.deploy = root, root / "deploy"
        text = self.read("compose.yaml")
        self.document: dict[str, Any] = yaml.safe_load(resolve(text))
        self.services: dict[str, Service] = self.document["services"]

    def read(self, name: str) -> str:
        return (self.deploy / name).read_text("utf-8")

    def ours(self) -> Iterator[tuple[str, Service]]:
        """The services that run this program."""
        for name, service in self.services.items():
            if service["image"].startswith("lockstep"):
                yield name, service

    def image_environment(self, service: Service) -> dict[str, str]:
        """What the Containerfile sets."""
        name = CONTAINERFILES["triton" in service["image"]]
        return dict(re.findall(r"\b(LOCKSTEP_\w+)=(\S+)", self.read(f"containers/{name}")))

    def listening(self) -> dict[str, set[int]]:
        """The ports of each service, out of what makes it listen."""
        roles = {int(s["environment"]["LOCKSTEP_ROLE_METRICS_PORT"]) for _, s in self.ours() if _is_role(s)}
        kafka = re.search(r"^listeners=PLAINTEXT://:(\d+)", self.read("kafka/server.properties"), re.M)
        found = {name: roles for name, service in self.ours() if _is_role(service)}
        found["front"] = _numbers(r"^listen (\d+);", self.read("nginx/listen.conf"))
        found["gateway"] = {int(self.services["gateway"]["environment"]["LOCKSTEP_PORT"])}
        found["triton"] = _numbers(r"--(?:grpc|metrics)-port=(\d+)", self.read("containers/triton.sh"))
        found["kafka"] = {int(kafka[1])} if kafka else set()
        found["redis"] = {REDIS_PORT}
        found["prometheus"] = _numbers(r"listen-address=:(\d+)", " ".join(self.services["prometheus"]["command"]))
        found["grafana"] = {int(self.services["grafana"]["environment"]["GF_SERVER_HTTP_PORT"])}
        return found


def resolve(text: str) -> str:
    """`${NAME:-default}` as its default, as compose does it where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def words_of(service: Service) -> list[str]:
    """Entry point and command, one list."""
    parts = [service.get("entrypoint", []), service.get("command", [])]
    return [str(word) for part in parts for word in ([part] if isinstance(part, str) else part)]


def settings_of(compose: Compose) -> Iterator[str]:
    """Every LOCKSTEP_* is a setting, with a value that the setting takes."""
    known = {f"LOCKSTEP_{name.upper()}" for name in Settings.model_fields}
    for name, service in compose.ours():
        environment = {**compose.image_environment(service), **service.get("environment", {})}
        yield from (f"{name}: {key} is no setting" for key in environment if key not in known)
        try:
            load_settings(None, {key: str(value) for key, value in environment.items()})
        except ConfigInvalid as error:
            yield f"{name}: {error}"


def commands_of(compose: Compose) -> Iterator[str]:
    """Every command line of ours, health checks included, is taken by the program's own parser."""
    for name, service in compose.ours():
        test = service.get("healthcheck", {}).get("test", [])
        for words in (words_of(service), test[1:]):
            if words and (wrong := refused(words, compose)):
                yield f"{name}: {' '.join(words)}: {wrong}"


def refused(words: Sequence[str], compose: Compose) -> str:
    """What the parser of a command line says against it; "" where it takes it or it is not ours."""
    if list(words[:3]) == ["python3", "-m", "serving.gateway.main"]:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                argument_parser().parse_args(list(words[3:]))
        except SystemExit:
            return said.getvalue().strip().splitlines()[-1]
    elif words[0] == "lockstep":
        return _refused_by_cli(list(words[1:]))
    elif words[0].startswith("lockstep-"):
        scripts = "".join(compose.read(f"containers/{name}") for name in CONTAINERFILES)
        return "" if f"/usr/local/bin/{words[0]}" in scripts else "no image has this program"
    return ""


@functools.cache
def _program() -> Any:
    """`lockstep` as its parser sees it."""
    if not cli.app.registered_commands:
        cli._register()
    return typer.main.get_command(cli.app)


def _refused_by_cli(words: list[str]) -> str:
    command = _program()
    context = click.Context(command, info_name="lockstep")
    try:
        while words and hasattr(command, "commands"):
            found = command.commands.get(words[0])
            if found is None:
                return f"no command {words[0]}"
            command, words = found, words[1:]
            context = click.Context(command, parent=context, info_name=command.name)
        command.parse_args(context, words)
    except Exception as error:  # typer brings a click of its own, whose classes differ  # noqa: BLE001
        return f"{type(error).__name__}: {getattr(error, 'message', error)}"
    return ""


def ports_of(compose: Compose) -> Iterator[str]:
    """Every `service:port` of any file is a port that the service listens on; loopback means the service itself."""
    listening = compose.listening()
    names = "|".join(listening)
    files = ["compose.yaml", "nginx/upstreams.conf", "kafka/server.properties", "secrets/make.sh"]
    files += ["grafana/provisioning/datasources/prometheus.yaml"]
    for file in files:
        for host, port in re.findall(rf"(?<![\w.-])({names}):(\d{{2,5}})(?![\d.])", resolve(compose.read(file))):
            if int(port) not in listening[host]:
                yield f"{file}: {host}:{port}, but {host} listens on {sorted(listening[host])}"
    for job in yaml.safe_load(compose.read("prometheus/compose.yml"))["scrape_configs"]:
        for found in job["dns_sd_configs"]:
            for host in found["names"]:
                if found["port"] not in listening.get(host, set()):
                    yield f"prometheus/compose.yml: {host}:{found['port']} is nobody's"
    for name, service in compose.services.items():
        checks = " ".join(map(str, service.get("healthcheck", {}).get("test", [])))
        for port in _numbers(r"(?:127\.0\.0\.1|localhost):(\d+)", checks) - listening.get(name, set()):
            yield f"{name}: its health check asks port {port}, it listens on {sorted(listening.get(name, set()))}"
        for published in service.get("ports", []):
            if int(str(published).rsplit(":", 1)[1]) not in listening[name]:
                yield f"{name}: publishes {published}, listens on {sorted(listening[name])}"
    prometheus = yaml.safe_load(compose.read("prometheus/compose.yml"))
    scraped = {job["job_name"] for job in prometheus["scrape_configs"]}
    roles = {name for name, service in compose.ours() if _is_role(service)} | {"gateway", "triton"}
    yield from (f"prometheus/compose.yml: nobody watches {name}" for name in sorted(roles - scraped))
    # A role whose last process ended has no address, so only a rule that names it notices.
    told = compose.read("prometheus/compose_alerts.yml") if "compose_alerts.yml" in prometheus["rule_files"] else ""
    missed = scraped ^ set(re.findall(r'absent\(up\{job="(\w+)"\}\)', told))
    yield from (f"prometheus/compose_alerts.yml: {name} is not in both, jobs and absences" for name in sorted(missed))


def secrets_of(compose: Compose) -> Iterator[str]:
    """A secret is defined, written by make.sh, granted where it is read, and nowhere in an environment."""
    defined = compose.document["secrets"]
    written = set(re.findall(r"\| write (\S+)", compose.read("secrets/make.sh")))
    for name, secret in defined.items():
        if Path(secret["file"]).name not in written:
            yield f"secret {name}: deploy/secrets/make.sh does not write {secret['file']}"
    for name, service in compose.services.items():
        granted = set(service.get("secrets", []))
        yield from (f"{name}: secret {secret} is not defined" for secret in granted - defined.keys())
        text = yaml.safe_dump({key: service[key] for key in service if key != "secrets"})
        for secret in set(re.findall(r"/run/secrets/([\w.-]+)", text)) - granted:
            yield f"{name}: reads /run/secrets/{secret}, which it is not given"
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", key) and not str(value).startswith("/run/secrets/"):
                yield f"{name}: {key} has a secret in the file"
    text = compose.read("compose.yaml")
    yield from (f"compose.yaml: a password in {found}" for found in re.findall(r"\w+://[^\s/@]*:[^\s/@]+@\S+", text))


def places_of(compose: Compose) -> Iterator[str]:
    """Mounted files, networks, volumes, dependencies and build contexts exist."""
    volumes, networks = compose.document["volumes"], compose.document["networks"]
    used = set()
    for name, service in compose.services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            used.add(source)
            if source.startswith(".") and not (compose.deploy / source).exists():
                yield f"{name}: mounts {source}, which does not exist"
            if not source.startswith(".") and source not in volumes:
                yield f"{name}: volume {source} is not declared"
        yield from (f"{name}: network {n} is not declared" for n in service["networks"] if n not in networks)
        for other, how in service.get("depends_on", {}).items():
            if other not in compose.services:
                yield f"{name}: depends on {other}, which is no service"
            elif how["condition"] == "service_healthy" and "healthcheck" not in compose.services[other]:
                yield f"{name}: waits for the health of {other}, which has no check"
        file = service.get("build", {}).get("dockerfile")
        if file and not (compose.root / file).is_file():
            yield f"{name}: {file} does not exist"
    yield from (f"volume {name} is used by nobody" for name in volumes.keys() - used)
    included = {line[1:] for line in (compose.root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in CONTAINERFILES:
        for source in re.findall(
            r"^COPY (?:--chmod=\S+ )?(?!--from)(.+) \S+$", compose.read(f"containers/{name}"), re.M
        ):
            for path in source.split():
                if not (compose.root / path).exists() or path.split("/")[0] not in included:
                    yield f"{name}: COPY {path}: not in the build's context"


def given_of(compose: Compose) -> Iterator[str]:
    """Who reads the model repository mounts it; who resolves names of secrets in addresses has their values."""
    for name in ("gateway", "triton", "worker", "mixer"):
        if "/srv/model_repository" not in {mount.split(":")[1] for mount in compose.services[name]["volumes"]}:
            yield f"{name}: has no model repository"
    for name, service in compose.services.items():
        told = {file["path"] for file in service.get("env_file", [])}
        if ("secrets/cameras.env" in told) != (name in ("ingest", "mixer")):
            yield f"{name}: has {sorted(told)}; ingest and mixer have secrets/cameras.env, and nobody else"


def hardening_of(compose: Compose) -> Iterator[str]:
    """Only the front is published, on loopback; nobody is root, writes its root or keeps a capability."""
    for name, service in compose.services.items():
        published = service.get("ports", [])
        if bool(published) != (name == "front"):
            yield f"{name}: {'publishes ' + str(published) if published else 'publishes nothing'}"
        yield from (f"{name}: {p} is not on loopback" for p in published if not str(p).startswith("127.0.0.1:"))
        if name != "front" and "edge" in service["networks"]:
            yield f"{name}: is in the network of the front"
        user = str(service.get("user", "0")).split(":")[0]
        wants = {
            "read_only": service.get("read_only") is True,
            "cap_drop ALL": service.get("cap_drop") == ["ALL"] and "cap_add" not in service,
            "no-new-privileges": "no-new-privileges:true" in service.get("security_opt", []),
            "a user other than root": user.isdigit() and user != "0",
            "not privileged": not service.get("privileged"),
            "a health check": "healthcheck" in service or name in ONE_SHOT,
        }
        yield from (f"{name}: lacks {want}" for want, there in wants.items() if not there)
    if compose.document["networks"]["inside"] != {"internal": True}:
        yield "network inside: is not internal"


def images_of(compose: Compose) -> Iterator[str]:
    """Versions are named, and Triton's is at or above the floor."""
    bases = {name: re.search(r"^ARG BASE=(\S+)", compose.read(f"containers/{name}"), re.M) for name in CONTAINERFILES}
    images = {name: service["image"] for name, service in compose.services.items()}
    images |= {name: base[1] if base else "" for name, base in bases.items()}
    for name, image in images.items():
        if not re.search(r":v?\d+\.\d+", image):
            yield f"{name}: image {image!r} names no version"
    triton = re.search(r"tritonserver:(\d+\.\d+)", images["Containerfile.gpu"])
    if triton is None or triton[1] < TRITON_FLOOR:
        yield f"Containerfile.gpu: {images['Containerfile.gpu']} is below {TRITON_FLOOR}"
    for name in CONTAINERFILES:
        text = compose.read(f"containers/{name}")
        users = re.findall(r"^USER (\S+)", text, re.M)
        if not users or users[-1].split(":")[0] in ("0", "root"):
            yield f"{name}: runs as root"
        if 'ENTRYPOINT ["lockstep-entry"]' not in text or "lockstep doctor --entry" not in compose.read(
            "containers/entry.sh"
        ):
            yield f"{name}: nothing looks at the machine before the start"


def programs_of(compose: Compose) -> Iterator[str]:
    """`lockstep` is in each image. pip leaves out what a --target already has, so a second one writes no bin/."""
    for name in CONTAINERFILES:
        text = compose.read(f"containers/{name}")
        folders = re.findall(r"--target (\S+)", text)
        twice = {folder for folder in folders if folders.count(folder) > 1}
        yield from (f"{name}: installs twice into {folder}, the second time without its bin/" for folder in twice)
        for variable, below in (("PATH", "/bin"), ("PYTHONPATH", "")):
            found = re.search(rf"\b{variable}=(\S+)", text)
            listed = found[1].split(":") if found else []
            yield from (f"{name}: {f}{below} is not in {variable}" for f in folders if f + below not in listed)
        if not re.search(r"^RUN lockstep --help$", text.rpartition("\nUSER ")[2], re.M):
            yield f"{name}: its build does not try the program as its user"


def limits_of(compose: Compose) -> Iterator[str]:
    """What two sides must agree on: the body's limit, the drain's time, closed protocols, codes of errors."""
    nginx = compose.read("nginx/nginx.conf")
    body = re.search(r"client_max_body_size (\d+)m;", nginx)
    if body is None or int(body[1]) << 20 != Settings().max_body_bytes:
        yield "nginx.conf: client_max_body_size is not the gateway's max_body_bytes"
    idle = re.search(r"keepalive_timeout (\d+)s;", compose.read("nginx/upstreams.conf"))
    if idle is None or int(idle[1]) >= KEEP_ALIVE_S:
        yield f"upstreams.conf: connections are kept as long as the gateways do, {KEEP_ALIVE_S} s, or longer"
    grace = int(str(compose.services["gateway"]["stop_grace_period"]).removesuffix("s"))
    if grace <= EXIT_WITHIN_S:
        yield f"gateway: killed after {grace} s, it drains for up to {EXIT_WITHIN_S:g} s"
    if f"{RESTRICTED}:lockstep-key=" not in compose.read("containers/triton.sh"):
        yield f"triton.sh: does not close {RESTRICTED}"
    for status, code in re.findall(r'return (\d+) \'\{"type":"urn:lockstep:error:(\w+)"', nginx):
        if code not in TABLE or TABLE[code].status != int(status):
            yield f"nginx.conf: {status} {code} is not in docs/errors.md"


def _is_role(service: Service) -> bool:
    words = words_of(service)
    return words[:1] == ["lockstep"] and words[1] in ("ingest", "worker", "mixer", "accountant")


def _numbers(pattern: str, text: str) -> set[int]:
    return {int(found) for found in re.findall(pattern, text, re.M)}
