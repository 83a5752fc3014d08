"""Content credentials of really signed files, read in a real, confined child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
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


def read(path: Path, **settings: Any) -> dict[str, Any]:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.lseek(fd, 7, os.SEEK_SET)
        told = Credentials(ProvenanceSettings(enabled=True, **settings)).read(fd)
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


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"text", b"\x1aE\xdf\xa3" + bytes(100), b"G" + bytes(187)])
def test_of_a_kind_that_cannot_be_looked_into_nothing_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.mp4"
    path.write_bytes(content)
    told = read(path)
    assert told["found"] is None
    assert "cannot be looked for in this kind of file" in told["note"]


@pytest.mark.parametrize("name", ["clip.qt", "clip.3gp", "clip.mkv", "clip"])
def test_the_content_counts_and_not_the_name(signed: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(signed.read_bytes())
    assert read(path)["state"] == "Valid"


@pytest.mark.parametrize(
    "broken", [b"\0\0\0\x18ftypmp42", b"RIFF\0\0\0\0AVI ", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]
)
def test_a_damaged_file_is_no_error(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(broken + bytes(500))
    assert read(path)["found"] in {False, None}


def test_what_a_signer_writes_harms_nobody(clip: Path, authority: Authority) -> None:
    told = read(authority.sign(clip, clip.with_name("harmful.mp4"), title="evening\0\x1b[2Jnews"))
    assert told["title"] == "evening\ufffd\ufffd[2Jnews"


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
        json.dumps({"found": True, "state": "Valid", "actions": [], "problems": ["\udcff"], "says_generated": False}),
        json.dumps({"found": True, "state": "Valid", "actions": [], "problems": ["a\0b"], "says_generated": False}),
    ],
    ids=range(13),
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


def test_a_child_that_talks_without_end_is_not_listened_to(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = tmp_path / "talker"
    talker.write_text("#!/bin/sh\nexec head -c 1G /dev/zero\n")
    talker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(talker))
    tracemalloc.start()
    try:
        assert read(clip)["found"] is None
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024**2


def test_a_long_list_of_trusted_certificates(signed: Path, authority: Authority, tmp_path: Path) -> None:
    anchors = tmp_path / "roots.pem"
    anchors.write_text(f"# Főtanúsítvány\n{Authority().root_pem}" * 250 + authority.root_pem, encoding="utf-8")
    assert anchors.stat().st_size > 150_000
    assert read(signed, trust_anchors=str(anchors))["state"] == "Trusted"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "No such file"),
        (b"", "no certificates"),
        (b"no PEM", "no certificates"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n", "no certificates"),
        (b"\n" * (4 * 1024 * 1024 + 1), "larger than"),
    ],
    ids=["missing", "empty", "text", "cut", "huge"],
)
def test_certificates_that_cannot_be_read(tmp_path: Path, content: bytes | None, cause: str) -> None:
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"trusted certificates .*{cause}"):
        Credentials(ProvenanceSettings(enabled=True, trust_anchors=str(path)))


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
    assert documents[1]["provenance"]["found"] is None
    assert documents[1]["timings_ms"]["provenance"] >= 0
    for key in ("verdict", "p_fake", "confidence", "tracks", "warnings", "limits"):
        assert documents[0][key] == documents[1][key]
