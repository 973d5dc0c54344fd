"""The deployment files agree with the code, the documents and each other; `make validate` asks their own tools."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from deploy.native.servers import KAFKA_ALONE
from flowgauge.cli.app import app
from flowgauge.console.access import Binding
from flowgauge.domain.messages import IMAGES
from flowgauge.processors.scoring import Scoring
from flowgauge.runtime.roles import Role
from tests.unit.test_prometheus import names

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ENVIRONMENT = ROOT / "deploy" / "compose.env.example"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
KUBERNETES = ROOT / "deploy" / "kubernetes"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "flowgauge.json"
OPERATIONS = ROOT / "docs" / "how-to" / "operations.md"

YAML = sorted(path for end in ("yml", "yaml") for path in [COMPOSE, *(ROOT / "deploy").rglob(f"*.{end}")])
MANIFESTS = sorted(KUBERNETES.rglob("*.yaml"))
ROLES = {role.value for role in Role} - {Role.ALL.value}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def under(part: Any, key: str) -> Iterator[Any]:
    """Every value that lies under `key`, however deep."""
    if isinstance(part, dict):
        for name, value in part.items():
            if name == key:
                yield value
            yield from under(value, key)
    elif isinstance(part, list):
        for each in part:
            yield from under(each, key)


def objects() -> Iterator[dict[str, Any]]:
    for path in MANIFESTS:
        yield from (each for each in yaml.safe_load_all(path.read_text()) if each)


def metrics_in(text: str) -> set[str]:
    """Without the endings that samples of counters and histograms have."""
    found = set(re.findall(r"\bflowgauge_[a-z_]+", text))
    return {name.removesuffix(end) for name in found for end in [_ending(name)]}


def _ending(name: str) -> str:
    return next((end for end in ("_total", "_bucket", "_sum", "_count") if name.endswith(end)), "")


def documented_variables() -> set[str]:
    """Those of the page's table; a row's first name says what a mere ending in it belongs to."""
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `FLOW")]
    found = set()
    for row in rows:
        first, *others = re.findall(r"`(\w+)`", row)
        service = "_".join(first.split("_")[:2])
        found |= {first, *(service + name if name.startswith("_") else name for name in others)}
    return found


def commands() -> list[list[str]]:
    """What the containers of Flowgauge run, in Compose and in Kubernetes."""
    services = read(COMPOSE)["services"].values()
    composed = [
        service["command"]
        for service in services
        if str(service["image"]).startswith("flowgauge:")
        if "command" in service
    ]
    return composed + [args for each in objects() for args in under(each, "args")]


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_yaml(path: Path) -> None:
    assert all(isinstance(each, dict) for each in yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", [ALERTS, DASHBOARD], ids=lambda path: path.name)
def test_alerts_and_dashboard_ask_for_metrics_that_workers_have(path: Path) -> None:
    assert metrics_in(path.read_text()) <= names()


def test_every_metric_is_on_the_dashboard() -> None:
    assert names() <= metrics_in(DASHBOARD.read_text())


@pytest.mark.parametrize("path", [COMPOSE, ENVIRONMENT, DOCKERFILE, *MANIFESTS], ids=lambda path: path.name)
def test_the_reference_documents_the_variables(path: Path) -> None:
    used = set(re.findall(r"\bFLOWGAUGE_[A-Z0-9_]+", path.read_text()))
    assert used <= documented_variables()


def test_compose_and_kubernetes_start_every_role_and_the_console() -> None:
    services = read(COMPOSE)["services"]
    assert services.keys() >= ROLES | {"console"}
    assert {each["metadata"]["name"] for each in objects() if each["kind"] == "Deployment"} == ROLES | {"console"}
    assert {command[1] for command in commands() if command[0] == "worker"} == ROLES


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[:2]))
def test_the_command_line_takes_what_containers_give_it(command: list[str]) -> None:
    step: Any = typer.main.get_command(app)
    arguments = [*command, "--store", "s3://flowgauge"]
    while hasattr(step, "commands") and not step.invoke_without_command:
        _, step, arguments = step.resolve_command(typer.Context(step), arguments)
    assert step.make_context(step.name, arguments).params["store"] == "s3://flowgauge"


CONSOLES = [command for command in commands() if command[0] == "console"]


def test_compose_and_kubernetes_have_a_console_each() -> None:
    assert len(CONSOLES) == 2


@pytest.mark.parametrize("command", CONSOLES, ids=["compose", "kubernetes"])
def test_the_console_of_containers_is_for_those_who_sign_in_over_tls(command: list[str]) -> None:
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given == {"--host": "0.0.0.0"} | {name: given[name] for name in ("--users", "--tls-cert", "--tls-key")}
    binding = Binding(
        given["--host"],
        users=Path(given["--users"]),
        certificate=Path(given["--tls-cert"]),
        key=Path(given["--tls-key"]),
    )
    assert not binding.checked().is_open


def test_compose_publishes_the_console_on_loopback_and_mounts_what_it_reads() -> None:
    services = read(COMPOSE)["services"]
    console = services["console"]
    assert console["ports"] == ["${CONSOLE_BIND:-127.0.0.1}:8080:8080"]
    mounts = [mount.rsplit(":", 2)[1:] for mount in console["volumes"]]
    for path in console["command"][4::2]:
        assert [str(Path(path).parent), "ro"] in mounts
    # who adds users writes the file that the console reads
    users = services["cli"]["environment"]["FLOWGAUGE_CONSOLE_USERS"]
    assert users == console["command"][console["command"].index("--users") + 1]
    assert services["cli"]["volumes"] == [f"console:{Path(users).parent}"]
    assert str(Path(users).parent) in DOCKERFILE.read_text()


def test_the_service_probes_and_way_in_of_the_console_are_its_one_port() -> None:
    of_console = [each for each in objects() if each.get("metadata", {}).get("name") == "console"]
    (pod,) = (each["spec"]["template"] for each in of_console if each["kind"] == "Deployment")
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {port["name"]}
    assert {container[probe]["httpGet"]["scheme"] for probe in ("readinessProbe", "livenessProbe")} == {"HTTPS"}
    (service,) = (each["spec"] for each in of_console if each["kind"] == "Service")
    assert service["ports"][0]["targetPort"] == port["name"]
    (policy,) = (each["spec"] for each in of_console if each["kind"] == "NetworkPolicy")
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["name"]}]
    for labels in (service["selector"], policy["podSelector"]["matchLabels"]):
        assert labels.items() <= pod["metadata"]["labels"].items()


def test_the_image_has_the_extras_that_containers_need() -> None:
    given = set(re.findall(r"--extra (\w+)", DOCKERFILE.read_text()))
    assert given == {"stream", "console", "notify", "archive", "openvino"}


def test_images_of_compose_are_pinned() -> None:
    for image in under(read(COMPOSE), "image"):
        assert re.fullmatch(r"[a-z/]+:[A-Za-z0-9.-]*\d[A-Za-z0-9.-]*", image), image


def test_images_of_kubernetes_get_their_tag_from_a_kustomization() -> None:
    kustomizations = [each for each in objects() if each["kind"] == "Kustomization"]
    tags = {each["name"]: each["newTag"] for one in kustomizations for each in one.get("images", [])}
    assert {image for each in objects() for image in under(each, "image")} == tags.keys()
    assert all(re.match(r"\d", tag) for tag in tags.values())


def test_images_and_tools_of_the_dockerfile_are_pinned() -> None:
    text = DOCKERFILE.read_text()
    stages = set(re.findall(r"^FROM .* AS (\S+)", text, re.MULTILINE)) | {"torch-${TORCH}"}
    outside = [name for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if name not in stages]
    assert outside
    assert all(re.search(r":\d+\.\d+\.\d+-", name) for name in outside)
    assert all("==" in each for each in re.findall(r"pip install --no-cache-dir (\S+)", text))


@pytest.mark.parametrize("service", ["kafka", "redis", "minio"])
def test_compose_runs_the_servers_that_tests_run(service: str) -> None:
    image = read(COMPOSE)["services"][service]["image"]
    assert f'"{image}"' in (ROOT / "tests" / "support" / "servers.py").read_text()


def test_the_broker_of_compose_is_set_as_the_broker_of_tests() -> None:
    given = read(COMPOSE)["services"]["kafka"]["environment"]
    wanted = {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in KAFKA_ALONE.items()}
    assert {name: given.get(name) for name in wanted} == wanted


def test_compose_holds_no_secret_and_refuses_to_start_without() -> None:
    text = COMPOSE.read_text()
    secrets = re.findall(r"^(\w*(?:SECRET_KEY|PASSWORD)\w*)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert secrets
    for name, value in secrets:
        assert not value
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert uses
        assert all(use.startswith(f"${{{name}:?") for use in uses)


def test_the_variables_of_compose_are_in_its_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text()))
    given = set(re.findall(r"^#? ?([A-Z_0-9]+)=", ENVIRONMENT.read_text(), re.MULTILINE))
    assert used <= given


def test_the_scaler_watches_the_group_and_topic_of_scoring() -> None:
    (config,) = (each for each in objects() if each["kind"] == "ConfigMap")
    (scaler,) = (each for each in objects() if each["kind"] == "ScaledObject")
    prefix, trigger = config["data"]["FLOWGAUGE_TOPIC_PREFIX"], scaler["spec"]["triggers"][0]["metadata"]
    assert trigger["consumerGroup"] == prefix + Scoring.name
    assert trigger["topic"] == prefix + IMAGES


def test_there_are_never_more_scoring_workers_than_partitions() -> None:
    (setup,) = (args for args in commands() if args[0] == "topics" and "--replication" in args)
    (scaler,) = (each for each in objects() if each["kind"] == "ScaledObject")
    assert scaler["spec"]["maxReplicaCount"] == int(setup[setup.index("--partitions") + 1])


def test_pods_run_without_rights() -> None:
    pods = [each["spec"]["template"]["spec"] for each in objects() if each["kind"] in ("Deployment", "Job")]
    own = [pod for pod in pods if "securityContext" in pod]
    assert len(own) == len(ROLES | {"console", "setup"})
    for pod in own:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["limits"]["memory"]


def test_every_alert_is_tested_and_explained() -> None:
    alerts = {rule["alert"] for group in read(ALERTS)["groups"] for rule in group["rules"]}
    cases = [case for test in read(ALERTS.with_name("alerts_test.yml"))["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {name for name in alerts if f"`{name}`" not in OPERATIONS.read_text()} == set()


def test_charts_of_the_dashboard_have_a_number_and_do_not_overlap() -> None:
    charts = json.loads(DASHBOARD.read_text())["panels"]
    assert len({chart["id"] for chart in charts}) == len(charts)
    assert all(chart["gridPos"]["x"] + chart["gridPos"]["w"] <= 24 for chart in charts)
    assert not [pair for pair in combinations([chart["gridPos"] for chart in charts], 2) if _overlap(*pair)]


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    return (
        a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    )


def test_the_dashboard_has_the_variables_that_it_asks_for() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    has = {variable["name"] for variable in dashboard["templating"]["list"]}
    asked = {name for query in under(dashboard, "expr") for name in re.findall(r"\$([a-z]\w*)", query)}
    assert asked
    assert asked <= has
