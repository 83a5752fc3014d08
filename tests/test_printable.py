from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clip one.mp4", "clip one.mp4"),
        ("Grüße 視頻.mp4", "Grüße 視頻.mp4"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("gpj.\u202emp4", r"gpj.\u202emp4"),
        ("a\u200bb\u2028c\xa0d", r"a\u200bb\u2028c\xa0d"),
        ("\U000e0041", r"\U000e0041"),
        (os.fsdecode(b"caf\xe9.mp4"), r"caf\xe9.mp4"),
        ("\ud83d", r"\ud83d"),
        (b"caf\xe9\n", r"caf\xe9\n"),
        (Path("a/b\n"), r"a/b\n"),
        ("", ""),
    ],
)
def test_known_cases(text: str | bytes | Path, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())) | st.binary())
def test_result_is_printable_and_encodable(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.text())
def test_printable_text_stays_as_it_is(text: str) -> None:
    if text.isprintable():
        assert printable(text) == text
