"""Dashboard and rules as files; whether they have data is in tests/integration/test_observability.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documented import REPOSITORY, documented

DEPLOY = REPOSITORY / "deploy"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_dashboard_is_what_its_description_says(tmp_path: Path):
    script = tmp_path / "build.py"
    script.write_text((DEPLOY / "grafana" / "build.py").read_text())
    subprocess.run([sys.executable, script], check=True, timeout=30)
    written = (tmp_path / "promiseserve.json").read_text()
    assert written == (DEPLOY / "grafana" / "promiseserve.json").read_text()


def test_no_two_panels_share_an_id_or_a_place():
    panels = json.loads((DEPLOY / "grafana" / "promiseserve.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


@needs_promtool
def test_prometheus_takes_its_configuration_and_its_rules():
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_every_alert_fires_in_its_fault():
    program, *arguments, file = documented("deploy/README.md", "promtool test").split()
    assert program == "promtool"
    promtool(*arguments, str(REPOSITORY / file))


def test_every_alert_has_a_fault_that_it_is_tried_in():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((DEPLOY / "prometheus" / "rules_test.yml").read_text())["tests"]
    tried = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert tried == alerts
