"""Puts each outcome into a bucket of Amazon S3 or of any store that speaks its protocol."""

from __future__ import annotations

import mimetypes
import os
from contextlib import suppress
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dfwatch.config import SinkSettings, setting
from dfwatch.document import encode
from dfwatch.errors import SinkError
from dfwatch.sinks import Sink
from dfwatch.sinks.extras import require
from dfwatch.sinks.samples import TEST_KEY, sample
from dfwatch.sinks.secret import FORMS, complaint, read_secret
from dfwatch.sinks.urls import url_complaint

if TYPE_CHECKING:
    from dfwatch.sinks import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings(SinkSettings):
    """Settings of ``type: s3``."""

    type: str = setting("s3", doc="Kind of sink.")
    bucket: str = setting(MISSING, doc="The bucket; it must be there.")
    prefix: str = setting("dfwatch/", doc="Begin of each key; usually ends in a slash.")
    endpoint_url: str = setting("", doc="The store's URL; empty: Amazon's.")
    region: str = setting("", doc="Region; empty: what the environment says.")
    access_key_id: str = setting("", doc="Name of the access key; empty: credentials as boto3 finds them.")
    evidence: bool = setting(
        default=False, doc="Upload the pictures and the page of the evidence too. They show faces."
    )
    secret_access_key: str = setting("", doc=f"Where the secret part of that key is kept: {FORMS}.")

    def problems(self) -> list[tuple[str, str, str]]:
        """See ``SinkSettings``."""
        found = []
        if not self.bucket:
            found.append(("bucket", "is empty", ""))
        if bool(self.access_key_id) != bool(self.secret_access_key):
            found.append(("access_key_id", "and secret_access_key belong together", "set both or neither"))
        if self.secret_access_key and complaint(self.secret_access_key):
            found.append(("secret_access_key", complaint(self.secret_access_key), FORMS))
        wrong = url_complaint(self.endpoint_url, {"https", "http"}) if self.endpoint_url else ""
        if wrong:
            found.append(("endpoint_url", wrong, "https://s3.example.org"))
        return found


class S3Sink(Sink):
    """One object for each outcome, PREFIX YYYY/MM/DD/JOB.json: a second delivery replaces it with the same.

    Evidence goes to PREFIX YYYY/MM/DD/JOB/FILE, as far as it still lies beside the sidecar.
    """

    settings_type: ClassVar[type[SinkSettings]] = S3Settings
    networked: ClassVar[bool] = True

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._boto3 = require("boto3", "s3")
        self._exceptions = require("botocore.exceptions", "s3")
        self._config = require("botocore.config", "s3").Config(
            connect_timeout=settings.timeout_s,
            read_timeout=settings.timeout_s,
            # The outbox tries again, and knows when.
            retries={"total_max_attempts": 1},
            # Many stores do not know the newer checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client: Any = None

    def deliver(self, message: Message) -> None:
        """See ``Sink``."""
        day = message.document["subject"]["received_at"][:10].replace("-", "/")
        key = f"{self._settings.prefix}{day}/{message.key}"
        if self._settings.evidence:
            # Ahead of the sidecar, so that whoever sees the sidecar finds what it names.
            for path in evidence_files(message):
                # Retention may remove it at any moment; the outcome goes its way without it.
                with suppress(FileNotFoundError):
                    self._put(f"{key}/{os.path.basename(path)}", _content(path))
        self._put(f"{key}.json", encode(message.document))

    def probe(self) -> str:
        """See ``Sink``. What it writes is overwritten by the next test."""
        key = f"{self._settings.prefix}dfwatch-test.json"
        self._put(key, encode(sample(TEST_KEY)))
        return f"wrote {key} into {self._settings.bucket}"

    def close(self) -> None:
        """See ``Sink``."""
        if self._client is not None:
            with suppress(Exception):
                self._client.close()
            self._client = None

    def _put(self, key: str, body: bytes) -> None:
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        try:
            self._connect().put_object(Bucket=self._settings.bucket, Key=key, Body=body, ContentType=kind)
        except (self._exceptions.ClientError, self._exceptions.BotoCoreError, OSError, ValueError) as exc:
            self.close()
            raise SinkError("writing to the bucket", self._settings.bucket, exc) from exc

    def _connect(self) -> Any:  # noqa: ANN401 - boto3's, which need not be installed
        if self._client is None:
            settings = self._settings
            more: dict[str, Any] = {}
            if settings.access_key_id:
                more["aws_access_key_id"] = settings.access_key_id
                more["aws_secret_access_key"] = read_secret(settings.secret_access_key)
            # A session of its own: the default one of boto3 is shared by the whole process and not safe for threads.
            self._client = self._boto3.session.Session().client(
                "s3",
                endpoint_url=settings.endpoint_url or None,
                region_name=settings.region or None,
                config=self._config,
                **more,
            )
        return self._client


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise SinkError("reading", path, exc.strerror or exc) from exc


def evidence_files(message: Message) -> list[str]:
    """Paths of the outcome's evidence: the files of its folder beside the sidecar; none where that is gone."""
    evidence = message.document.get("evidence")
    folder = "" if not evidence else os.path.basename(evidence["folder"])
    if not folder or not message.sidecar:
        return []
    top = os.path.join(os.path.dirname(message.sidecar), folder)
    try:
        with os.scandir(top) as entries:
            return sorted(entry.path for entry in entries if entry.is_file(follow_symlinks=False))
    except OSError:
        return []
