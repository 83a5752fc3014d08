"""Tells people: chat rooms and mail, through apprise and its more than a hundred services."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from dfwatch.config import SinkSettings, setting
from dfwatch.errors import SinkError
from dfwatch.printable import printable
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.secret import FORMS, complaint, read_secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.sinks import Message

_LONGEST_NAME: Final = 120


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
    """A short message to each place. If one of several fails, all are told again: duplicates name the same job."""

    settings_type: ClassVar[type[SinkSettings]] = NotifySettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._apprise = require("apprise", "notify")
        self._urls()

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        title, body = describe(message.document)
        self._tell(title, body)

    def probe(self) -> str:
        """See ``Sink``. People get a message that is marked as a test."""
        told = self._tell("dfwatch: this is a test", "This message tries the way to you; it speaks of no video.")
        return f"{told} place{'s' if told != 1 else ''} took a test message"

    def _urls(self) -> list[str]:
        lines = read_secret(self._settings.urls).splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]

    def _tell(self, title: str, body: str) -> int:
        places: Any = self._apprise.Apprise(
            asset=self._apprise.AppriseAsset(app_id="dfwatch", app_desc="dfwatch", async_mode=True)
        )
        urls = self._urls()
        for number, url in enumerate(urls, start=1):
            if not places.add(self._limited(url)):
                raise SinkError(
                    "telling", self._settings.name, f"line {number} of its URLs is not one that apprise knows"
                )
        # apprise keeps the reasons to itself (and to its own log), because they may hold tokens.
        if not places.notify(title=title, body=body):
            raise SinkError(
                "telling",
                self._settings.name,
                "at least one place did not take it",
                hint="try its URL with 'apprise -v'",
            )
        return len(urls)

    def _limited(self, url: str) -> str:
        """Apprise's own time limits (https://github.com/caronc/apprise/wiki/URLBasics), unless the URL has some."""
        if "cto=" in url or "rto=" in url:
            return url
        limit = f"cto={self._settings.timeout_s / 2:g}&rto={self._settings.timeout_s / 2:g}"
        return f"{url}{'&' if '?' in url else '?'}{limit}"


def describe(document: Mapping[str, Any]) -> tuple[str, str]:
    """Title and text for a person."""
    name = printable(document["subject"]["name"])
    name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    lines = []
    if document["verdict"] is None:
        title = f"{name}: {document['status']}"
        lines.append(printable(document["reason_detail"] or document["reason"] or ""))
    else:
        confidence = document["confidence"]
        sure = "" if confidence is None else f" (confidence {confidence:.0%})"
        title = f"{name}: {document['verdict']}{sure}"
        lines += document["limits"][:1]
    lines.append(f"Model {document['model']['id']} {document['model']['version']}, job {document['job_id']}.")
    return title, "\n".join(lines)
