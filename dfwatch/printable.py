"""Text from outside, made safe to show: at a terminal, in a log line, in a status line."""

from __future__ import annotations

import os
import re

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PRINTABLE_ASCII = re.compile(r"[ -~]*")


def printable(text: str | bytes | os.PathLike[str]) -> str:
    r"""``text`` with everything that is not a printable character written as an escape.

    Terminal escapes, line breaks, bidirectional overrides and invisible characters come out as ``\x1b``, ``\n``,
    ``\u202e``; bytes of a file name that are not UTF-8 as ``\xff``. Meant for eyes: a backslash is not doubled, so the
    result cannot always be turned back.
    """
    if not isinstance(text, str):
        text = os.fsdecode(text)
    if _PRINTABLE_ASCII.fullmatch(text):
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # how os.fsdecode keeps a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
