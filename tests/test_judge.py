"""One file at a time, without a daemon: what is held against a file, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from dfwatch.config import Settings
from dfwatch.document import schema
from dfwatch.errors import DeviceError, ReaderStartError
from dfwatch.judge import Judge
from tests.service.scripted import ScriptedReader, ScriptedScorer, StarvedReader

if TYPE_CHECKING:
    from pathlib import Path


def judged(folder: Path, word: str, reader: ScriptedReader | None = None) -> dict[str, Any]:
    path = folder / "clip.mp4"
    path.write_text(word)
    document = Judge(Settings(), reader or ScriptedReader(), ScriptedScorer()).judge(str(path))
    jsonschema.Draft202012Validator(schema()).validate(document)
    return document


def test_crops_that_the_model_cannot_score_are_this_files_trouble_alone(tmp_path: Path) -> None:
    document = judged(tmp_path, "poison")
    assert (document["status"], document["reason"], document["verdict"]) == ("failed", "internal_error", None)
    assert document["reason_detail"] == "a score is not finite"
    assert len(document["subject"]["sha256"]) == 64
    assert judged(tmp_path, "fake")["verdict"] == "FAKE"


def test_a_lost_device_is_held_against_no_file(tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        judged(tmp_path, "lost")


def test_a_machine_that_starts_no_reader_is_held_against_no_file(tmp_path: Path) -> None:
    (tmp_path / "trouble").touch()
    with pytest.raises(ReaderStartError):
        judged(tmp_path, "fake", StarvedReader(tmp_path / "trouble"))
    assert judged(tmp_path, "crash")["status"] == "quarantined"
