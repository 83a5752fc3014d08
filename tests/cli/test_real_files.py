"""Real videos through the real commands: the daemon, ``scan``, ``status``, ``retry``; a small model, but all of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfwatch.cli import main
from dfwatch.console.exits import Exit
from dfwatch.document import schema
from tests.service.daemon import wait_for

VARYING = ("job_id", "timings_ms", "completeness")


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A document without its times and ids."""
    rest = {key: value for key, value in document.items() if key not in VARYING}
    rest["subject"] = {key: value for key, value in document["subject"].items() if key != "received_at"}
    return rest


def scan_json(config: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    status = main(["scan", "--json", "--config", str(config), *map(str, files)])
    lines = capsys.readouterr().out.splitlines()
    documents = [json.loads(line) for line in lines]
    for document in documents:
        jsonschema.Draft202012Validator(schema()).validate(document)
    return status, documents


def test_the_daemon_and_scan_say_the_same(config: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(videos.iterdir())
    root = config.parent / "root"
    (root / "inbox").mkdir(parents=True)
    for file in files:
        shutil.copy(file, root / "inbox")
    with (config.parent / "log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "dfwatch", "run", "--config", str(config)], stderr=log)
    try:
        results = root / "results"
        wait_for(lambda: results.exists() and len(list(results.glob("*.json"))) == len(files), "all sidecars", 60)
        wait_for(lambda: not list((root / "work").iterdir()), "nothing is in work")
        assert main(["status", "--json", "--config", str(config)]) == Exit.OK
        report = json.loads(capsys.readouterr().out)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 0
    finally:
        daemon.kill()
        daemon.wait()

    published = {path.name.removesuffix(".json"): json.loads(path.read_bytes()) for path in results.iterdir()}
    outcomes = {name: (document["status"], document["reason"]) for name, document in published.items()}
    assert outcomes == {
        "face.mp4": ("done", None),
        "noface.webm": ("done", None),
        "picture.jpg": ("done", None),
        "playlist.mp4": ("rejected", "format_not_allowed"),
        "half.mp4": ("failed", "truncated"),
    }
    assert published["noface.webm"]["verdict"] == "NO_FACE"
    for name in ("face.mp4", "picture.jpg"):
        assert published[name]["p_fake"] is not None
        assert len(published[name]["tracks"]) == 1
    assert (len(published["face.mp4"]["tracks"][0]["frames"]), published["picture.jpg"]["video"]["still"]) == (20, True)
    assert report["running"]
    assert report["counts"] == {"done": 3, "failed": 1, "rejected": 1, "quarantined": 0}
    assert {job["name"]: job["reason"] for job in report["without_verdict"]} == {
        "playlist.mp4": "format_not_allowed",
        "half.mp4": "truncated",
    }

    _, documents = scan_json(config, files, capsys)
    for document in documents:
        assert comparable(document) == comparable(published[document["subject"]["name"]])


def test_scan_for_people(config: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["face.mp4", "noface.webm", "playlist.mp4", "picture.jpg"]
    main(["scan", "--config", str(config), *(str(videos / name) for name in files)])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == files
    assert "NO_FACE" in out
    assert "not judged (rejected, format_not_allowed)" in out
    assert "20 of 20 frames" in out
    assert "still picture" in out
    timeline = next(line for line in out.splitlines() if line.startswith("  face 0"))
    assert sum(character in "▁▂▃▄▅▆▇█" for character in timeline) == 20
    assert "\x1b" not in out


def test_exit_status_says_what_was_found(
    config: Path, videos: Path, bundle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = config.read_text()

    def status(thresholds: dict[str, float], *names: str) -> int:
        lines = "".join(f"  {key}: {value}\n" for key, value in thresholds.items())
        config.write_text(f"{text}verdict:\n{lines}")
        return scan_json(config, [videos / name for name in names], capsys)[0]

    always_fake = {"real_threshold": 0.0, "fake_threshold": 0.0001}
    always_real = {"real_threshold": 0.9999, "fake_threshold": 1.0}
    assert status(always_real, "face.mp4", "noface.webm") == Exit.OK
    assert status(always_real, "face.mp4", "playlist.mp4") == Exit.NOT_JUDGED
    assert status(always_fake, "face.mp4", "playlist.mp4") == Exit.FOUND


def test_scan_refuses_thresholds_that_cross_the_models(
    config: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f"{config.read_text()}verdict: {{real_threshold: 1.0}}\n")
    assert main(["scan", "--config", str(config), str(videos / "face.mp4")]) == Exit.USAGE
    assert "1 (verdict.real_threshold), FAKE from" in capsys.readouterr().err


def test_an_output_that_ends_early_hides_no_fake(config: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(f"{config.read_text()}verdict: {{real_threshold: 0.0, fake_threshold: 0.0001}}\n")
    words = ["scan", "--json", "--config", str(config), str(videos / "face.mp4")]
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as closed, open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(words) == 141
        monkeypatch.setattr(sys, "stdout", full)
        assert main(words) == Exit.CANNOT_RUN


@pytest.mark.parametrize("rooted", [False, True])
def test_scan_makes_no_root(
    config: Path, videos: Path, cache_home: Path, capsys: pytest.CaptureFixture[str], *, rooted: bool
) -> None:
    state = config.parent / "root" / "state"
    if rooted:
        state.mkdir(parents=True)
    assert scan_json(config, [videos / "noface.webm"], capsys)[0] == Exit.OK
    assert (config.parent / "root").exists() == rooted
    assert len(list(state.glob("engine-*.json"))) == rooted
    assert len(list(cache_home.glob("dfwatch/engine-*.json"))) == (not rooted)


def test_endings_are_the_same_in_any_case(config: Path, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("watch:", "watch:\n  extensions: [MP4]"))
    _, documents = scan_json(config, [videos / "face.mp4", videos / "noface.webm"], capsys)
    assert [document["reason"] for document in documents] == [None, "unsupported_type"]


def test_scan_of_what_is_not_there(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "plain.mp4").touch()
    files = [tmp_path / name for name in ("nothing.mp4", "folder.mp4", "plain.mp4/below.mp4", "n" * 300 + ".mp4")]
    status, documents = scan_json(config, files, capsys)
    assert status == Exit.NOT_JUDGED
    assert [document["reason"] for document in documents] == ["vanished", "not_a_regular_file", "vanished", "vanished"]


@pytest.mark.parametrize(("fake", "call"), [(False, "open"), (True, "open"), (True, "preadv")])
def test_scan_goes_on_after_a_file_that_the_disk_fails_to_give(
    config: Path,
    videos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    fake: bool,
    call: str,
) -> None:
    well = getattr(os, call)

    def sick(file: Any, *args: Any, **kwargs: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else str(file)
        if path.endswith("picture.jpg"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return well(file, *args, **kwargs)

    if fake:
        config.write_text(f"{config.read_text()}verdict: {{real_threshold: 0.0, fake_threshold: 0.0001}}\n")
    monkeypatch.setattr(os, call, sick)
    files = [str(videos / name) for name in ("face.mp4" if fake else "noface.webm", "picture.jpg", "noface.webm")]
    assert main(["scan", "--json", "--config", str(config), *files]) == (Exit.FOUND if fake else Exit.NOT_JUDGED)
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert told.err.splitlines()[-1] == f"{videos / 'picture.jpg'}: not judged: {os.strerror(errno.EIO)}"


def test_progress_and_colours_at_a_terminal(config: Path, videos: Path) -> None:
    """In a real pseudo-terminal: colours, a progress line that is cleared, no escape left over."""
    import pty

    command = [sys.executable, "-m", "dfwatch", "scan", "--config", str(config), str(videos / "noface.webm")]
    output = bytearray()

    def read(fd: int) -> bytes:
        data = os.read(fd, 4096)
        output.extend(data)
        return data

    environment = os.environ.copy()
    os.environ["TERM"] = "xterm"
    os.environ.pop("NO_COLOR", None)
    try:
        pty.spawn(command, read)
    except OSError:
        pass
    finally:
        os.environ.clear()
        os.environ.update(environment)
    text = output.decode()
    assert "\x1b[1;36mNO_FACE\x1b[0m" in text
    assert "░" in text
    assert text.rindex("░") < text.rindex("NO_FACE")
