from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

import pytest

from dfwatch.config import MetricsSettings, ModelSettings, ProvenanceSettings, Settings
from dfwatch.doctor import Health, examine, extras

if TYPE_CHECKING:
    from pathlib import Path

    from dfwatch.doctor import Finding


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings)}


def test_what_is_switched_off_needs_nothing(tmp_path: Path) -> None:
    findings = found(Settings(root=str(tmp_path)))
    assert {findings[name].health for name in ("engine", "provenance", "metrics")} == {Health.OK}


def test_extras_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    missing = {"c2pa", "openvino"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    monkeypatch.delitem(sys.modules, "dfwatch.operation.metrics", raising=False)
    monkeypatch.delattr("dfwatch.operation.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    findings = found(
        Settings(
            root=str(tmp_path),
            model=ModelSettings(engine="openvino"),
            provenance=ProvenanceSettings(enabled=True),
            metrics=MetricsSettings(listen="127.0.0.1:9464"),
        )
    )
    for name, extra in (("engine", "openvino"), ("provenance", "c2pa"), ("metrics", "metrics")):
        assert findings[name].health is Health.FAIL
        assert f"pip install 'dfwatch[{extra}]'" in findings[name].advice


def test_trusted_certificates_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("c2pa")
    settings = ProvenanceSettings(enabled=True, trust_anchors="/nowhere/anchors.pem")
    finding = found(Settings(root=str(tmp_path), provenance=settings))["provenance"]
    assert (finding.health, finding.found) == (Health.FAIL, "/nowhere/anchors.pem: No such file or directory")
    assert extras.provenance(ProvenanceSettings(enabled=True)).health is Health.OK


def test_a_file_of_metrics(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    fine, folder = tmp_path / "some.prom", tmp_path / "folder.prom"
    folder.mkdir()
    assert extras.metrics(MetricsSettings(textfile=str(fine))).health is Health.OK
    for path, cause in ((tmp_path / "not/there.prom", os.strerror(2)), (folder, "it is a folder")):
        finding = extras.metrics(MetricsSettings(textfile=str(path)))
        assert finding.health is Health.WARN
        assert finding.found.startswith(f"{path} cannot be written")
        assert cause in finding.found
    assert [path.name for path in tmp_path.iterdir()] == ["folder.prom"]
