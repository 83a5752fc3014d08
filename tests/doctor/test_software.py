from __future__ import annotations

import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from dfwatch.config import Settings, VerdictSettings
from dfwatch.doctor import Health, examine, software
from dfwatch.doctor import examination as examination_module
from dfwatch.errors import ConfigError
from dfwatch.settings.file import absolute_paths


def test_python() -> None:
    assert software.python((3, 10, 9)).health is Health.FAIL
    assert software.python((3, 11, 0)).health is Health.OK
    assert ".".join(map(str, sys.version_info[:3])) in software.python().found


def test_packages() -> None:
    assert software.packages().health is Health.OK
    assert f"torch {metadata.version('torch')}" in software.packages().found

    def version_of(name: str) -> str:
        if name in {"timm", "av"}:
            raise metadata.PackageNotFoundError(name)
        return "1"

    finding = software.packages(version_of)
    assert finding.health is Health.FAIL
    assert finding.advice == "pip install timm av"


def test_decoders() -> None:
    finding = software.decoders()
    assert finding.health is Health.OK
    assert "AV1" in finding.found
    finding = software.decoders({"h264", "hevc", "libdav1d", "vp8", "libvpx-vp9", "mpeg2video", "mpeg4", "prores"})
    assert finding.health is Health.WARN
    assert finding.found.endswith("without VVC, WMV")


def test_face_detector(tmp_path: Path) -> None:
    assert "232589 bytes" in software.face_detector("").found
    statuses = {finding.name: finding for finding in examine(settings_with(tmp_path, f"{tmp_path}/missing.onnx"))}
    assert statuses["face detector"].health is Health.FAIL
    assert "missing.onnx" in statuses["face detector"].found


def settings_with(root: Path, face_model: str = "") -> Settings:
    settings = Settings(root=str(root))
    return replace(settings, faces=replace(settings.faces, model=face_model))


def test_device() -> None:
    finding = software.device("cpu")
    assert finding.health is Health.OK
    assert finding.found.startswith("cpu (")


def test_examination_runs_every_check_once_and_changes_nothing(tmp_path: Path) -> None:
    settings = absolute_paths(Settings(), tmp_path)
    findings = list(examine(settings))
    assert [finding.name for finding in findings] == [
        "python", "packages", "decoders", "face detector", "model", "device", "engine", "provenance", "metrics",
        "folders", "renaming", "file system", "inbox", "disk", "leases", "inotify", "memory", "limits", "clock",
        "daemon", "systemd",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    for finding in findings:
        assert finding.found
        assert (finding.advice != "") == (finding.health is not Health.OK) or finding.name == "model"


def test_a_missing_bundle_and_device_are_findings(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path))
    settings = replace(settings, model=replace(settings.model, path=str(tmp_path / "none"), device="cuda:99"))
    findings = {finding.name: finding for finding in examine(settings)}
    assert findings["model"].health is Health.FAIL
    assert findings["device"].health is Health.FAIL
    assert findings["device"].advice


def test_thresholds_that_cross_the_models_are_a_finding(tmp_path: Path) -> None:
    settings = Settings(root=str(tmp_path), verdict=VerdictSettings(real_threshold=1.0))
    findings = {finding.name: finding for finding in examine(settings)}
    assert findings["model"].health is Health.FAIL
    assert "1 (verdict.real_threshold), FAKE from" in findings["model"].found


def test_a_check_that_breaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    def refused(*_: object) -> None:
        raise ConfigError("looking", "at it", "it is gone", hint="fetch it")

    monkeypatch.setattr(examination_module.machine, "limits", broken)
    monkeypatch.setattr(examination_module.software, "decoders", refused)
    findings = {finding.name: finding for finding in examine(Settings(root=str(tmp_path)))}
    assert findings["limits"].health is Health.FAIL
    assert "ZeroDivisionError: oops" in findings["limits"].found
    assert (findings["decoders"].found, findings["decoders"].advice) == ("at it: it is gone", "fetch it")
