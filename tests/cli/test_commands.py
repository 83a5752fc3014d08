"""Commands that need no model: they answer quickly, and say what is wrong in one readable message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from dfwatch import __version__
from dfwatch.cli import main
from dfwatch.console.exits import Exit

COMMANDS = [
    ["run"],
    ["scan"],
    ["status"],
    ["retry"],
    ["check-config"],
    ["doctor"],
    ["model"],
    ["model", "show"],
    ["model", "verify"],
    ["model", "import"],
    ["schema"],
    ["install-units"],
    ["prepare"],
    ["train"],
    ["calibrate"],
    ["evaluate"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: dfwatch {' '.join(command)}")
    description = text.split("\n\n")[1]
    assert len(description) > 40
    assert max(map(len, text.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"dfwatch {__version__}"


@pytest.mark.parametrize("command", [["--help"], ["status"], ["check-config"], ["schema"], ["model", "show", "--help"]])
def test_quick_commands_import_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("root: ./var\n")
    script = (
        "import sys; from dfwatch.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'cv2', 'av', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_schema_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == Exit.OK
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_check_config_names_line_column_and_the_nearest_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("watch:\n  quiet_s: 3\n  recursiv: true\n")
    assert main(["check-config", "--config", str(path)]) == Exit.FOUND
    err = capsys.readouterr().err
    assert f"{path}:3:3" in err
    assert "recursive" in err
    path.write_text("watch:\n  quiet_s: 3\n")
    assert main(["check-config", "--config", str(path)]) == Exit.OK
    assert main(["check-config", "--show", "--config", str(path)]) == Exit.OK
    assert "quiet_s: 3.0" in capsys.readouterr().out


def test_a_wrong_configuration_is_one_readable_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("rot: ./var\n")
    assert main(["status", "--config", str(path)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "root" in err
    assert main(["status", "--config", str(tmp_path / "missing.yaml")]) == Exit.USAGE


def test_status_of_a_root_that_was_never_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("root: ./var\n")
    assert main(["status", "--config", str(path)]) == Exit.OK
    assert "not running" in capsys.readouterr().out
    assert not (tmp_path / "var").exists()


def test_retry_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("root: ./var\n")
    (tmp_path / "var" / "state").mkdir(parents=True)
    assert main(["retry", "--failed", "--config", str(path)]) == Exit.OK
    assert "nothing to retry" in capsys.readouterr().out
    assert main(["retry", "no-such-job", "--config", str(path)]) == Exit.FOUND


def test_model_commands(bundle_folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", str(bundle_folder)]) == Exit.OK
    assert "efficientnet_lite0" in capsys.readouterr().out
    assert main(["model", "show", "--config", str(config)]) == Exit.OK
    assert capsys.readouterr().out.startswith("shipped:")
    assert main(["model", "verify", "--config", str(config)]) == Exit.OK
    assert "fail" not in capsys.readouterr().out
    weights = bundle_folder / "weights.safetensors"
    folder = tmp_path / "imported"
    said = "--architecture efficientnet_lite0 --size 64 --channels rgb --normalisation imagenet --output softmax"
    facts = [*said.split(), "--labels", "REAL,FAKE", "--margin", "0.1", "--licence", "MIT", "--id", "mine"]
    assert main(["model", "import", str(weights), str(folder), *facts, "--version", "1"]) == Exit.OK
    assert main(["model", "verify", str(folder), "--config", str(config)]) == Exit.OK
    capsys.readouterr()
    assert main(["model", "import", str(weights), str(tmp_path / "other"), "--id", "mine"]) == Exit.CANNOT_RUN
    assert "→" in capsys.readouterr().err
    (folder / "weights.safetensors").write_bytes(weights.read_bytes()[:-10])
    assert main(["model", "verify", str(folder), "--config", str(config)]) == Exit.FOUND


def test_install_units_shows_before_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["install-units", "--destination", str(tmp_path), "--command", "/opt/dfwatch/bin/dfwatch"]
    assert main([*arguments, "--dry-run"]) == Exit.OK
    assert "dfwatch.service" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == Exit.OK
    [unit] = tmp_path.rglob("dfwatch.service")
    assert "Type=notify" in unit.read_text()


def test_doctor_says_what_to_do(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--config", str(config)])
    out = capsys.readouterr().out
    assert ("fail" in out) == (status == Exit.FOUND)
    assert {"model", "device", "folders", "inotify"} <= {
        line.split()[1] for line in out.splitlines() if line[:4].strip()
    }
