"""Adds each outcome to a Redis stream."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.secret import FORMS, complaint, read_secret
from dfwatch.sinks.urls import url_complaint

if TYPE_CHECKING:
    from dfwatch.sinks import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings(SinkSettings):
    """Settings of ``type: redis``."""

    type: str = setting("redis", doc="Kind of sink.")
    url: str = setting(
        MISSING, doc="The server, without a password: rediss://HOST:PORT/DATABASE, redis:// without TLS."
    )
    user: str = setting("", doc="User name; empty: the default one.")
    password: str = setting("", doc=f"Where the password is kept: {FORMS}.")
    ca_file: str = setting("", doc="Certificate authorities to trust instead of the system's.", path=True)
    stream: str = setting("dfwatch:outcomes", doc="Key of the stream.")
    max_entries: int = setting(
        100_000, doc="About this many entries stay in the stream, the newest; 0: all of them.", minimum=0
    )

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        found = []
        wrong = url_complaint(self.url, {"redis", "rediss", "unix"}, needs_host=False)
        if wrong:
            found.append(("url", wrong, "rediss://redis.example.org:6379/0"))
        elif _holds_a_password(self.url):
            found.append(("url", "holds a user name or a password", "use 'user' and 'password'"))
        elif not _names_a_database(self.url):
            found.append(("url", "has a database that is not a number", "rediss://redis.example.org:6379/0"))
        elif self.ca_file and not self.url.startswith("rediss:"):
            found.append(("ca_file", "is of no use without TLS", "rediss://redis.example.org:6379/0"))
        if self.password and complaint(self.password):
            found.append(("password", complaint(self.password), FORMS))
        return found


class RedisSink(Sink):
    """Entries with the fields ``key`` (idempotency key), ``verdict``, ``status`` and ``document`` (the sidecar)."""

    settings_type: ClassVar[type[SinkSettings]] = RedisSettings
    networked: ClassVar[bool] = True

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._redis = require("redis", "redis")
        self._client: Any = None

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        entry = {
            "key": message.key,
            "verdict": message.document["verdict"] or "",
            "status": message.document["status"],
            "document": encode(message.document, indent=None).rstrip(b"\n"),
        }
        try:
            self._connect().xadd(
                self._settings.stream, entry, maxlen=self._settings.max_entries or None, approximate=True
            )
        except (self._redis.RedisError, OSError, ValueError) as exc:
            raise self._error("adding to", exc) from exc

    def probe(self) -> str:
        """See ``Sink``."""
        try:
            client = self._connect()
            kind = client.type(self._settings.stream).decode()
        except (self._redis.RedisError, OSError, ValueError) as exc:
            raise self._error("trying", exc) from exc
        if kind not in {"none", "stream"}:
            raise self._error("trying", f"the key {self._settings.stream!r} holds a {kind}, not a stream")
        return f"the server answers; {self._settings.stream} " + ("is a stream" if kind == "stream" else "is free")

    def close(self) -> None:
        """See ``Sink``."""
        if self._client is not None:
            with suppress(self._redis.RedisError, OSError):
                self._client.close()
            self._client = None

    def _connect(self) -> Any:  # noqa: ANN401 - redis-py's, which need not be installed
        if self._client is None:
            settings = self._settings
            more: dict[str, Any] = {"ssl_ca_certs": settings.ca_file} if settings.ca_file else {}
            if settings.password:
                more["password"] = read_secret(settings.password)
            if settings.user:
                more["username"] = settings.user
            self._client = self._redis.Redis.from_url(
                settings.url,
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                # The outbox tries again, and knows when; a repetition in here would not be counted.
                retry=require("redis.retry", "redis").Retry(require("redis.backoff", "redis").NoBackoff(), 0),
                client_name="dfwatch",
                **more,
            )
        return self._client

    def _error(self, action: str, cause: object) -> SinkError:
        self.close()
        return SinkError(f"{action} the stream", self._settings.stream, cause)


def _holds_a_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.username or parts.password or "password" in parts.query)


def _names_a_database(url: str) -> bool:
    """Whether the path is a database's number or nothing; redis-py takes whatever else it is for number 0."""
    parts = urlsplit(url)
    return parts.scheme == "unix" or re.fullmatch(r"/?[0-9]*", parts.path) is not None
