"""Content credentials of really signed files, read in a real, confined child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfwatch.config import ProvenanceSettings
from dfwatch.document import schema
from dfwatch.errors import ConfigError
from dfwatch.provenance.credentials import Credentials
from tests.clips import make_clip
from tests.provenance.signing import Authority
from tests.service.daemon import Daemon

SECTION = schema()["properties"]["provenance"]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_clip(path, seconds=1.0)
    return path


@pytest.fixture(scope="module")
def signed(clip: Path, authority: Authority) -> Path:
    return authority.sign(clip, clip.with_name("signed.mp4"))


def read(path: Path, name: str = "clip.mp4", **settings: Any) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 7, os.SEEK_SET)
        told = Credentials(ProvenanceSettings(enabled=True, **settings)).read(fd, name)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 7, "the position is the caller's"
    finally:
        os.close(fd)
    jsonschema.Draft202012Validator(SECTION).validate(told)
    assert "It is not used in the verdict." in told["note"]
    return told


def test_a_signed_file(signed: Path) -> None:
    told = read(signed)
    assert told["state"] == "Valid"
    assert told["signed_by"] == "Test Newsroom"
    assert told["made_with"] == "Test Editor 1.0"
    assert told["title"] == "evening news"
    assert told["actions"] == [{"action": "c2pa.created", "source_type": "trainedAlgorithmicMedia"}]
    assert told["says_generated"] is True
    assert told["problems"] == ["signingCredential.untrusted"]
    assert "Nobody has checked who the signer is" in told["note"]


def test_a_signer_whom_the_operator_trusts(signed: Path, authority: Authority, tmp_path: Path) -> None:
    anchors = tmp_path / "roots.pem"
    anchors.write_text(authority.root_pem)
    told = read(signed, trust_anchors=str(anchors))
    assert (told["state"], told["problems"]) == ("Trusted", [])
    anchors.write_text(Authority().root_pem)
    assert read(signed, trust_anchors=str(anchors))["state"] == "Valid", "another authority of the same name"


def test_a_file_that_was_changed_after_it_was_signed(signed: Path, tmp_path: Path) -> None:
    data = bytearray(signed.read_bytes())
    place = data.rindex(b"mdat") + 200
    data[place] ^= 0xFF
    changed = tmp_path / "changed.mp4"
    changed.write_bytes(data)
    told = read(changed)
    assert told["state"] == "Invalid"
    assert "nothing in them is to be relied on" in told["note"]


def test_absence_means_nothing_and_the_text_says_so(clip: Path) -> None:
    told = read(clip)
    assert told["found"] is False
    assert told["says_generated"] is None
    assert "That means nothing" in told["note"]


@pytest.mark.parametrize(
    ("content", "name"), [(b"", "a.mp4"), (b"\0" * 5000, "a.mp4"), (b"text", "a.xyz"), (b"x", "a")]
)
def test_what_is_no_video_is_no_error(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert read(path, name)["found"] in {False, None}


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no json",
        "[]",
        '{"found": 1}',
        '{"found": true}',
        "[" * 100_000,
        '{"found": true, "state": "Blessed", "actions": [], "problems": [], "says_generated": false}',
        '{"found": true, "state": "Valid", "actions": [1], "problems": [], "says_generated": false}',
        '{"found": true, "state": "Valid", "actions": [], "problems": [], "says_generated": false, "title": 5}',
        json.dumps({"found": True, "state": "Valid", "actions": [], "problems": ["x"] * 51, "says_generated": False}),
        json.dumps({"found": True, "state": "Valid", "actions": [], "problems": ["x" * 301], "says_generated": False}),
    ],
    ids=range(11),
)
def test_a_child_that_lies_is_not_believed(
    answer: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answer").write_text(answer)
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\n")
    liar.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(liar))
    assert read(clip)["found"] is None


def test_a_child_that_hangs_or_dies_holds_nothing_up(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad"
    monkeypatch.setattr(sys, "executable", str(bad))
    for script in ("exec sleep 60", "kill -SEGV $$"):
        bad.write_text(f"#!/bin/sh\n{script}\n")
        bad.chmod(0o755)
        began_s = time.monotonic()
        assert read(clip, time_limit_s=1.0)["found"] is None
        assert time.monotonic() - began_s < 30


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trusted certificates"):
        Credentials(ProvenanceSettings(enabled=True, trust_anchors=str(tmp_path / "missing.pem")))


def test_without_the_extra_the_message_names_the_command(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['c2pa'] = None\n"
        "from dfwatch.cli import main\n"
        "sys.exit(main(['run', '--config', sys.argv[1]]))"
    )
    config = tmp_path / "config.yaml"
    config.write_text("root: ./var\nprovenance:\n  enabled: true\n")
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "pip install 'dfwatch[c2pa]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_sidecar_reports_it_apart_from_the_verdict(daemons: Callable[..., Daemon]) -> None:
    plain, asking = daemons(), daemons({"provenance": {"enabled": True}}, "b")
    documents = []
    for daemon in (plain, asking):
        daemon.start()
        daemon.drop("clip.mp4", "fake")
        documents.append(daemon.sidecar("clip.mp4"))
    assert documents[0]["provenance"] is None
    assert documents[1]["provenance"]["found"] in {False, None}
    assert documents[1]["timings_ms"]["provenance"] > 0
    for key in ("verdict", "p_fake", "confidence", "tracks", "warnings", "limits"):
        assert documents[0][key] == documents[1][key]
