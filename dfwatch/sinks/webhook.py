"""Posts each outcome to a URL: CloudEvents 1.0 in JSON, signed as Standard Webhooks.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md, https://www.standardwebhooks.com
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import MISSING, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urljoin, urlsplit

from dfwatch import __version__
from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError, SinkGoneError
from dfwatch.sinks import Message, Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.hanging_up import HangingUp
from dfwatch.sinks.samples import TEST_KEY, sample
from dfwatch.sinks.secret import FORMS, complaint, read_secret
from dfwatch.sinks.signing import parse_keys, signature_headers
from dfwatch.sinks.urls import url_complaint
from dfwatch.storage.stamps import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
EVENT_TYPE: Final = "dfwatch.outcome.v1"
TEST_TYPE: Final = "dfwatch.test"
_MOST_REDIRECTS: Final = 3
# Only these ask for the same request at another place; the others would turn a POST into a GET.
_REDIRECTS: Final = {307, 308}
# The receiver has understood and does not want this one message.
_NEVER: Final = {400, 413, 422}
_TOLD_BYTES: Final = 300
# RFC 9110, 5.1 and 5.5; of what is above ASCII, what is printable in Latin-1.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# An answer longer than this is not read to its end, and costs the connection.
_MOST_ANSWER_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings(SinkSettings):
    """Settings of ``type: webhook``."""

    type: str = setting("webhook", doc="Kind of sink.")
    url: str = setting(MISSING, doc="Where to post; https.")
    secret: str = setting(MISSING, doc=f"Where the signing key is kept: {FORMS}. Several lines while it is replaced.")
    authorization: str = setting("", doc=f"Where the value of an Authorization header is kept: {FORMS}.")
    headers: dict[str, str] = setting(factory=dict, doc="Further headers; no secrets.")
    source: str = setting("dfwatch", doc="The events' 'source': a URI reference that names this service.")
    ca_file: str = setting("", doc="Certificate authorities to trust instead of the system's.", path=True)
    allow_http: bool = setting(default=False, doc="Allow a URL without TLS.")
    redirects_to_private: bool = setting(
        default=False, doc="Follow redirects (307, 308) into private networks and to this machine."
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        found = []
        wrong = url_complaint(self.url, {"https", "http"})
        if wrong:
            found.append(("url", wrong, "https://example.org/hook"))
        else:
            parts = urlsplit(self.url)
            if parts.scheme == "http" and not self.allow_http:
                found.append(("url", "has no TLS", "use https, or set allow_http: true"))
            if parts.username or parts.password:
                found.append(("url", "holds a user name or a password", "put them where 'authorization' says"))
        if complaint(self.secret):
            found.append(("secret", complaint(self.secret), FORMS))
        if self.authorization and complaint(self.authorization):
            found.append(("authorization", complaint(self.authorization), FORMS))
        taken = {"authorization", "content-type", "host", "content-length"}
        for name, value in self.headers.items():
            if name.lower() in taken or name.lower().startswith("webhook-"):
                found.append(("headers", f"may not set {name!r}", ""))
            elif not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                found.append(("headers", f"cannot send {name!r}", "a header is one line of Latin-1 characters"))
        return found


@dataclass(frozen=True, slots=True)
class _Request:
    """One signed event."""

    body: bytes
    headers: Mapping[str, str]
    authorization: Mapping[str, str] = field(repr=False)


class WebhookSink(Sink):
    """Posts signed CloudEvents over HTTPS. Status 2xx: taken; 410: never call again; 400, 413, 422: this one never."""

    settings_type: ClassVar[type[SinkSettings]] = WebhookSettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._urllib3 = require("urllib3", "webhook")
        try:
            self._tls = ssl.create_default_context(cafile=settings.ca_file or None)
        except (OSError, ssl.SSLError) as exc:
            # It may come back, like any other file on its way to being replaced.
            raise SinkError("reading the certificates", settings.ca_file, exc) from exc
        self._keys()
        self._authorization()
        self._pool: Any = None
        self._hanging_up = HangingUp()

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        self._send(message, EVENT_TYPE)

    def probe(self) -> str:
        """See ``Sink``. The event's type is ``dfwatch.test``."""
        status = self._send(Message(TEST_KEY, sample(), utc_now()), TEST_TYPE)
        return f"{self._shown} answered a test event with {status}"

    def close(self) -> None:
        """See ``Sink``."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @property
    def _shown(self) -> str:
        """The URL without what may be a secret in it."""
        parts = urlsplit(self._settings.url)
        return f"{parts.scheme}://{parts.netloc}"

    def _keys(self) -> list[bytes]:
        return parse_keys(read_secret(self._settings.secret), self._settings.secret)

    def _authorization(self) -> dict[str, str]:
        """The header of this name, where there is one.

        Raises:
            SinkError: It cannot be read, or no header can hold it; the text of the error does not repeat it.
        """
        if not self._settings.authorization:
            return {}
        value = read_secret(self._settings.authorization)
        if not _HEADER_VALUE.fullmatch(value):
            raise SinkError(
                "reading the secret",
                self._settings.authorization,
                "it holds a line break or another character that a header cannot hold",
                hint="the file holds one line, the header's value",
            )
        return {"authorization": value}

    def _send(self, message: Message, event_type: str) -> int:
        body = encode(self._event(message, event_type), indent=None)
        settings = self._settings
        headers = {
            **settings.headers,
            "content-type": CONTENT_TYPE,
            "user-agent": f"dfwatch/{__version__}",
            **signature_headers(self._keys(), message.key, int(time.time()), body),
        }
        return self._post(_Request(body, headers, self._authorization()))

    def _event(self, message: Message, event_type: str) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": message.key,
            "source": self._settings.source,
            "type": event_type,
            "subject": message.document["subject"]["name"],
            "time": message.queued_at or message.document["subject"]["received_at"],
            "datacontenttype": "application/json",
            "data": message.document,
        }

    def _post(self, request: _Request) -> int:
        limit_s = self._settings.timeout_s
        # A redirect may lead to another address each time: only the connection to the URL itself is kept.
        with self._hanging_up.at(time.monotonic() + limit_s, least_s=limit_s / 2), ExitStack() as passing:
            return self._exchange(request, passing)

    def _exchange(self, request: _Request, passing: ExitStack) -> int:
        url = self._settings.url
        if self._pool is None:
            self._pool = self._new_pool(url)
        pool = self._pool
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(url, pool, request)
            said = self._rest_of(response)
            status = int(response.status)
            if status not in _REDIRECTS or "location" not in response.headers:
                self._judge(response, said)
                return status
            target, address = self._admitted(url, response.headers["location"])
            # The connection goes to the very address that was looked at: a name may answer otherwise next time.
            pool = passing.enter_context(closing(self._new_pool(target, address)))
            url = target
        raise self._error(f"it redirected more than {_MOST_REDIRECTS} times")

    def _once(self, url: str, pool: Any, request: _Request) -> Any:  # noqa: ANN401 - urllib3's
        parts = urlsplit(url)
        headers = {**request.headers, "host": parts.netloc.rpartition("@")[2]}
        if (parts.scheme, parts.netloc) == urlsplit(self._settings.url)[:2]:
            headers |= request.authorization
        limit_s = self._settings.timeout_s
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            response = pool.urlopen(
                "POST",
                target,
                body=request.body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                # For each address of the host, and for each wait for an answer; ``_hanging_up`` minds the whole.
                timeout=self._urllib3.Timeout(connect=limit_s / 2, read=limit_s),
            )
        except self._urllib3.exceptions.HTTPError as exc:
            raise self._too_late() if self._hanging_up.late else self._error(_reason(exc)) from exc
        if self._hanging_up.late:
            # The rest of its headers was cut off; half an answer is none.
            response.close()
            raise self._too_late()
        return response

    def _new_pool(self, url: str, address: str = "") -> Any:  # noqa: ANN401 - urllib3's
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            if parts.scheme == "https":
                pool = self._urllib3.HTTPSConnectionPool(
                    address or host,
                    parts.port or 443,
                    ssl_context=self._tls,
                    server_hostname=host,
                    assert_hostname=host,
                )
            else:
                pool = self._urllib3.HTTPConnectionPool(address or host, parts.port or 80)
        except self._urllib3.exceptions.HTTPError as exc:
            raise self._error(_reason(exc)) from exc
        return self._hanging_up.over(pool)

    def _admitted(self, origin: str, location: str) -> tuple[str, str]:
        """A redirect's target, and the address to find it at.

        Raises:
            SinkError: It may not be gone to.
        """
        try:
            target = urljoin(origin, location)
            parts = urlsplit(target)
        except ValueError as exc:
            raise self._error("it redirected to something that is not a URL") from exc
        if parts.scheme != "https" and (parts.scheme, urlsplit(origin).scheme) != ("http", "http"):
            raise self._error("it redirected to a URL without TLS")
        host = parts.hostname or ""
        try:
            found = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, ValueError) as exc:
            raise self._error(f"it redirected to {host!r}, which has no address") from exc
        addresses = tuple(str(entry[4][0]) for entry in found)
        if not self._settings.redirects_to_private and not all(map(_is_public, addresses)):
            raise self._error(
                f"it redirected to {host!r}, which is in a private network", hint="redirects_to_private: true allows it"
            )
        return target, addresses[0]

    def _rest_of(self, response: Any) -> str:  # noqa: ANN401 - urllib3's
        """The begin of the answer's body. The connection is fit for another request afterwards, or closed.

        Whatever follows a status, nobody is waited for beyond the time limit, nor kept in memory: the status decides.
        """
        begin, size = b"", 0
        with suppress(self._urllib3.exceptions.HTTPError, OSError):
            while size <= _MOST_ANSWER_BYTES and not self._hanging_up.late:
                part = response.read1(8192, decode_content=False)
                if not part:
                    response.release_conn()
                    return begin.decode("utf-8", "replace").strip()
                begin += part[: _TOLD_BYTES - len(begin)]
                size += len(part)
        response.close()
        return begin.decode("utf-8", "replace").strip()

    def _judge(self, response: Any, said: str) -> None:  # noqa: ANN401 - urllib3's
        status = int(response.status)
        if 200 <= status < 300:
            return
        cause = f"it answered {status} {response.reason or ''}".strip() + (f": {said}" if said else "")
        if status == 410:
            raise SinkGoneError("posting to", self._shown, cause)
        raise self._error(
            cause, retryable=status not in _NEVER, retry_after_s=retry_after_s(response.headers.get("retry-after"))
        )

    def _too_late(self) -> SinkError:
        return self._error(f"it did not answer within {self._settings.timeout_s:g} s")

    def _error(
        self, cause: str, *, hint: str = "", retryable: bool = True, retry_after_s: float | None = None
    ) -> SinkError:
        return SinkError("posting to", self._shown, cause, hint=hint, retryable=retryable, retry_after_s=retry_after_s)


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header (RFC 9110, 10.2.3: a number or a date) asks for; None where it says nothing."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast


def _reason(error: Exception) -> str:
    """urllib3's errors repeat the whole URL, which may hold a secret; their causes do not."""
    inner = getattr(error, "reason", None) or error.__cause__ or error
    text = str(inner).rpartition(">: ")[2].rpartition("object at 0x")[0] or str(inner).rpartition(": ")[2]
    return text or type(error).__name__
