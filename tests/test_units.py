from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dfwatch.config import Settings
from dfwatch.errors import ConfigError, StorageError
from dfwatch.operation import units
from dfwatch.operation.units import Action, install_units
from dfwatch.settings import file as settings_file
from tests import programs

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "etc/systemd/system/dfwatch.service"


@pytest.fixture
def systemd_analyze() -> str:
    return programs.require("systemd-analyze")


@pytest.fixture
def command(tmp_path: Path) -> str:
    path = tmp_path / "bin" / "dfwatch"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def install(tmp_path: Path, command: str) -> Callable[..., tuple[Path, dict[str, units.Step]]]:
    def run(**options: Any) -> tuple[Path, dict[str, units.Step]]:
        top = tmp_path / "top"
        installation = install_units(top, **{"command": command, **options})
        return top, {str(step.path.relative_to(top)): step for step in installation.steps}

    return run


Install = Any


def test_everything_goes_to_its_place(install: Install, command: str) -> None:
    top, steps = install()
    assert {name: step.action for name, step in steps.items()} == {
        SERVICE: Action.CREATE,
        "etc/sysusers.d/dfwatch.conf": Action.CREATE,
        "etc/tmpfiles.d/dfwatch.conf": Action.CREATE,
        "etc/dfwatch/config.yaml": Action.CREATE,
    }
    service = (top / SERVICE).read_text()
    assert f"\nExecStart={command} run --config /etc/dfwatch/config.yaml\n" in service
    assert "/opt/dfwatch" not in service
    for name in steps:
        assert (top / name).stat().st_mode & 0o777 == 0o644
        assert [path.name for path in (top / name).parent.iterdir() if path.name.startswith(".")] == []
    assert settings_file.load(top / "etc/dfwatch/config.yaml").root == "/var/lib/dfwatch"


def test_drop_ins_on_request(install: Install) -> None:
    top, steps = install(gpu=True, network=True)
    assert steps["etc/systemd/system/dfwatch.service.d/gpu.conf"].action == Action.CREATE
    assert "PrivateNetwork=no" in (top / "etc/systemd/system/dfwatch.service.d/network.conf").read_text()


def test_dry_run_writes_nothing_and_shows_everything(install: Install) -> None:
    top, steps = install(dry_run=True)
    assert not top.exists()
    assert steps[SERVICE].action == Action.CREATE
    assert "+Type=notify\n" in steps[SERVICE].diff
    assert "+root: " in steps["etc/dfwatch/config.yaml"].diff


def test_second_time_changes_nothing(install: Install) -> None:
    install()
    top, steps = install()
    assert {step.action for name, step in steps.items() if "config" not in name} == {Action.UNCHANGED}
    assert steps["etc/dfwatch/config.yaml"].action == Action.KEEP
    assert steps[SERVICE].diff == ""
    assert (top / SERVICE).exists()


def test_an_upgrade_replaces_what_nobody_touched(install: Install, tmp_path: Path) -> None:
    install()
    other = tmp_path / "bin" / "other"
    shutil.copy(tmp_path / "bin" / "dfwatch", other)
    top, steps = install(command=str(other))
    assert steps[SERVICE].action == Action.UPDATE
    assert f"ExecStart={other} " in (top / SERVICE).read_text()
    assert re.search(r"^-ExecStart=.*\n\+ExecStart=", steps[SERVICE].diff, re.MULTILINE)


def test_a_file_changed_by_hand_stays_until_asked_otherwise(install: Install) -> None:
    top, _ = install()
    path = top / SERVICE
    changed = path.read_text().replace("RestartSec=10s", "RestartSec=1s")
    path.write_text(changed)
    _, steps = install()
    assert steps[SERVICE].action == Action.KEEP
    assert "-RestartSec=1s\n+RestartSec=10s\n" in steps[SERVICE].diff
    assert path.read_text() == changed
    _, steps = install(replace_changed=True, dry_run=True)
    assert steps[SERVICE].action == Action.REPLACE
    assert path.read_text() == changed
    _, steps = install(replace_changed=True)
    assert steps[SERVICE].action == Action.REPLACE
    assert "RestartSec=10s" in path.read_text()
    assert steps[SERVICE].backup is not None
    assert steps[SERVICE].backup.read_text() == changed
    # systemd reads *.service and *.conf only.
    assert steps[SERVICE].backup.suffix == ".old"


def test_a_unit_that_somebody_else_wrote_stays(install: Install, tmp_path: Path) -> None:
    path = tmp_path / "top" / SERVICE
    path.parent.mkdir(parents=True)
    path.write_text("[Service]\nExecStart=/bin/true\n")
    _, steps = install()
    assert steps[SERVICE].action == Action.KEEP
    assert path.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_own_config_is_never_touched(install: Install, tmp_path: Path) -> None:
    path = tmp_path / "top" / "etc/dfwatch/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("root: /mine\n")
    _, steps = install(replace_changed=True)
    assert steps["etc/dfwatch/config.yaml"].action == Action.KEEP
    assert path.read_text() == "root: /mine\n"


def test_other_user_and_root(install: Install) -> None:
    top, _ = install(user="video", root="/srv/videos")
    service = (top / SERVICE).read_text()
    for line in (
        "User=video",
        "Group=video",
        "ReadWritePaths=/srv/videos",
        "WorkingDirectory=/srv/videos",
        "NoExecPaths=/srv/videos",
        "RequiresMountsFor=/srv/videos",
    ):
        assert f"\n{line}\n" in service
    assert "/var/lib" not in service
    assert "\nStateDirectory=" not in service
    sysusers = (top / "etc/sysusers.d/dfwatch.conf").read_text()
    assert '\nu video - "dfwatch service" /srv/videos ' in sysusers
    tmpfiles = (top / "etc/tmpfiles.d/dfwatch.conf").read_text()
    assert "\nd /srv/videos/inbox      3770 video video -\n" in tmpfiles
    rules = [line for line in tmpfiles.splitlines() if not line.startswith("#")]
    assert not any("dfwatch" in line for line in rules)
    assert settings_file.load(top / "etc/dfwatch/config.yaml").root == "/srv/videos"


def test_an_upgrade_keeps_what_was_asked_for_before(install: Install) -> None:
    top, _ = install(user="video", root="/srv/videos", gpu=True, network=True)
    drop_in = top / "etc/systemd/system/dfwatch.service.d/gpu.conf"
    # As an older version wrote it.
    text = "[Service]\n"
    drop_in.write_text(f"{units._STAMP}{units._digest(text)}\n{text}")
    before = (top / SERVICE).read_text()
    installation = install_units(top)
    assert (top / SERVICE).read_text() == before
    actions = {step.path.name: step.action for step in installation.steps if step.path.name != "config.yaml"}
    assert actions.pop("gpu.conf") == Action.UPDATE
    assert set(actions.values()) == {Action.UNCHANGED}
    assert {"user video", "root /srv/videos", "--gpu", "--network"} <= set(installation.kept)
    installation = install_units(top, root="/srv/more")
    assert "NoExecPaths=/srv/more\n" in (top / SERVICE).read_text()
    assert "User=video\n" in (top / SERVICE).read_text()
    assert not any(kept.startswith("root") for kept in installation.kept)


def test_a_command_that_is_gone_is_not_kept(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top, _ = install()
    new = tmp_path / "new" / "dfwatch"
    new.parent.mkdir()
    shutil.move(tmp_path / "bin" / "dfwatch", new)
    monkeypatch.setattr("sys.argv", [str(new)])
    assert install_units(top).kept == ()
    assert f"ExecStart={new} run" in (top / SERVICE).read_text()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("command", "dfwatch"),
        ("command", "/opt/my tools/dfwatch"),
        ("command", "/opt/%h/dfwatch"),
        ("command", "/opt/a\nExecStart=/bin/evil"),
        ("command", "/opt/../dfwatch"),
        ("root", "relative"),
        ("root", "/srv/$HOME"),
        ("root", "/srv/"),
        ("user", "Root User"),
        ("user", "0"),
        ("user", ""),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(install: Install, tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        install(**{option: value})
    assert not (tmp_path / "top").exists()


def test_places_that_the_service_cannot_see_are_warned_of(tmp_path: Path) -> None:
    warnings = install_units(tmp_path, dry_run=True, command="/home/me/venv/bin/dfwatch", root="/tmp/x").warnings
    assert any("not there or not executable" in warning for warning in warnings)
    assert any("the command (/home/me/venv/bin/dfwatch) lies under /home, which ProtectHome=" in w for w in warnings)
    assert any("root (/tmp/x) lies under /tmp, which PrivateTmp=" in warning for warning in warnings)


def test_a_command_below_the_old_root_stays_where_it_is(tmp_path: Path) -> None:
    install_units(tmp_path, command="/var/lib/dfwatch/venv/bin/dfwatch", root="/srv/videos")
    service = (tmp_path / SERVICE).read_text()
    assert "ExecStart=/var/lib/dfwatch/venv/bin/dfwatch run" in service
    assert "WorkingDirectory=/srv/videos\n" in service


def test_a_command_from_where_nothing_may_be_run_is_warned_of(tmp_path: Path) -> None:
    inside = install_units(tmp_path, command="/srv/videos/venv/bin/dfwatch", root="/srv/videos", dry_run=True)
    beside = install_units(tmp_path, command="/srv/videos-venv/bin/dfwatch", root="/srv/videos", dry_run=True)
    assert any("lies below the root" in warning for warning in inside.warnings)
    assert not any("lies below the root" in warning for warning in beside.warnings)


def test_a_configuration_with_another_root_is_warned_of(tmp_path: Path, command: str) -> None:
    def warnings(**options: Any) -> list[str]:
        return [text for text in install_units(tmp_path, command=command, **options).warnings if "says root" in text]

    assert warnings() == []
    assert warnings() == []
    [warning] = warnings(root="/srv/videos")
    assert f"{tmp_path}/etc/dfwatch/config.yaml says root: /var/lib/dfwatch" in warning
    assert "they are for /srv/videos" in warning
    (tmp_path / "etc/dfwatch/config.yaml").write_text("root: /srv/videos\n")
    assert warnings() == []
    (tmp_path / "etc/dfwatch/config.yaml").write_text("rot: /srv/videos\n")
    assert warnings() == []


def test_next_commands_come_in_the_order_in_which_they_work(tmp_path: Path, command: str) -> None:
    commands = install_units(tmp_path, dry_run=True, command=command).next_commands
    assert [line.split()[0] for line in commands] == ["systemd-sysusers", "systemd-tmpfiles", "systemctl", "systemctl"]


def test_own_command_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    monkeypatch.setattr("sys.argv", [command])
    assert f"ExecStart={command} run" in install_units(tmp_path / "t", dry_run=True).steps[0].diff
    monkeypatch.setattr("sys.argv", ["-c"])
    monkeypatch.setattr("sys.executable", str(Path(command).parent / "python"))
    assert f"ExecStart={command} run" in install_units(tmp_path / "t", dry_run=True).steps[0].diff
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="command was not found"):
        install_units(tmp_path / "t", dry_run=True)


def test_a_place_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="installing the systemd units"):
        install_units(tmp_path / "file", command=command)
    (tmp_path / "top" / SERVICE).mkdir(parents=True)
    with pytest.raises(StorageError, match="directory"):
        install_units(tmp_path / "top", command=command)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    top, _ = install()
    before = (top / SERVICE).read_text()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            install(root="/srv/videos")
    assert (top / SERVICE).read_text() == before
    assert [path.name for path in (top / SERVICE).parent.iterdir()] == ["dfwatch.service"]


# --- what systemd says


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**os.environ, "SYSTEMD_COLORS": "0"},
    )


@pytest.mark.usefixtures("systemd_analyze")
@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({}, 1.0),
        ({"gpu": True}, 1.0),
        ({"network": True}, 1.5),
        ({"gpu": True, "network": True}, 1.5),
        ({"root": "/srv/videos", "user": "video"}, 1.0),
    ],
    ids=["cpu", "gpu", "network", "gpu and network", "other root"],
)
def test_exposure_stays_below_the_threshold(install: Install, options: dict[str, Any], threshold: float) -> None:
    top, _ = install(**options)
    folder = (top / SERVICE).parent
    result = analyze("security", "--offline=yes", "./dfwatch.service", folder=folder)
    found = re.search(r"Overall exposure level for dfwatch\.service: ([0-9.]+)", result.stdout)
    assert found is not None, result.stderr
    assert float(found[1]) <= threshold
    gate = analyze(
        "security", "--offline=yes", f"--threshold={round(threshold * 10)}", "./dfwatch.service", folder=folder
    )
    assert gate.returncode == 0, gate.stdout


@pytest.mark.usefixtures("systemd_analyze")
def test_exposure_has_no_other_reasons_than_those_that_are_meant(install: Install) -> None:
    top, _ = install()
    result = analyze("security", "--offline=yes", "--json=short", "./dfwatch.service", folder=(top / SERVICE).parent)
    rows = json.loads(result.stdout)
    assert {row["name"] for row in rows if row["set"] is False} == {
        "AmbientCapabilities=",  # CAP_LEASE
        "CapabilityBoundingSet=~CAP_LEASE",
        "DeviceAllow=",  # char-rtc, which ProtectClock= itself adds
        "MemoryDenyWriteExecute=",  # oneDNN writes machine code
        "PrivateUsers=",  # would make CAP_LEASE meaningless
        "ProcSubset=",  # inotify limits and memory are read from /proc
        "RestrictAddressFamilies=~AF_UNIX",  # sd_notify, and the way to the readers
        "RootDirectory=/RootImage=",
        "SystemCallFilter=~@resources",  # sched_setaffinity, which OpenMP counts processors with
        "UMask=",  # the group reads verdicts
    }


@pytest.mark.usefixtures("systemd_analyze")
@pytest.mark.parametrize("options", [{}, {"gpu": True, "network": True}, {"root": "/srv/videos", "user": "video"}])
def test_units_are_valid(install: Install, options: dict[str, Any]) -> None:
    top, _ = install(**options)
    result = analyze("verify", "--man=no", "./dfwatch.service", folder=(top / SERVICE).parent)
    own = [line for line in result.stderr.splitlines() if "dfwatch" in line]
    assert (result.returncode, own) == (0, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-sysusers --root needs root")
def test_sysusers_and_tmpfiles_make_user_and_folders(install: Install) -> None:
    top, _ = install()
    for program in ([programs.require("systemd-sysusers")], [programs.require("systemd-tmpfiles"), "--create"]):
        result = subprocess.run([*program, f"--root={top}"], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
    user, identity = re.findall(r"^(dfwatch):[^:]*:(\d+):", (top / "etc/passwd").read_text(), re.MULTILINE)[0]
    assert user == "dfwatch"
    root = top / "var/lib/dfwatch"
    assert {path.name for path in root.iterdir()} == {
        "inbox", "work", "done", "failed", "quarantine", "results", "state",
    }  # fmt: skip
    inbox = (root / "inbox").stat()
    assert inbox.st_mode & 0o7777 == 0o3770
    assert inbox.st_uid == int(identity)
    assert root.stat().st_mode & 0o7777 == 0o750
    # The default ACL takes the place of the sender's umask.
    before = os.umask(0o077)
    try:
        (root / "inbox" / "folder").mkdir()
        (root / "inbox" / "folder" / "clip.mp4").touch()
    finally:
        os.umask(before)
    for path, mode in (("folder", 0o2770), ("folder/clip.mp4", 0o660)):
        status = (root / "inbox" / path).stat()
        assert (status.st_mode & 0o7777, status.st_gid) == (mode, inbox.st_gid)


def test_systemd_waits_longer_than_the_service_takes_to_stop(install: Install) -> None:
    assert Settings().jobs.stop_timeout_s < 60, "TimeoutStopSec= of the unit must leave room for an orderly stop"
    top, _ = install()
    assert "\nTimeoutStopSec=60s\n" in (top / SERVICE).read_text()
