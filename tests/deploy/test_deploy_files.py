"""The files of ``deploy/`` by validators that need no network: compose-spec's schema, Kubernetes' own models."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets.settings import Settings
from temporal_bridge.workflows.task_queues import WORKER_ROLES

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name in ("kustomization.yaml", "dagster-instance.yaml", "workspace.yaml"):
            continue
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']} {document['metadata']['name']}", document


def deployments() -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for _, d in documents() if d["kind"] == "Deployment"}


def test_the_compose_file_fits_the_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DEPLOY / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "document"), documents(), ids=[name for name, _ in documents()])
def test_each_manifest_fits_kubernetes_own_models(name: str, document: dict[str, Any]) -> None:
    from dagster_k8s.models import k8s_model_from_dict
    from kubernetes import client

    version = document["apiVersion"].replace("rbac.authorization.k8s.io/", "").replace("networking.k8s.io/", "")
    version = version.replace("apps/", "").replace("policy/", "")
    model = getattr(client, f"V1{document['kind']}")
    assert version == "v1"
    k8s_model_from_dict(model, _snake(document, model))


def _snake(value: Any, model: Any) -> Any:
    """camelCase names of fields as the Python client has them; unknown ones stay, and are refused."""
    if isinstance(model, str):
        inner = re.match(r"(list|dict)[\[(](?:str, )?(.+)[\])]\Z", model)
        if inner and isinstance(value, list):
            return [_snake(item, inner[2]) for item in value]
        if inner and isinstance(value, dict):
            return {key: _snake(item, inner[2]) for key, item in value.items()}
        from kubernetes import client

        return _snake(value, getattr(client, model)) if hasattr(client, model) else value
    if not isinstance(value, dict):
        return value
    by_name = {wire: python for python, wire in model.attribute_map.items()}
    return {
        by_name.get(key, key): _snake(item, model.openapi_types[by_name[key]]) if key in by_name else item
        for key, item in value.items()
    }


def test_a_wrong_field_would_be_found() -> None:
    from dagster_k8s.models import k8s_model_from_dict
    from kubernetes import client

    document = deployments()["headrace-worker-extract"]
    document["spec"]["template"]["spec"]["containers"][0]["enviromentFrom"] = []
    with pytest.raises(Exception, match="enviromentFrom"):
        k8s_model_from_dict(client.V1Deployment, _snake(document, client.V1Deployment))


def test_kustomize_builds_the_whole_installation() -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed: the kustomization is read, not built")
    done = subprocess.run([program, "kustomize", str(KUBERNETES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    images = {
        container["image"]
        for document in built
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    }
    assert images == {"headrace:0.1.0"}
    assert {d["metadata"]["name"] for d in built if d["kind"] == "ConfigMap"} == {
        "headrace-settings",
        "headrace-dagster",
    }


def test_the_kustomization_names_every_file() -> None:
    named = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    files = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml", "secrets.example.yaml"}
    generated = {f.partition("=")[2] or f for g in named["configMapGenerator"] for f in g.get("files", [])}
    assert files == set(named["resources"]) | generated | {"settings.env"}


def test_each_kind_of_worker_is_deployed_and_no_other() -> None:
    queue = re.compile(r"--queue,? ?(\w+)")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    commands = [service["command"] for name, service in compose.items() if name.startswith("worker-")]
    commands_there = [
        d["spec"]["template"]["spec"]["containers"][0]["command"] for n, d in deployments().items() if "-worker-" in n
    ]
    for found in (commands, commands_there):
        assert sorted(queue.findall(" ".join(" ".join(command) for command in found))) == sorted(WORKER_ROLES)


@pytest.mark.parametrize(
    "file", ["compose.yaml", ".env.example", "kubernetes/settings.env", "kubernetes/secrets.example.yaml"]
)
def test_every_setting_exists(file: str) -> None:
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | {"HEADRACE_IMAGE"}
    named = set(re.findall(r"\bHEADRACE_[A-Z0-9_]+", (DEPLOY / file).read_text()))
    assert named and named <= known, named - known


@pytest.mark.parametrize("file", ["dagster.yaml", "kubernetes/dagster-instance.yaml"])
def test_dagster_reads_its_instance(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    for name in ("HOST", "DB", "USER", "PASSWORD"):
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", "x")
    (tmp_path / "dagster.yaml").write_text((DEPLOY / file).read_text())
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["concurrency"]["pools"]["default_limit"] == 1
    if "run_launcher" in config:
        from dagster._serdes import ConfigurableClassData
        from dagster_k8s import K8sRunLauncher

        launcher = config["run_launcher"]
        data = ConfigurableClassData(launcher["module"], launcher["class"], yaml.safe_dump(launcher["config"]))
        monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
        assert isinstance(data.rehydrate(K8sRunLauncher), K8sRunLauncher)


def test_no_container_runs_as_root_or_may_become_it() -> None:
    for name, deployment in deployments().items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["capabilities"]["drop"]) == (False, ["ALL"]), name
        assert own["readOnlyRootFilesystem"] is True, name
        assert {"requests", "limits"} <= set(container["resources"]), name
    users = re.findall(r"^USER (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["10001:10001"]


def test_workers_have_time_to_end_their_steps() -> None:
    for name, deployment in deployments().items():
        pod = deployment["spec"]["template"]["spec"]
        command = pod["containers"][0]["command"]
        if "--grace-seconds" in command:
            grace = int(command[command.index("--grace-seconds") + 1])
            assert pod["terminationGracePeriodSeconds"] > grace + 10, name


def test_the_image_installs_what_the_files_need() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert copied
    for name in " ".join(copied).split():
        assert (DEPLOY.parent / name).exists(), name
    assert "--require-hashes" in text


@pytest.mark.parametrize("path", sorted((DEPLOY / "helm").glob("*.yaml")), ids=lambda path: path.name)
def test_the_values_for_charts_agree_with_the_manifests(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    if path.name == "dagster-values.yaml":
        (code,) = values["dagster-user-deployments"]["deployments"]
        assert (code["name"], code["port"], code["image"]["tag"]) == ("headrace-code", 4266, "0.1.0")
        command = deployments()["headrace-code"]["spec"]["template"]["spec"]["containers"][0]["command"]
        assert command[-4:] == code["codeServerArgs"]
        assert values["dagsterWebserver"]["replicaCount"] == 0, "it has no login"
    else:
        config = values["server"]["config"]
        assert config["namespaces"]["namespace"][0]["name"] in (KUBERNETES / "settings.env").read_text()
        for store in (config["persistence"]["defaultStore"], config["persistence"]["visibilityStore"]):
            sql = config["persistence"]["datastores"][store]["sql"]
            assert sql["existingSecret"] and "password" not in sql, store
        # charts of the databases and of the metrics: chart 1.0 took them out and refuses their keys (its UPGRADING.md)
        assert values.keys() <= {"server", "web", "admintools", "schema"}
