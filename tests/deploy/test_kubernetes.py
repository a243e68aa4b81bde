"""The manifests against Kubernetes's and KubeRay's schemas, and against what the application needs of them.

RayService: KubeRay 1.7.0's own schema (kuberay.py says how it was reduced). Pods and the rest:
kubernetes-validate. Nothing here has run on a cluster.
"""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources

from app.config import ApplicationConfig
from app.plan_check import refusal_of
from app.serving.launch_plan import environment
from placement.hardware import parse_cluster

kubernetes_validate = pytest.importorskip("kubernetes_validate")

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy" / "kubernetes"
SCHEMA = json.loads(Path(__file__).with_name("rayservice-v1.7.0.json").read_text())
SHAPES = ("one-node.yaml", "nodes.yaml")
LABEL = {"app.kubernetes.io/name": "promiseserve"}
KUBERNETES = "1.34"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def service(name: str) -> dict[str, Any]:
    [document] = documents(name)
    return document


def groups(name: str) -> list[dict[str, Any]]:
    cluster = service(name)["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]


def pods(name: str) -> list[dict[str, Any]]:
    return [group["template"] for group in groups(name)]


def served(name: str) -> dict[str, Any]:
    return yaml.safe_load(service(name)["spec"]["serveConfigV2"])


def common(kind: str) -> dict[str, Any]:
    [document] = [one for one in documents("common.yaml") if one["kind"] == kind]
    return document


def test_every_manifest_is_looked_at_here():
    assert {path.name for path in FOLDER.glob("*.yaml")} == {"common.yaml", *SHAPES}


@pytest.mark.parametrize("name", SHAPES)
def test_kuberay_knows_every_field(name: str):
    jsonschema.validate(service(name), SCHEMA)


@pytest.mark.parametrize("name", SHAPES)
def test_the_stated_hardware_holds_every_engine_that_it_may_come_to(name: str):
    [application] = served(name)["applications"]
    config = ApplicationConfig.model_validate(application["args"])
    assert config.hardware is not None
    assert refusal_of(config, parse_cluster(config.hardware)) is None
    # Else the engines that have no node yet are never asked for, and so no node.
    assert config.replicas.cluster_grows == (config.replicas.max > 1)


def test_the_schema_refuses_what_kuberay_does_not_know():
    wrong = service("one-node.yaml")
    wrong["spec"]["rayClusterConfig"]["authOptions"]["mode"] = "password"
    with pytest.raises(jsonschema.ValidationError, match="password"):
        jsonschema.validate(wrong, SCHEMA)
    wrong = service("nodes.yaml")
    wrong["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(wrong, SCHEMA)


@pytest.mark.parametrize("name", SHAPES)
def test_kubernetes_knows_every_field_of_the_pods(name: str):
    for template in pods(name):
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        pod["metadata"]["name"] = "pod"
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", documents("common.yaml"), ids=lambda one: one["kind"])
def test_kubernetes_knows_every_field_of_the_rest(document: dict[str, Any]):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_served_is_the_shipped_configuration(name: str):
    build = runpy.run_path(str(FOLDER / "build.py"))
    assert set(build["SHAPES"]) == set(SHAPES)
    assert build["with_served"](name) == (FOLDER / name).read_text()
    [application] = served(name)["applications"]
    ApplicationConfig.model_validate(application["args"])
    assert served(name)["http_options"] == {"host": "0.0.0.0", "port": 8000}


@pytest.mark.parametrize("name", SHAPES)
def test_a_pod_outlives_the_longest_stream_and_waits_for_it(name: str):
    config = ApplicationConfig.model_validate(served(name)["applications"][0]["args"])
    assert service(name)["spec"]["rayClusterDeletionDelaySeconds"] > config.replicas.drain_s
    for template in pods(name):
        assert template["spec"]["terminationGracePeriodSeconds"] > config.replicas.drain_s
        # HAProxy's old processes too.
        assert (
            float(environment_of(template)["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > config.replicas.drain_s
        )


@pytest.mark.parametrize("name", SHAPES)
def test_a_hook_waits_for_the_longest_stream_and_ends_within_its_pods_time(name: str):
    config = ApplicationConfig.model_validate(served(name)["applications"][0]["args"])
    for template in pods(name):
        [waited] = re.findall(r"(?:date \+%s\) \+|--deadline-remaining-seconds) (\d+)", hook(template))
        assert config.replicas.drain_s <= int(waited) < template["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_hook_is_a_shell_script_that_does_not_wait_for_itself(name: str):
    for template in pods(name):
        subprocess.run(["sh", "-n", "-c", hook(template)], check=True, timeout=10)
        for pattern in re.findall(r"pgrep -f '?([^' ]+)", hook(template)):
            assert not re.search(pattern, hook(template))


def test_a_worker_waits_for_engines_and_for_haproxy():
    [_, worker] = pods("nodes.yaml")
    assert re.search(r"pgrep -f '\[E\]ngineCore' \|\| pgrep -x haproxy", hook(worker))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("pages", "asked"),
    [
        (["promiseserve_leases 2.0", "", "promiseserve_leases 1.0", "promiseserve_leases 0.0"], 4),
        (["promiseserve_leases 2.0"], 31),
        (["promiseserve_leases_held 0.0", "promiseserve_leases 10.0", "promiseserve_leases 0"], 3),
    ],
    ids=["a failed look is none", "nobody is there any more", "other figures are none"],
)
def test_a_head_ends_when_no_lease_is_held(name: str, pages: list[str], asked: int, tmp_path: Path):
    """curl answers with one page after the other, and then with none."""
    for number, page in enumerate(pages, 1):
        if page:
            (tmp_path / f"page{number}").write_text(f"promiseserve_queue_depth 0.0\n{page}\n")
    curl = (
        f'#!/bin/sh\necho asked >> {tmp_path}/asked\nexec cat "{tmp_path}/page$(wc -l < {tmp_path}/asked)"\n'
    )
    for program, text in (("curl", curl), ("sleep", "#!/bin/sh\n")):
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "-c", hook(pods(name)[0])]
    subprocess.run(command, env=variables, check=True, timeout=30, stderr=subprocess.DEVNULL)
    assert (tmp_path / "asked").read_text().count("asked") == asked


def hook(template: dict[str, Any]) -> str:
    """What a pod does before it ends."""
    command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["/bin/sh", "-c"]
    return command[2]


def environment_of(template: dict[str, Any]) -> dict[str, str | None]:
    [container] = template["spec"]["containers"]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


@pytest.mark.parametrize("name", SHAPES)
def test_every_pod_has_probes_the_token_and_what_scripts_serve_sets(name: str):
    cluster = service(name)["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "promiseserve-ray"}
    assert "auth_token" in common_secrets()["promiseserve-ray"]
    # Ray's own daemons come from KubeRay; the token from authOptions.
    not_here = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PATH", "PYTHONUNBUFFERED"}
    # A Service takes longer to forget a gateway than the HAProxy on its own machine.
    not_here |= {longer := "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"}
    expected = environment({}, "bin", "token")
    for template in pods(name):
        [container] = template["spec"]["containers"]
        given = environment_of(template)
        assert float(given[longer] or 0) > float(expected[longer])
        assert {key: given.get(key) for key in expected.keys() - not_here} == {
            key: expected[key] for key in expected.keys() - not_here
        }
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        for variable in container["env"]:
            if "valueFrom" in variable:
                key = variable["valueFrom"]["secretKeyRef"]
                assert key["key"] in common_secrets()[key["name"]]


@pytest.mark.parametrize("name", SHAPES)
def test_every_volume_is_there_for_all_that_mount_it(name: str):
    claims = {common("PersistentVolumeClaim")["metadata"]["name"]}
    for template in pods(name):
        volumes = {one["name"]: one for one in template["spec"]["volumes"]}
        [container] = template["spec"]["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
        for volume in volumes.values():
            assert volume.get("secret", {}).get("secretName", "promiseserve-keys") in common_secrets()
            assert {volume.get("persistentVolumeClaim", {}).get("claimName", *claims)} == claims


def common_secrets() -> dict[str, dict[str, str]]:
    secrets = [one for one in documents("common.yaml") if one["kind"] == "Secret"]
    return {one["metadata"]["name"]: one["stringData"] for one in secrets}


@pytest.mark.parametrize("name", SHAPES)
def test_policies_find_every_pod(name: str):
    assert common("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == LABEL
    for template in pods(name):
        assert LABEL.items() <= template["metadata"]["labels"].items()


def test_the_budget_is_one_that_kubernetes_can_tell_of_a_raycluster():
    budget = common("PodDisruptionBudget")["spec"]
    assert budget.keys() == {"minAvailable", "selector"}
    assert isinstance(budget["minAvailable"], int)
    # KubeRay's own label: of the head there is but one, which could never be moved.
    assert budget["selector"]["matchLabels"] == {**LABEL, "ray.io/node-type": "worker"}


def test_prometheus_reaches_the_ports_that_the_readme_names():
    [ports] = [
        {port["port"] for port in rule["ports"]}
        for rule in common("NetworkPolicy")["spec"]["ingress"]
        if rule["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    ]
    assert ports == {8000, 8080}
    assert "port 8080" in (REPOSITORY / "deploy" / "README.md").read_text()


def test_gateways_and_schedulers_find_room_on_the_head_and_nowhere_else():
    """Old and new ones of a change beside each other; as the shell and the autoscaler read it."""
    config = ApplicationConfig.model_validate(served("nodes.yaml")["applications"][0]["args"])
    [head, *workers] = groups("nodes.yaml")
    there = _get_custom_resources({}, head["rayStartParams"], "head")
    [argument] = shlex.split(head["rayStartParams"]["resources"])
    assert json.loads(argument) == there
    replicas = 2 * (config.gateway.replicas + 1 + config.scheduler.spares)
    assert config.control_resources
    for resource, amount in config.control_resources.items():
        assert there[resource] >= replicas * amount
        assert not any(resource in worker["rayStartParams"].get("resources", "") for worker in workers)


def test_what_is_written_down_for_a_redis_is_what_kuberay_takes():
    text = (FOLDER / "nodes.yaml").read_text()
    [block] = re.findall(r"(?:^    # .*\n)+?(?=    enableInTreeAutoscaling)", text, re.MULTILINE)
    shown = "".join(line.replace("    # ", "    ", 1) for line in block.splitlines(keepends=True)[1:])
    changed = text.replace(block, shown)
    [document] = yaml.safe_load_all(changed)
    assert document["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
    jsonschema.validate(document, SCHEMA)


@pytest.mark.parametrize("name", SHAPES)
def test_every_engine_finds_its_gpus_and_cpus(name: str):
    config = ApplicationConfig.model_validate(served(name)["applications"][0]["args"])
    needed = {
        resource: sum(bundle.get(resource, 0) for bundle in config.parallel.bundles)
        for resource in ("GPU", "CPU")
    }
    [group] = [one for one in groups(name) if "nvidia.com/gpu" in _requests(one)]
    assert float(_requests(group)["nvidia.com/gpu"]) == needed["GPU"]
    assert float(_requests(group)["cpu"]) >= needed["CPU"]
    assert group.get("maxReplicas", 1) == config.replicas.max


def _requests(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["spec"]["containers"][0]["resources"]["requests"]


def test_what_volumes_are_mounted_into_is_there_and_the_users_own():
    """Else it is made by root, and what else belongs beside it can't be made."""
    before, user, _ = (REPOSITORY / "deploy" / "Dockerfile").read_text().partition("USER ray")
    [made] = re.findall(r"install -d -o ray -g ray (.+)", before)
    mounted = {
        mount["mountPath"]
        for name in SHAPES
        for template in pods(name)
        for mount in template["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"].startswith("/home/ray/")
    }
    assert user
    assert mounted
    for path in mounted:
        parents = {str(parent) for parent in Path(path).parents if parent.is_relative_to("/home/ray")}
        assert {path, *parents} - {"/home/ray"} <= set(made.split())


def test_the_image_has_what_the_hooks_call():
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    for program, package in (("curl", "curl"), ("pgrep", "procps")):
        if any(program in (FOLDER / name).read_text() for name in SHAPES):
            assert package in dockerfile
    # KubeRay names what to run; a default could only suit one of the two kinds of image.
    assert not re.search(r"^CMD", dockerfile, re.MULTILINE)
    for copied in ("requirements", "scripts", "app", "placement", "serve_configs"):
        assert f"!{copied}\n" in (REPOSITORY / ".dockerignore").read_text()
        assert (REPOSITORY / copied).is_dir()
