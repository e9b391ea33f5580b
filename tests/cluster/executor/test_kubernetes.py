"""The manifests say what the documents promise: authentication, limits, nothing exposed, names that fit together."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.service.config import read_config

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.fixture
def cluster() -> dict[str, Any]:
    (found,) = documents("raycluster.yaml")
    return found


@pytest.fixture
def driver() -> dict[str, Any]:
    return documents("driver.yaml")[0]


def pods(cluster: dict[str, Any], driver: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [*(group["template"]["spec"] for group in groups), driver["spec"]["template"]["spec"]]


def test_ray_asks_for_a_token_and_shows_no_dashboard(cluster: dict[str, Any]) -> None:
    spec = cluster["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    # Token authentication came with 2.52.
    assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52, 0)
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["include-dashboard"] == "false"
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"]["num-cpus"] == "0"


def test_slots_fit_the_limits(cluster: dict[str, Any]) -> None:
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for group in groups.values():
        (container,) = group["template"]["spec"]["containers"]
        assert group["rayStartParams"]["num-cpus"] == container["resources"]["limits"]["cpu"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    (container,) = groups["gpu"]["template"]["spec"]["containers"]
    assert groups["gpu"]["rayStartParams"]["num-gpus"] == container["resources"]["limits"]["nvidia.com/gpu"]


def test_every_pod_is_limited_and_unprivileged(cluster: dict[str, Any], driver: dict[str, Any]) -> None:
    for pod in pods(cluster, driver):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        # Ray keeps its objects in shared memory; without this it has 64 MB.
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_the_driver_has_the_token_and_the_address_of_the_head(cluster: dict[str, Any], driver: dict[str, Any]) -> None:
    (container,) = driver["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    name = cluster["metadata"]["name"]
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    assert environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    address = environment["DOSEENG_EXECUTOR__ADDRESS"]["value"]
    assert address == f"{name}-head-svc:6379"
    # What it sets is configuration that exists.
    said = {key: entry["value"] for key, entry in environment.items() if key.startswith("DOSEENG_")}
    assert read_config(environment=said).executor.address == address


def test_nobody_else_reaches_ray(cluster: dict[str, Any], driver: dict[str, Any]) -> None:
    policy = documents("driver.yaml")[1]
    selected = policy["spec"]["podSelector"]["matchExpressions"][0]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"] == [selected]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"], driver["spec"]]
    for group in groups:
        assert group["template"]["metadata"]["labels"][selected["key"]] in selected["values"]
