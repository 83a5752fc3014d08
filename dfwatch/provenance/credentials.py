"""Parent side: ask a child for a file's content credentials, believe nothing that it says, and put it into words."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from dfwatch.errors import ConfigError, MissingExtraError
from dfwatch.provenance.child import MAX_ITEMS, MAX_TEXT

if TYPE_CHECKING:
    from dfwatch.config import ProvenanceSettings

NOTE_ABSENT: Final = (
    "No content credentials were found. That means nothing: most files carry none, and they are easily lost or removed."
)
NOTE_UNREADABLE: Final = "Whether there are content credentials could not be found out. That means nothing."
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
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_TEXTS: Final = ("signed_by", "signed_at", "made_with", "title")


class Credentials:
    """Reads content credentials; safe to use from several threads.

    Args:
        settings: The section ``provenance``.

    Raises:
        MissingExtraError: The extra is not installed.
        ConfigError: The file of trusted certificates cannot be read.
    """

    def __init__(self, settings: ProvenanceSettings) -> None:
        if importlib.util.find_spec("c2pa") is None:
            raise MissingExtraError(
                "reading content credentials", "", "c2pa-python is not installed", hint="pip install 'dfwatch[c2pa]'"
            )
        self._limit_s = settings.time_limit_s
        self._anchors = _anchors(settings.trust_anchors)

    def read(self, fd: int, name: str) -> dict[str, Any]:
        """The document's ``provenance`` section of an open file; never fails because of the file.

        Args:
            fd: Open for reading; its position is neither used nor moved.
            name: Its name, for the ending.
        """
        kind = os.path.splitext(name)[1].removeprefix(".").lower()
        try:
            # A descriptor of its own: the position of a shared one would move under the reader.
            with open(f"/proc/self/fd/{fd}", "rb") as stream:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", "dfwatch.provenance.child", *self._arguments(kind)],
                    stdin=stream,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env={key: os.environ[key] for key in _PASSED_ON if key in os.environ},
                    timeout=self._limit_s,
                    check=False,
                    process_group=0,
                )
            answer = _checked(done.stdout) if done.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired, ValueError, RecursionError):
            answer = None
        return _section(answer)

    def _arguments(self, kind: str) -> list[str]:
        return [kind, str(_MEMORY_BYTES), str(self._limit_s), self._anchors]


def _anchors(path: str) -> str:
    if not path:
        return ""
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read(100_000)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("reading trusted certificates", path, error, hint="see provenance.trust_anchors") from error


def _section(answer: dict[str, Any] | None) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        "state": None,
        **dict.fromkeys(_TEXTS),
        "actions": [],
        "says_generated": None,
        "problems": [],
    }
    if answer is None:
        return {"found": None, **nothing, "note": f"{NOTE_UNREADABLE} {_NOT_USED}"}
    if not answer["found"]:
        return {"found": False, **nothing, "note": f"{NOTE_ABSENT} {_NOT_USED}"}
    return {**answer, "note": f"{_NOTES[answer['state']]} {_NOT_USED}"}


def _checked(data: bytes) -> dict[str, Any]:
    """The child's answer, with exactly the keys and types that an honest child would give.

    Raises:
        ValueError: It is anything else.
    """
    if len(data) > _MAX_ANSWER_BYTES:
        raise ValueError("too long")
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
    if value is not None and (not isinstance(value, str) or len(value) > MAX_TEXT):
        raise ValueError("no text")
    return value
