"""deploy/kubernetes, offline: Kubernetes' own schemas, and every reference from file to file and to the code."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_check import BASE, problems, problems_of

ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
# Kinds that Kubernetes itself does not have: KEDA's, and kustomize's.
FOREIGN = {"ScaledObject", "Kustomization"}
KEDA_KEYS = {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "triggers"}

# A hasty change in one file, and what must be said of it.
MUTANTS = [
    ("config.yaml", "data:", "data:\n  LOCKSTEP_DRAIN: \"5\"", "LOCKSTEP_DRAIN is no setting"),
    ("config.yaml", "LOCKSTEP_LOG_LEVEL: info", "LOCKSTEP_LOG_LEVEL: loud", "log_level"),
    ("config.yaml", "triton-1.triton:8001", "triton-1.triton:8000", "triton-1.triton:8000 is no port"),
    ("config.yaml", ",grpc://triton-1.triton:8001", "", "names 1 Tritons, there are 2"),
    ("config.yaml", "triton-1.triton:", "triton-2.triton:", "there is no pod triton-2"),
    ("config.yaml", 'LOCKSTEP_ROLE_METRICS_PORT: "9100"', 'LOCKSTEP_ROLE_METRICS_PORT: "9101"', "its port is another"),
    ("config.yaml", "STREAM_MODEL: person", "STREAMED: person", "$(STREAM_MODEL) is set nowhere"),
    ("config.yaml", "STREAM_MODEL: person_ssdlite", "STREAM_MODEL: face_yolo", "the workers' is worker-face_yolo"),
    ("kustomization.yaml", "  - network.yaml\n", "", "network.yaml is not listed"),
    ("kustomization.yaml", "  - ingest.yaml\n", "  - ingests.yaml\n", "ingests.yaml is not there"),
    ("gateway.yaml", "configMapRef: {name: lockstep}", "configMapRef: {name: locked}", "no config map locked"),
    ("gateway.yaml", "secretName: lockstep-settings", "secretName: settings", "the secret settings is made"),
    ("gateway.yaml", "containerPort: 8080", "containerPort: 8000", "but it listens on [8080]"),
    ("gateway.yaml", "targetPort: http}", "targetPort: web}", "gateway has no port web"),
    ("gateway.yaml", "runAsNonRoot: true\n", "runAsNonRoot: false\n", "a user other than root"),
    ("gateway.yaml", "runAsUser: 10001", "runAsUser: 0", "a user other than root"),
    ("gateway.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "a read-only root"),
    ("gateway.yaml", "automountServiceAccountToken: false", "automountServiceAccountToken: true", "service account"),
    ("gateway.yaml", "path: /readyz", "path: /healthz", "its readiness probe asks /healthz"),
    ("gateway.yaml", "path: /healthz", "path: /readyz", "its liveness probe asks /readyz"),
    ("gateway.yaml", "          lifecycle: {preStop: {sleep: {seconds: 5}}}\n", "", "no preStop"),
    ("gateway.yaml", "terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 30", "killed after 30 s"),
    ("gateway.yaml", "models, verify, --target, cpu", "models, verify, --for, cpu", "--for"),
    ("gateway.yaml", "name: verify\n", "name: verify\n          command: [\"true\"]\n", "its image's entry point"),
    ("gateway.yaml", "Deployment, name: gateway", "Deployment, name: gateways", "there is no Deployment gateways"),
    ("gateway.yaml", "minReplicas: 2", "minReplicas: 1", "no pod may ever be moved"),
    ("gateway.yaml", "memory: 3Gi", "memory: 2Gi", "in deploy/compose.yaml 3g"),
    ("gateway.yaml", "claimName: galleries", "claimName: gallery", "no claim gallery"),
    ("triton.yaml", "image: lockstep-triton:0.1.0", "image: lockstep-triton:0.2.0", "in deploy/compose.yaml"),
    ("triton.yaml", "models, canary, --triton", "models, list, --triton", "asks for no canary"),
    ("triton.yaml", "containerPort: 8001", "containerPort: 8011", "but it listens on [8001, 8002]"),
    ("triton.yaml", "periodSeconds: 30, failureThreshold: 10", "failureThreshold: 1", "ended before"),
    ("triton.yaml", "key: LOCKSTEP_LOG_LEVEL", "key: LOG_LEVEL", "has no LOG_LEVEL"),
    ("worker.yaml", "maxReplicaCount: 11", "maxReplicaCount: 12", "at most 12, partitions of frames less one: 11"),
    ("../../kafka/topics.yaml", "workers_max: 11", "workers_max: 8", "at most 11, load.workers_max of"),
    ("../../kafka/topics.yaml", "frames:\n    partitions: 12", "frames:\n    partitions: 16", "less one: 15"),
    ("worker.yaml", "topic: frames", "topic: results_", "less one: -1"),
    ("worker.yaml", "--triton,", "--server,", "--server"),
    ("worker.yaml", "  # No replicas:", "  replicas: 2\n  # No replicas:", "a scaler that changes them"),
    ("mixer.yaml", "--member, $(POD_NAME)", "--name, $(POD_NAME)", "--name"),
    ("mixer.yaml", "serviceName: mixer", "serviceName: mixers", "no service mixers"),
    ("mixer.yaml", "/etc/lockstep/lockstep.yaml", "/run/secrets/lockstep.yaml", "in no mounted folder"),
    ("mixer.yaml", "mountPath: /srv/model_repository, readOnly: true}  # their labels", "mountPath: /srv/models}",
     "mixer: does not mount ['/srv/model_repository']"),
    ("mixer.yaml", "            - {secretRef: {name: lockstep-cameras, optional: true}}\n", "",
     "mixer: secrets in its environment: False"),
    ("accountant.yaml", "kind: PodDisruptionBudget", "kind: PodDisruption", "accountant: no PodDisruptionBudget"),
    ("network.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: [Ingress]", "nothing is closed by default"),
    ("network.yaml", "values: [gateway, worker]}]}}]", "values: [gateway]}]}}]", "worker cannot reach triton"),
    ("network.yaml", "matchLabels: {lockstep-clients: allowed}", "matchLabels: {}", "open to others than clients"),
    ("network.yaml", "name: clients\nspec:\n  podSelector: {matchLabels: {app.kubernetes.io/component: gateway}}",
     "name: clients\nspec:\n  podSelector: {}", "triton is open to clients"),
    ("network.yaml", ", {port: 9100}", "", "Prometheus reaches"),
    ("namespace.yaml", "enforce: restricted", "enforce: baseline", "takes pods that are not restricted"),
]  # fmt: skip


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def validate(document: dict[str, Any]) -> None:
    """Kubernetes' own schema, strictly: an unknown field is an error."""
    if document["kind"] not in FOREIGN:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_every_file_is_what_kubernetes_takes() -> None:
    found = [d for path in sorted((ROOT / BASE).glob("*.yaml")) for d in documents(path.read_text("utf-8"))]
    assert {"Deployment", "StatefulSet", "NetworkPolicy", "HorizontalPodAutoscaler"} <= {d["kind"] for d in found}
    for document in found:
        validate(document)
    scaled = next(d for d in found if d["kind"] == "ScaledObject")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1" and scaled["spec"].keys() == KEDA_KEYS
    broken = next(d for d in found if d["kind"] == "Deployment")
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


def test_the_base_names_only_what_there_is() -> None:
    assert problems(ROOT) == []


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the checks read, copied once."""
    folder = tmp_path_factory.mktemp("kubernetes")
    ignored = shutil.ignore_patterns("__pycache__", "embedded", "grafana")
    shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=ignored)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "deployment.md", folder / "docs")
    return folder


@pytest.mark.parametrize(("file", "old", "new", "said"), MUTANTS, ids=[f"{m[0]}: {m[2].strip()[:40]}" for m in MUTANTS])
def test_a_hasty_change_in_one_file_is_named(copied: Path, file: str, old: str, new: str, said: str) -> None:
    path = copied / BASE / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    try:
        found = problems(copied)
    finally:
        path.write_text(text, "utf-8")
    assert any(said in problem for problem in found), found


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_an_overlay_renders_to_what_holds_together(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = documents(done.stdout)
    for document in found:
        validate(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "lockstep"
    assert problems_of(found, ROOT) == []
    pod = next(d for d in found if d["kind"] == "StatefulSet" and d["metadata"]["name"] == "triton")["spec"]["template"]
    if overlay == "gpu":
        assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
        assert pod["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        assert limits == {"memory": "6Gi", "nvidia.com/gpu": "1"}
    told = [c["args"] for c in pod["spec"]["initContainers"]]
    assert told == [["lockstep", "models", "verify", "--target", overlay]]
