"""What deploy/kubernetes says of itself, of deploy/compose.yaml and of the code: `problems(root)` names each lie.

The base is read as it is written, without kustomize: overlays are rendered and given to `problems_of` where kubectl is.
What a port, an image, a memory limit or a setting is comes from the files and the code that deploy/compose.yaml is
checked against (compose_check.py).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from compose_check import Compose, refused

from serving.config import ConfigInvalid, Settings, load_settings
from serving.gateway.worker import EXIT_WITHIN_S
from serving.roles.names import Names

Document = Mapping[str, Any]
BASE = Path("deploy/kubernetes/base")
COMPONENT = "app.kubernetes.io/component"
WORKLOADS = ("Deployment", "StatefulSet", "Job")
TRITON_EXIT_S = 20
INSIDE = {("gateway", "triton"), ("worker", "triton")}  # who asks whom over the network of the namespace
CLIENTS, PROMETHEUS = "lockstep-clients", "monitoring"


def problems(root: Path) -> list[str]:
    """Everything in the base that does not hold together, a line each; root: the repository."""
    listed = yaml.safe_load((root / BASE / "kustomization.yaml").read_text("utf-8"))["resources"]
    there = {path.name for path in (root / BASE).glob("*.yaml")} - {"kustomization.yaml"}
    found = [f"kustomization.yaml: {name} is not there" for name in sorted({*listed} - there)]
    found += [f"kustomization.yaml: {name} is not listed" for name in sorted(there - {*listed})]
    texts = [(root / BASE / name).read_text("utf-8") for name in listed if name in there]
    return found + problems_of([d for text in texts for d in yaml.safe_load_all(text)], root)


def problems_of(documents: Sequence[Document], root: Path) -> list[str]:
    """The same for documents as they would be applied."""
    system = System(documents, root)
    checks = (names_of, commands_of, settings_of, ports_of, probes_of, hardening_of, drain_of, scaling_of, budgets_of,
              network_of, as_in_compose)  # fmt: skip
    return [text for check in checks for text in check(system)]


class System:
    """The documents by kind and name."""

    def __init__(self, documents: Sequence[Document], root: Path) -> None:
        self.root, self.compose = root, Compose(root)
        self.by_kind: dict[str, dict[str, Document]] = {}
        for document in documents:
            self.by_kind.setdefault(document["kind"], {})[document["metadata"]["name"]] = document
        self.workloads = {n: d for kind in WORKLOADS for n, d in self.by_kind.get(kind, {}).items()}
        self.config: dict[str, str] = self.by_kind["ConfigMap"]["lockstep"]["data"]

    def named(self, kind: str) -> dict[str, Document]:
        return self.by_kind.get(kind, {})

    def pods(self) -> Iterator[tuple[str, Any]]:
        for name, document in self.workloads.items():
            yield name, document["spec"]["template"]["spec"]

    def containers(self) -> Iterator[tuple[str, Any, Any]]:
        for name, pod in self.pods():
            for container in (*pod.get("initContainers", []), *pod["containers"]):
                yield f"{name}/{container['name']}", pod, container

    def labels(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.workloads[name]["spec"]["template"]["metadata"]["labels"]
        return found

    def selected(self, selector: Mapping[str, Any]) -> set[str]:
        """The workloads whose pods a selector takes."""
        found = set()
        for name in self.workloads:
            labels = self.labels(name)
            equal = all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())
            among = all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
            found |= {name} if equal and among else set()
        return found

    def ports(self, name: str) -> dict[str, int]:
        pod = self.workloads[name]["spec"]["template"]["spec"]
        return {p["name"]: p["containerPort"] for c in pod["containers"] for p in c.get("ports", [])}

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """As the container sees it; what only the cluster knows is its own name."""
        found = {}
        for source in container.get("envFrom", []):
            if source.get("configMapRef", {}).get("name") == "lockstep":
                found |= self.config
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("configMapKeyRef", {})
            found[entry["name"]] = entry.get("value") or self.config.get(
                reference.get("key", ""), entry["name"].lower()
            )
        return found


def names_of(system: System) -> Iterator[str]:
    """Config maps, secrets, claims, volumes and services that are named exist."""
    docs = (system.root / "docs/deployment.md").read_text("utf-8")
    for name, pod in system.pods():
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in system.named("PersistentVolumeClaim"):
                yield f"{name}: no claim {claim}"
            secret = volume.get("secret", {}).get("secretName")
            if secret and f"create secret generic {secret} " not in docs:
                yield f"{name}: docs/deployment.md does not say how the secret {secret} is made"
        mounted = {m["name"] for c in (*pod.get("initContainers", []), *pod["containers"]) for m in c["volumeMounts"]}
        yield from (f"{name}: no volume {n}" for n in sorted(mounted - volumes.keys()))
        yield from (f"{name}: volume {n} is mounted by nobody" for n in sorted(volumes.keys() - mounted))
    for name, _, container in system.containers():
        for source in container.get("envFrom", []):
            if "configMapRef" in source and source["configMapRef"]["name"] not in system.named("ConfigMap"):
                yield f"{name}: no config map {source['configMapRef']['name']}"
            secret = source.get("secretRef", {})
            if secret and f"create secret generic {secret['name']} " not in docs:
                yield f"{name}: docs/deployment.md does not say how the secret {secret['name']} is made"
        for entry in container.get("env", []):
            wanted = entry.get("valueFrom", {}).get("configMapKeyRef")
            if wanted and wanted["key"] not in system.named("ConfigMap").get(wanted["name"], {}).get("data", {}):
                yield f"{name}: config map {wanted['name']} has no {wanted['key']}"
        if re.search(r"\w+://[^\s/@]*:[^\s/@]+@", yaml.safe_dump(container)):
            yield f"{name}: a password in the file"
    for name, document in system.named("StatefulSet").items():
        if document["spec"]["serviceName"] not in system.named("Service"):
            yield f"{name}: no service {document['spec']['serviceName']}"


def commands_of(system: System) -> Iterator[str]:
    """Every command line, probes included, is taken by the program's own parser; variables and files in it exist."""
    for name, _, container in system.containers():
        environment = system.environment(container)
        probes = (container.get(f"{kind}Probe", {}).get("exec", {}).get("command") for kind in PROBES)
        for words in (container["args"], *probes):
            if not words:
                continue
            missing = set(re.findall(r"\$\((\w+)\)", " ".join(words))) - environment.keys()
            yield from (f"{name}: $({variable}) is set nowhere" for variable in sorted(missing))
            told = [_expanded(word, environment) for word in words]
            if wrong := refused(told, system.compose):
                yield f"{name}: {' '.join(told)}: {wrong}"
            mounts = {m["mountPath"] for m in container["volumeMounts"]}
            for before, path in itertools.pairwise(words):
                if before == "--config" and str(Path(path).parent) not in mounts:
                    yield f"{name}: {path} is in no mounted folder"


def _expanded(word: str, environment: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[1]), word)


def settings_of(system: System) -> Iterator[str]:
    """Every LOCKSTEP_* is a setting, with a value that the setting takes."""
    known = {f"LOCKSTEP_{name.upper()}" for name in Settings.model_fields}
    for name, _, container in system.containers():
        told = {k: str(v) for k, v in system.environment(container).items() if k.startswith("LOCKSTEP_")}
        yield from (f"{name}: {key} is no setting" for key in sorted(told.keys() - known))
        try:
            load_settings(None, told)
        except ConfigInvalid as error:
            yield f"{name}: {error}"


def ports_of(system: System) -> Iterator[str]:
    """A container's port is where its process listens; services and addresses lead to such ports."""
    listening = system.compose.listening()
    for name in system.workloads:
        ports = set(system.ports(name).values())
        if extra := ports - listening.get(name, set()):
            yield f"{name}: port {sorted(extra)}, but it listens on {sorted(listening.get(name, set()))}"
    for name, container in ((n, c) for n, _, c in system.containers()):
        environment = system.environment(container)
        own = int(environment.get("LOCKSTEP_PORT", 0)) if name == "gateway/gateway" else 0
        if own and own not in system.ports("gateway").values():
            yield f"{name}: LOCKSTEP_PORT is {own}, its port is another"
        role = int(environment.get("LOCKSTEP_ROLE_METRICS_PORT", 0))
        if name in {f"{r}/{r}" for r in ROLES} and role not in system.ports(name.split("/")[0]).values():
            yield f"{name}: LOCKSTEP_ROLE_METRICS_PORT is {role}, its port is another"
    services = {}
    for name, document in system.named("Service").items():
        pods = system.selected({"matchLabels": document["spec"]["selector"]})
        if not pods:
            yield f"service {name}: selects nothing"
        for port in document["spec"]["ports"]:
            services.setdefault(name, set()).add(port["port"])
            yield from (
                f"service {name}: {pod} has no port {port['targetPort']}"
                for pod in pods
                if port["targetPort"] not in system.ports(pod)
            )
    yield from _tritons(system, services.get("triton", set()))


def _tritons(system: System, ports: set[int]) -> Iterator[str]:
    """The addresses in LOCKSTEP_TRITON_URL are those of the StatefulSet's pods, all of them."""
    replicas = system.workloads["triton"]["spec"]["replicas"]
    addresses = re.findall(r"grpc://([\w.-]+):(\d+)", system.config["LOCKSTEP_TRITON_URL"])
    if len(addresses) != replicas:
        yield f"config map: names {len(addresses)} Tritons, there are {replicas}"
    for host, port in addresses:
        if int(port) not in ports:
            yield f"config map: {host}:{port} is no port of a service"
        if host not in {f"triton-{number}.triton" for number in range(replicas)}:
            yield f"config map: there is no pod {host}"


PROBES = ("startup", "liveness", "readiness")
ROLES = ("ingest", "worker", "mixer", "accountant")


def probes_of(system: System) -> Iterator[str]:
    """Alive: /healthz, which depends on nothing else. Ready: /readyz, or the right answers of Triton's canaries."""
    for name, pod in system.pods():
        if name == "topics":
            continue
        container = pod["containers"][0]
        for kind in PROBES:
            probe = container.get(f"{kind}Probe", {})
            if name == "triton":
                if probe.get("exec", {}).get("command", [])[:3] != ["lockstep", "models", "canary"]:
                    yield f"{name}: its {kind} probe asks for no canary"
                continue
            wanted = "/readyz" if kind == "readiness" else "/healthz"
            asked = probe.get("httpGet", {})
            if asked.get("path") != wanted:
                yield f"{name}: its {kind} probe asks {asked.get('path')}, not {wanted}"
            if asked.get("port") not in system.ports(name):
                yield f"{name}: its {kind} probe asks port {asked.get('port')}"
        live, ready = (container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness"))
        if _lasting(live) <= _lasting(ready):
            yield f"{name}: is ended before it is taken out of rotation"


def _lasting(probe: Mapping[str, Any]) -> int:
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def hardening_of(system: System) -> Iterator[str]:
    """Nobody is root, writes its root, keeps a capability or holds a token; everything has requests and limits."""
    for name, pod in system.pods():
        own = pod.get("securityContext", {})
        wants = {
            "no service account's token": pod.get("automountServiceAccountToken") is False,
            "a user other than root": own.get("runAsNonRoot") is True and own.get("runAsUser", 0) > 0,
            "a seccomp profile": own.get("seccompProfile") == {"type": "RuntimeDefault"},
            "the host's namespaces left alone": not any(pod.get(k) for k in ("hostNetwork", "hostPID", "hostIPC")),
            "no folder of the host": not any("hostPath" in volume for volume in pod.get("volumes", [])),
        }
        yield from (f"{name}: lacks {want}" for want, there in wants.items() if not there)
    for name, _, container in system.containers():
        own, resources = container.get("securityContext", {}), container.get("resources", {})
        wants = {
            "a read-only root": own.get("readOnlyRootFilesystem") is True,
            "no capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "no new privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
            "its image's entry point": "command" not in container,
            "its pod's user": "runAsUser" not in own and "runAsNonRoot" not in own,
            "requests": {"cpu", "memory"} <= resources.get("requests", {}).keys(),
            "a memory limit": "memory" in resources.get("limits", {}),
        }
        yield from (f"{name}: lacks {want}" for want, there in wants.items() if not there)
    level = system.named("Namespace").get("lockstep", {}).get("metadata", {}).get("labels", {})
    if level.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "namespace: takes pods that are not restricted"


def drain_of(system: System) -> Iterator[str]:
    """Who is asked over the network leaves rotation before it ends, and has the time to finish what it has."""
    for name, needed in (("gateway", int(EXIT_WITHIN_S)), ("triton", TRITON_EXIT_S)):
        pod = system.workloads[name]["spec"]["template"]["spec"]
        before = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not before:
            yield f"{name}: no preStop: it is asked while it ends"
        if pod.get("terminationGracePeriodSeconds", 30) <= before + needed:
            yield f"{name}: killed after {pod.get('terminationGracePeriodSeconds', 30)} s, needs {before} + {needed} s"
    if f"--exit-timeout-secs={TRITON_EXIT_S}" not in system.compose.read("containers/triton.sh"):
        yield f"triton.sh: does not exit within {TRITON_EXIT_S} s"
    for name, pod in system.pods():
        verified = [c for c in pod.get("initContainers", []) if c["args"][:3] == ["lockstep", "models", "verify"]]
        if any(v["name"] == "models" for v in pod.get("volumes", [])) and not verified:
            yield f"{name}: nothing verifies the models it mounts"


def scaling_of(system: System) -> Iterator[str]:
    """What scales exists and says nothing of replicas itself; workers never outnumber the partitions less one."""
    scalers = [(d["spec"]["scaleTargetRef"], n) for n, d in system.named("HorizontalPodAutoscaler").items()]
    scalers += [(d["spec"]["scaleTargetRef"], n) for n, d in system.named("ScaledObject").items()]
    for target, name in scalers:
        scaled = system.named(target["kind"]).get(target["name"])
        if scaled is None:
            yield f"scaler {name}: there is no {target['kind']} {target['name']}"
        elif "replicas" in scaled["spec"]:
            yield f"{target['name']}: has replicas, and a scaler that changes them"
    for wanted in ("gateway", "worker"):
        if wanted not in {target["name"] for target, _ in scalers}:
            yield f"{wanted}: nothing scales it"
    topics_file = yaml.safe_load(system.compose.read("kafka/topics.yaml"))
    topics, sized_for = topics_file["topics"], topics_file["load"]["workers_max"]
    names = Names(system.config.get("LOCKSTEP_KAFKA_PREFIX", ""))
    for name, document in system.named("ScaledObject").items():
        for trigger in document["spec"]["triggers"]:
            told = trigger["metadata"]
            topic = told["topic"].removeprefix(names.prefix)
            ceiling = topics.get(topic, {}).get("partitions", 0) - 1
            most = document["spec"]["maxReplicaCount"]
            if most != ceiling:
                yield f"{name}: at most {most}, partitions of {topic} less one: {ceiling}"
            if most != sized_for:
                yield f"{name}: at most {most}, load.workers_max of deploy/kafka/topics.yaml is {sized_for}"
            group = names.group(f"worker-{system.config.get('STREAM_MODEL')}")
            if told["consumerGroup"] != group:
                yield f"{name}: watches the group {told['consumerGroup']}, the workers' is {group}"
            if told["bootstrapServersFromEnv"] not in system.config:
                yield f"{name}: {told['bootstrapServersFromEnv']} is set nowhere"


def budgets_of(system: System) -> Iterator[str]:
    """Every workload that stays has a disruption budget, which lets nodes be emptied."""
    covered: set[str] = set()
    for name, document in system.named("PodDisruptionBudget").items():
        pods = system.selected(document["spec"]["selector"])
        covered |= pods
        if not pods:
            yield f"budget {name}: selects nothing"
        least = document["spec"].get("minAvailable", 0)
        if least and any(_replicas(system, pod) <= least for pod in pods):
            yield f"budget {name}: no pod may ever be moved"
    yield from (f"{n}: no PodDisruptionBudget" for n in sorted(system.workloads.keys() - covered - {"topics"}))


def _replicas(system: System, name: str) -> int:
    scaled = system.named("HorizontalPodAutoscaler").get(name)
    if scaled:
        return int(scaled["spec"]["minReplicas"])
    return int(system.workloads[name]["spec"].get("replicas", 1))


def network_of(system: System) -> Iterator[str]:
    """Nothing is open by default; from outside only the gateway is, and Prometheus sees every page."""
    policies = system.named("NetworkPolicy")
    closed = [
        p["spec"] for p in policies.values() if p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ]
    if not closed:
        yield "network: nothing is closed by default"
    scraped: set[int] = set()
    open_to: dict[str, set[str]] = {}
    for name, policy in policies.items():
        pods = system.selected(policy["spec"]["podSelector"])
        if not pods:
            yield f"network {name}: selects nothing"
        for rule in policy["spec"].get("ingress", []):
            ports = {p["port"] for p in rule.get("ports", [])}
            for pod in pods:
                known = {*system.ports(pod), *system.ports(pod).values()}
                if policy["spec"]["podSelector"] and not ports <= known:
                    yield f"network {name}: {pod} has no port {sorted(ports - known, key=str)}"
            for source in rule.get("from", [{}]):
                where = source.get("namespaceSelector", {}).get("matchLabels", {}) if source else None
                if where == {"kubernetes.io/metadata.name": PROMETHEUS}:
                    scraped |= ports
                elif where == {CLIENTS: "allowed"}:
                    yield from (f"network {name}: {pod} is open to clients" for pod in sorted(pods - {"gateway"}))
                    open_to.setdefault("clients", set()).update(pods)
                elif where is None or "namespaceSelector" in source or not source.get("podSelector"):
                    yield f"network {name}: {sorted(pods)} are open to others than clients and Prometheus"
                else:
                    for asker in system.selected(source["podSelector"]):
                        open_to.setdefault(asker, set()).update(pods)
    if "gateway" not in open_to.get("clients", set()):
        yield "network: clients cannot reach the gateway"
    yield from (f"network: {a} cannot reach {b}" for a, b in sorted(INSIDE) if b not in open_to.get(a, set()))
    pages = {system.ports(n).get("metrics", system.ports(n).get("http")) for n in system.workloads if n != "topics"}
    if scraped != pages:
        yield f"network: Prometheus reaches {sorted(scraped)}, the pages are at {sorted(map(int, filter(None, pages)))}"


def as_in_compose(system: System) -> Iterator[str]:
    """Images, memory, mounts, secrets and the program of a service are those of deploy/compose.yaml."""
    services = dict(system.compose.ours())
    yield from (f"{name}: only in deploy/compose.yaml" for name in sorted(services.keys() - system.workloads.keys()))
    for name, pod in system.pods():
        service = services.get(name)
        if service is None:
            yield f"{name}: not in deploy/compose.yaml"
            continue
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            if container["image"] != service["image"]:
                yield f"{name}: image {container['image']}, in deploy/compose.yaml {service['image']}"
        most = str(pod["containers"][0]["resources"]["limits"]["memory"]).lower().removesuffix("i")
        if "mem_limit" in service and most != service["mem_limit"]:
            yield f"{name}: memory {most}, in deploy/compose.yaml {service['mem_limit']}"
        first, mounts = pod["containers"][0], {mount.split(":")[1] for mount in service.get("volumes", [])}
        if missing := mounts - {mount["mountPath"] for mount in first["volumeMounts"]}:
            yield f"{name}: does not mount {sorted(missing)}, as deploy/compose.yaml does"
        secret = any("secretRef" in source for source in first.get("envFrom", []))
        if secret != ("env_file" in service):
            yield f"{name}: secrets in its environment: {secret}, in deploy/compose.yaml {not secret}"
        ours, theirs = pod["containers"][0]["args"], service["command"]
        of_a_gpu = ("--target", "--triton-target")
        if [w for w in ours if w.startswith("--") and w not in of_a_gpu] != [w for w in theirs if w.startswith("--")]:
            yield f"{name}: its options are not those of deploy/compose.yaml"
