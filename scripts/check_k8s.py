"""Render every kustomization of k8s/ and check what a cluster would be given.

Each document is validated against the Kubernetes schemas, unknown fields refused, and what no
schema knows is asserted: the drain fits the grace period, the probes exist, selectors find their
pods, references lead somewhere.
Skips (exit 0) where neither kubectl nor kustomize is installed.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

K8S = Path(__file__).resolve().parent.parent / "k8s"
OVERLAYS = ["overlays/cpu", "overlays/gpu"]
RENDERED = [*OVERLAYS, "benchmark"]

Document = dict[str, Any]


def render(command: list[str], folder: str) -> list[Document]:
    result = subprocess.run(
        [*command, str(K8S / folder)], check=False, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise SystemExit(f"FAIL k8s/{folder}: {result.stderr.strip()}")
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def schema_problems(documents: list[Document]) -> Iterator[str]:
    version = kubernetes_validate.latest_version()
    for document in documents:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            yield f"{name(document)}: {path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f"{name(document)}: no such kind in {error.api_version} of {error.version}"


def name(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def pod_problems(documents: list[Document]) -> Iterator[str]:
    """What holds for every pod: the Deployment's and the Job's."""
    exists = {name(document) for document in documents}
    for document in documents:
        if document["kind"] not in {"Deployment", "Job"}:
            continue
        where, pod = name(document), document["spec"]["template"]["spec"]
        if pod.get("enableServiceLinks") is not False:
            yield f"{where}: Services would be injected as REWARD_* variables"
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            yield f"{where}: may run as root"
        for volume in pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and f"PersistentVolumeClaim/{claim}" not in exists:
                yield f"{where}: no PersistentVolumeClaim {claim}"
        for container in pod.get("initContainers", []) + pod["containers"]:
            security = container.get("securityContext", {})
            if not security.get("readOnlyRootFilesystem") or security.get(
                "allowPrivilegeEscalation", True
            ):
                yield f"{where}: container {container['name']} is not confined"
            for source in container.get("envFrom", []):
                reference = source.get("configMapRef", {}).get("name")
                if reference and f"ConfigMap/{reference}" not in exists:
                    yield f"{where}: no ConfigMap {reference}"
            for variable in container.get("env", []):
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret and not secret.get("optional"):
                    yield f"{where}: {variable['name']} needs a Secret that may not exist"


def service_problems(documents: list[Document]) -> Iterator[str]:
    """What holds for an overlay: one Deployment and what points at it."""
    by_kind = {document["kind"]: document for document in documents}
    deployment = by_kind["Deployment"]
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]

    grace = pod["spec"]["terminationGracePeriodSeconds"]
    pre_stop = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = int(by_kind["ConfigMap"]["data"]["REWARD_DRAIN_SECONDS"])
    if grace <= pre_stop + drain:
        yield f"grace period {grace} s does not exceed preStop {pre_stop} s + drain {drain} s"

    ports = {port["name"] for port in container["ports"]}
    for probe, path in {
        "startupProbe": "/health",
        "livenessProbe": "/health",
        "readinessProbe": "/ready",
    }.items():
        get = container.get(probe, {}).get("httpGet", {})
        if get.get("path") != path or get.get("port") not in ports:
            yield f"{probe} does not ask for {path} on a port of the container"

    selectors = {
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "Service": by_kind["Service"]["spec"]["selector"],
        "PodDisruptionBudget": by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        if not selector or not selector.items() <= pod["metadata"]["labels"].items():
            yield f"the selector of the {kind} does not match the pods"
    if by_kind["Service"]["spec"]["ports"][0]["targetPort"] not in ports:
        yield "the Service's port is not one of the container"

    rolls = deployment["spec"]["strategy"]["type"] != "Recreate"
    scaler = by_kind.get("HorizontalPodAutoscaler")
    if scaler and scaler["spec"]["scaleTargetRef"]["name"] != deployment["metadata"]["name"]:
        yield "the HorizontalPodAutoscaler scales another Deployment"
    modes = by_kind["PersistentVolumeClaim"]["spec"]["accessModes"]
    if (scaler or rolls) and "ReadWriteMany" not in modes:
        yield f"pods on several nodes at a time cannot share a volume that is {modes}"


def main() -> int:
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        print("SKIP: neither kubectl nor kustomize is installed; k8s/ was not checked")
        return 0
    failed = False
    for folder in RENDERED:
        documents = render(command, folder)
        problems = [*schema_problems(documents), *pod_problems(documents)]
        if folder in OVERLAYS:
            problems += service_problems(documents)
        for problem in problems:
            print(f"FAIL k8s/{folder}: {problem}")
        if not problems:
            print(f"ok k8s/{folder}: {', '.join(sorted(name(document) for document in documents))}")
        failed = failed or bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
