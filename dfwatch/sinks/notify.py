"""Tells people: chat rooms and mail, through apprise and its more than a hundred services."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.document import percent
from dfwatch.errors import SinkError
from dfwatch.printable import printable
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.secret import FORMS, complaint, read_secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dfwatch.sinks import Message

_LONGEST_NAME: Final = 120
_MOST_AT_ONCE: Final = 16
# A sink has one message in hand; a few more were set aside as dead, or are sent again by a person.
_MOST_REMEMBERED: Final = 100
# Where a mention or a tag begins, and the joints of Markdown's links.
_LIVE: Final = re.compile(r"[@<]|\](?=[\[(:])")
_ZERO_WIDTH_SPACE: Final = "\u200b"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings(SinkSettings):
    """Settings of ``type: notify``."""

    type: str = setting("notify", doc="Kind of sink.")
    urls: str = setting(
        MISSING, doc=f"Where apprise's URLs are kept, one on each line (they hold tokens and passwords): {FORMS}."
    )
    verdicts: list[str] = setting(
        factory=lambda: ["FAKE"],
        doc="Only these verdicts; [] for all, and for outcomes without one.",
        choices=("FAKE", "REAL", "INCONCLUSIVE", "NO_FACE"),
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        return [("urls", complaint(self.urls), FORMS)] if complaint(self.urls) else []


class NotifySink(Sink):
    """A short message to each place. Where one of several fails, only those that did not take it are told again."""

    settings_type: ClassVar[type[SinkSettings]] = NotifySettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._apprise = require("apprise", "notify")
        self._urls()
        # By message, hashes of the URLs that took it. A restart forgets them, so a place may be told twice after one.
        self._took: dict[str, set[str]] = {}

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        title, body = describe(message.document)
        took = self._took.pop(message.key, set())
        try:
            self._tell(title, body, took)
        except SinkError:
            self._took[message.key] = took
            if len(self._took) > _MOST_REMEMBERED:
                del self._took[next(iter(self._took))]
            raise

    def probe(self) -> str:
        """See ``Sink``. People get a message that is marked as a test."""
        told = self._tell("dfwatch: this is a test", "This message tries the way to you; it speaks of no video.", set())
        return f"{told} place{'s' if told != 1 else ''} took a test message"

    def _urls(self) -> list[str]:
        lines = read_secret(self._settings.urls).splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def _tell(self, title: str, body: str, took: set[str]) -> int:
        """Tell every place that is not among ``took``, and add there who takes it; returns how many places there are.

        Raises:
            SinkError: At least one did not take it; all have been tried.
        """
        urls = self._urls()
        if not urls:
            raise SinkError("telling", self._settings.name, "there is no URL, only comments")
        left = {url: number for number, url in enumerate(urls, start=1) if _mark(url) not in took}
        wrong = []
        for url, complaint_of_it in self._answers(list(left), title, body):
            if complaint_of_it:
                wrong.append(f"line {left[url]} of its URLs {complaint_of_it}")
            else:
                took.add(_mark(url))
        if wrong:
            # apprise keeps the reasons to itself, because they may hold tokens.
            hint = "try its URL with 'apprise -v'"
            raise SinkError("telling", self._settings.name, "; ".join(wrong), hint=hint)
        return len(urls)

    def _answers(self, urls: Sequence[str], title: str, body: str) -> Iterator[tuple[str, str]]:
        """For each URL what is wrong with it; empty when it took the message. One that is slow holds up no other."""
        answers: dict[str, str] = {}

        def tell(url: str) -> None:
            answers[url] = self._tell_one(url, title, body)

        for begin in range(0, len(urls), _MOST_AT_ONCE):
            some = urls[begin : begin + _MOST_AT_ONCE]
            # Daemonic, as the sink's own thread is: a place that hangs must not keep the process from ending.
            threads = [threading.Thread(target=tell, args=(url,), name="notify", daemon=True) for url in some]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield from ((url, answers[url]) for url in some)

    def _tell_one(self, url: str, title: str, body: str) -> str:
        try:
            place: Any = self._apprise.Apprise(asset=self._apprise.AppriseAsset(app_id="dfwatch", app_desc="dfwatch"))
            if not place.add(self._limited(url)):
                return "is not one that apprise knows"
            # Text is what it is: apprise escapes it for a service that wants HTML or Markdown.
            taken = place.notify(title=title, body=body, body_format=self._apprise.NotifyFormat.TEXT)
        except Exception as error:  # noqa: BLE001 - one of a hundred services; what it says may hold its URL's token
            return f"failed with {type(error).__name__}"
        return "" if taken else "did not take it"

    def _limited(self, url: str) -> str:
        """Apprise's own time limits (https://github.com/caronc/apprise/wiki/URLBasics), unless the URL has some."""
        if "cto=" in url or "rto=" in url:
            return url
        limit = f"cto={self._settings.timeout_s / 2:g}&rto={self._settings.timeout_s / 2:g}"
        return f"{url}{'&' if '?' in url else '?'}{limit}"


def describe(document: Mapping[str, Any]) -> tuple[str, str]:
    """Title and text for a person. What comes with a file can neither call anybody nor hide a link."""
    name = printable(document["subject"]["name"])
    name = _inert(name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…")
    lines = []
    if document["verdict"] is None:
        title = f"{name}: {document['status']}"
        lines.append(_inert(printable(document["reason_detail"] or document["reason"] or "")))
    else:
        confidence = document["confidence"]
        sure = "" if confidence is None else f" (confidence {percent(confidence)})"
        title = f"{name}: {document['verdict']}{sure}"
        lines += document["limits"][:1]
    lines.append(f"Model {document['model']['id']} {document['model']['version']}, job {document['job_id']}.")
    return title, "\n".join(lines)


def _inert(text: str) -> str:
    """``text`` that looks the same to a person, and in which a chat service finds no mention, tag or disguised link.

    apprise escapes for services that say which markup they take; others take plain text and look for theirs in it.
    """
    return _LIVE.sub(lambda found: found[0] + _ZERO_WIDTH_SPACE, text)


def _mark(url: str) -> str:
    """Tells URLs apart without keeping their tokens."""
    return hashlib.sha256(url.encode("utf-8")).hexdigest()
