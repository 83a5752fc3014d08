"""Parent side: ask a child for a file's content credentials, believe nothing that it says, and put it into words."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, cast

from dfwatch.errors import ConfigError, MissingExtraError
from dfwatch.provenance.child import MAX_ITEMS, MAX_TEXT, harmless

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dfwatch.config import ProvenanceSettings

NOTE_ABSENT: Final = (
    "No content credentials were found. That means nothing: most files carry none, and they are easily lost or removed."
)
NOTE_UNREADABLE: Final = "Whether there are content credentials could not be found out. That means nothing."
NOTE_UNKNOWN_KIND: Final = (
    "Content credentials cannot be looked for in this kind of file. Whether it has any is not known, and means nothing."
)
NOTE_INVALID: Final = (
    "There are content credentials, and they do not fit the file or cannot be verified: "
    "nothing in them is to be relied on."
)
NOTE_VALID: Final = (
    "The file is as its signer left it. Nobody has checked who the signer is: anybody can sign in any name."
)
NOTE_TRUSTED: Final = (
    "The file is as its signer left it, and the signer is one that the operator trusts. "
    "What they say may still be wrong."
)
_NOTES: Final = {"Invalid": NOTE_INVALID, "Valid": NOTE_VALID, "Trusted": NOTE_TRUSTED}
_NOT_USED: Final = "It is not used in the verdict."
_MEMORY_BYTES: Final = 1024**3
_MAX_ANSWER_BYTES: Final = 256 * 1024
_CHUNK_BYTES: Final = 64 * 1024
_MAX_ANCHORS_BYTES: Final = 4 * 1024 * 1024
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_TEXTS: Final = ("signed_by", "signed_at", "made_with", "title")
# By content, not by name: who sends a file chooses its name. (offset, magic, kind)
_KINDS: Final = (
    (4, b"ftypavif", "avif"),
    (4, b"ftyphei", "heic"),
    (4, b"ftypmif1", "heif"),
    (4, b"ftyp", "mp4"),
    *((4, box, "mov") for box in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),
    (8, b"AVI ", "avi"),
    (8, b"WEBP", "webp"),
    (0, b"\xff\xd8\xff", "jpg"),
    (0, b"\x89PNG", "png"),
)


class Credentials:
    """Reads content credentials; safe to use from several threads.

    Args:
        settings: The section ``provenance``.

    Raises:
        MissingExtraError: The extra is not installed.
        ConfigError: The file of trusted certificates cannot be read, or holds something else.
    """

    def __init__(self, settings: ProvenanceSettings) -> None:
        if importlib.util.find_spec("c2pa") is None:
            raise MissingExtraError(
                "reading content credentials", "", "c2pa-python is not installed", hint="pip install 'dfwatch[c2pa]'"
            )
        self._limit_s = settings.time_limit_s
        self._anchors = _anchors(settings.trust_anchors)

    def read(self, fd: int) -> dict[str, Any]:
        """The document's ``provenance`` section of an open file; never fails because of the file.

        Args:
            fd: Open for reading; its position is neither used nor moved.
        """
        try:
            kind = kind_of(os.pread(fd, 12, 0))
            if not kind:
                return _section(None, NOTE_UNKNOWN_KIND)
            # A descriptor of its own: the position of a shared one would move under the reader.
            with open(f"/proc/self/fd/{fd}", "rb") as stream, _in_memory(self._anchors) as anchors:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "dfwatch.provenance.child", *self._arguments(kind, anchors)],
                    stdin=stream,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={key: os.environ[key] for key in _PASSED_ON if key in os.environ},
                    process_group=0,
                    pass_fds=(anchors,),
                )
                data = _heard(process, self._limit_s)
            answer = _checked(data) if process.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired, ValueError, RecursionError):
            answer = None
        return _section(answer)

    def _arguments(self, kind: str, anchors: int) -> list[str]:
        return [kind, str(_MEMORY_BYTES), str(self._limit_s), str(anchors)]


def kind_of(head: bytes) -> str:
    """What the C2PA library calls a kind of file, told by its first twelve bytes; empty for those it cannot read."""
    for offset, magic, kind in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return ""


def _heard(process: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """What a child writes until it ends, which it has done when this returns or raises.

    Raises:
        TimeoutExpired: It takes longer than ``limit_s``.
        ValueError: It writes more than any answer has, which nobody is to hold in memory.
    """
    deadline_s = time.monotonic() + limit_s
    data = b""
    with process:
        try:
            pipe = cast("IO[bytes]", process.stdout).fileno()
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            while len(data) <= _MAX_ANSWER_BYTES:
                if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000.0):
                    raise subprocess.TimeoutExpired(process.args, limit_s)
                chunk = os.read(pipe, _CHUNK_BYTES)
                if not chunk:
                    process.wait(max(0.0, deadline_s - time.monotonic()))
                    return data
                data += chunk
            raise ValueError("too long")
        except BaseException:
            process.kill()
            raise


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A descriptor of an unnamed file in memory that holds the data."""
    fd = os.memfd_create("dfwatch-anchors")
    try:
        with open(fd, "wb", closefd=False) as stream:
            stream.write(data)
        yield fd
    finally:
        os.close(fd)


def _anchors(path: str) -> bytes:
    if not path:
        return b""
    attempt, hint = "reading trusted certificates", "see provenance.trust_anchors"
    try:
        with open(path, "rb") as stream:
            data = stream.read(_MAX_ANCHORS_BYTES + 1)
        if len(data) > _MAX_ANCHORS_BYTES:
            raise ConfigError(attempt, path, f"it is larger than {_MAX_ANCHORS_BYTES} bytes", hint=hint)
        # Bundles have comments, in whatever encoding.
        text = data.decode("ascii", "replace").encode("ascii", "replace")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(attempt, path, "it holds no certificates in PEM, or damaged ones", hint=hint) from error
    except OSError as error:
        raise ConfigError(attempt, path, error.strerror or error, hint=hint) from error
    return text


def _section(answer: dict[str, Any] | None, note_unknown: str = NOTE_UNREADABLE) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "state": None,
        **dict.fromkeys(_TEXTS),
        "actions": [],
        "says_generated": None,
        "problems": [],
    }
    if answer is None:
        return {"found": None, **nothing, "note": f"{note_unknown} {_NOT_USED}"}
    if not answer["found"]:
        return {"found": False, **nothing, "note": f"{NOTE_ABSENT} {_NOT_USED}"}
    return {**answer, "note": f"{_NOTES[answer['state']]} {_NOT_USED}"}


def _checked(data: bytes) -> dict[str, Any]:
    """The child's answer, with exactly the keys and types that an honest child would give.

    Raises:
        ValueError: It is anything else.
    """
    answer = json.loads(data)
    if not isinstance(answer, dict) or not isinstance(answer.get("found"), bool):
        raise ValueError("no answer")  # noqa: TRY004 - one kind of error for every lie
    if not answer["found"]:
        return {"found": False}
    actions, problems = answer.get("actions"), answer.get("problems")
    if not isinstance(actions, list) or not isinstance(problems, list) or max(len(actions), len(problems)) > MAX_ITEMS:
        raise ValueError("no lists")
    if answer.get("state") not in _NOTES or not isinstance(answer.get("says_generated"), bool):
        raise ValueError("no state")
    return {
        "found": True,
        "state": answer["state"],
        **{key: _text(answer.get(key)) for key in _TEXTS},
        "actions": [
            {key: _text(action.get(key)) for key in ("action", "source_type")} for action in map(_dict, actions)
        ],
        "says_generated": answer["says_generated"],
        "problems": [_text(problem) for problem in problems],
    }


def _dict(value: object) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError("no object")


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT or value != harmless(value):
        raise ValueError("no text")
    return value
