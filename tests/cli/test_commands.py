"""Commands that need no model: they answer quickly, and say what is wrong in one readable message."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import jsonschema
import pytest

from dfwatch import __version__
from dfwatch.cli import main
from dfwatch.console.exits import Exit
from dfwatch.errors import ConfigError
from dfwatch.journal import Journal
from dfwatch.operation import health
from dfwatch.storage.layout import Layout
from dfwatch.storage.rootlock import RootLock

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


def test_status_of_a_daemon_that_has_not_said_yet_how_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the last run said is not told of the one that is still loading its model."""
    path = tmp_path / "config.yaml"
    path.write_text("root: ./var\n")
    layout = Layout(str(tmp_path / "var"))
    layout.create()
    said = "2026-01-01T00:00:00.000Z"
    health.write(layout.health, health.Health(os.getpid() + 1, "1", said, said, "m 1", "cpu", "", "float32"))
    lock = RootLock(layout.lock)
    try:
        assert main(["status", "--config", str(path)]) == Exit.OK
    finally:
        lock.release()
    out = capsys.readouterr().out
    assert f"starting (pid {os.getpid()})" in out
    assert "may hang" not in out


def test_retry_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("root: ./var\n")
    state = tmp_path / "var" / "state"
    assert main(["retry", "--failed", "--config", str(path)]) == Exit.CANNOT_RUN
    state.mkdir(parents=True)
    assert main(["retry", "--failed", "--config", str(path)]) == Exit.CANNOT_RUN
    assert capsys.readouterr().err.count("the daemon was never started here") == 2
    assert list(state.iterdir()) == []
    Journal(Layout(str(tmp_path / "var")).journal).close()
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
    assert main(["model", "import", str(weights), str(tmp_path / "other"), "--id", "mine"]) == Exit.USAGE
    assert "→" in capsys.readouterr().err
    assert main(["model", "import", str(weights), str(folder), *facts]) == Exit.CANNOT_RUN
    assert "a bundle is there already" in capsys.readouterr().err
    assert main(["model", "import", str(weights), str(folder), *facts, "--fake-threshold", "0.9"]) == Exit.USAGE
    assert main(["model", "import", str(tmp_path / "nope.pt"), str(folder)]) == Exit.CANNOT_RUN
    assert "model.path" not in capsys.readouterr().err
    (folder / "weights.safetensors").write_bytes(weights.read_bytes()[:-10])
    assert main(["model", "verify", str(folder), "--config", str(config)]) == Exit.FOUND


def test_a_bundles_words_do_nothing_to_the_terminal(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bundle.yaml"
    shutil.copyfile(bundle_folder / "bundle.yaml", file)
    file.write_text(f'{file.read_text()}description: "good \\e[2J"\ncard: README.md\n')
    (tmp_path / "README.md").write_text("# Card\n\n\x1b]0;owned\x07\tvery good\n")
    assert main(["model", "show", str(tmp_path)]) == Exit.OK
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "good \\x1b[2J" in shown
    assert "# Card\n\n\\x1b]0;owned\\x07 " in shown
    assert shown.endswith("very good\n")


def test_install_units_shows_before_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["install-units", "--destination", str(tmp_path), "--command", "/opt/dfwatch/bin/dfwatch"]
    assert main([*arguments, "--dry-run"]) == Exit.OK
    assert "dfwatch.service" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(arguments) == Exit.OK
    [unit] = tmp_path.rglob("dfwatch.service")
    assert "Type=notify" in unit.read_text()


def test_an_upgrade_says_what_it_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["install-units", "--destination", str(tmp_path), "--command", sys.executable]
    assert main([*arguments, "--root", "/srv/videos", "--user", "media", "--gpu"]) == Exit.OK
    assert "Kept" not in capsys.readouterr().out
    assert main(["install-units", "--destination", str(tmp_path)]) == Exit.OK
    out = capsys.readouterr().out
    assert f"Kept as installed: --gpu, command {sys.executable}, user media, root /srv/videos." in out
    assert "update" not in out


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as stream:
        yield stream


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.parametrize("words", [["schema"], ["--help"]])
def test_a_closed_pipe_is_no_success(words: list[str], closed_pipe: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert main(words) == 141
    # Nothing is left for Python to complain about at exit.
    closed_pipe.flush()


@pytest.mark.parametrize("words", [["schema"], ["--help"]])
def test_output_that_cannot_be_written_is_one_line(
    words: list[str], full_disk: TextIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", full_disk)
    assert main(words) == Exit.CANNOT_RUN
    assert capsys.readouterr().err == "dfwatch: standard output: No space left on device\n"


def test_output_that_was_closed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["schema"]) == Exit.CANNOT_RUN
    assert capsys.readouterr().err == "dfwatch: standard output: it is closed\n"


def test_check_config_holds_a_threshold_against_the_models_other_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("verdict:\n  real_threshold: 0.999\n")
    assert main(["check-config", "--config", str(path)]) == Exit.FOUND
    told = capsys.readouterr().err
    assert f"{path}: REAL would be said up to 0.999 (verdict.real_threshold)" in told
    assert "set verdict.real_threshold below" in told
    path.write_text("verdict:\n  real_threshold: 0.01\n")
    assert main(["check-config", "--config", str(path)]) == Exit.OK
    path.write_text("verdict:\n  real_threshold: 0.999\nmodel:\n  path: elsewhere\n")
    assert main(["check-config", "--config", str(path)]) == Exit.OK, "the model is on another machine"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "vidéo→😀.yaml".encode()), ("latin-1", b"vid\\u00e9o\\u2192\\ud83d\\ude00.yaml")],
)
def test_what_the_terminal_cannot_show_is_escaped_as_in_json(
    encoding: str, shown: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "vidéo→😀.yaml"
    config.write_text("root: ./var\n")
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    assert main(["check-config", "--config", str(config)]) == 0
    assert shown + b": fine" in output.getvalue()


@pytest.mark.parametrize("error", [RuntimeError("boom"), BrokenPipeError("boom")])
def test_a_defect_is_no_verdict(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr("dfwatch.document.schema", broken)
    assert main(["schema"]) == Exit.CANNOT_RUN
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith(f"dfwatch: a defect in dfwatch: {type(error).__name__}: boom\n")


def test_a_reload_reads_the_very_file_that_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Service:
        def __init__(self, _settings: object, **others: Any) -> None:
            made.append(others)

        def run(self) -> None:
            """End at once."""

    monkeypatch.setattr("dfwatch.service.Service", Service)
    for name in ("dfwatch.logs.configure", "dfwatch.logs.log_uncaught", "faulthandler.enable"):
        monkeypatch.setattr(name, lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dfwatch.settings.file.load_found.__defaults__", (None, None, ("config.yaml",)))
    path = tmp_path / "config.yaml"
    assert main(["run"]) == Exit.OK
    path.write_text("root: /srv/videos\n")
    assert main(["run"]) == Exit.OK
    without, with_file = (others["reload_settings"] for others in made)
    assert with_file().root == "/srv/videos"
    path.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        with_file()
    assert without().root == str(tmp_path / "var")


@pytest.mark.parametrize("seconds", ["0", "0.05", "3601", "nan", "soon"])
def test_how_often_status_looks_has_a_range(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "--watch", seconds])
    assert ended.value.code == Exit.USAGE
    assert f"'{seconds}' is no number of seconds from 0.1 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-1", "1.5", "1000001", "9" * 30])
def test_a_list_has_a_length_that_the_journal_can_give(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", "--last", number])
    assert ended.value.code == Exit.USAGE
    assert "is no whole number from 0 to 1000000" in capsys.readouterr().err


def test_status_says_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "config.yaml"
    path.write_text("sinks: [{type: jsonl, name: log, path: log.jsonl}]\n")
    monkeypatch.setattr("time.sleep", stop)
    assert main(["status", "--json", "--config", str(path)]) == Exit.OK
    once = json.loads(capsys.readouterr().out)
    assert main(["status", "--json", "--watch", "--config", str(path)]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == once
    assert [sink["name"] for sink in once["sinks"]] == ["log"]


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "bundle", "--out", "report"],
        ["evaluate", "bundle", "--out", "report", "--pack", "mine"],
        ["evaluate", "bundle", "--out", "report", "--videos", "here", "--margin", "0.2", "--store", "name"],
        ["train", "recipe.yaml", "--data", "packs", "--run", "run"],
        ["train", "recipe.yaml", "--data", "packs", "--run", "run", "--only-bundle"],
    ],
    ids=" ".join,
)
def test_wrong_training_commands_are_wrong_command_lines(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("id: mine\narchitecture: {name: x}\nstagse: []\n")
    assert main(words) == Exit.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--size -3", "--size 1e3", "--frames 0", "--quality 400", "--margin -1", "--margin nan", "--processes 0"],
)
def test_options_of_prepare_have_ranges(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "here", "pack", *option.split()])
    assert ended.value.code == Exit.USAGE
    assert " from " in capsys.readouterr().err


def test_doctor_says_what_to_do(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--config", str(config)])
    out = capsys.readouterr().out
    assert ("fail" in out) == (status == Exit.FOUND)
    assert {"model", "device", "folders", "inotify"} <= {
        line.split()[1] for line in out.splitlines() if line[:4].strip()
    }
