"""s3 with moto's server in a process of its own."""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.s3 import S3Settings, S3Sink
from dfwatch.sinks.testing import Destination, SinkContract, message, with_values
from tests.sinks.servers import Moto

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto.server")

SECRET = "hunter2-of-the-bucket"


class Bucket(Destination):
    def __init__(self, server: Moto, folder: Path) -> None:
        self.server = server
        self.secret = folder / "secret"
        self.secret.write_text(f"{SECRET}\n")
        self.name = f"bucket-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=self.name)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @functools.cache  # noqa: B019 - making one takes longer than the test, which the bucket does not outlive
    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key=SECRET,
        )

    @property
    def settings(self) -> S3Settings:
        return S3Settings(
            bucket=self.name,
            endpoint_url=self.url,
            region="us-east-1",
            access_key_id="testing",
            secret_access_key=f"file:{self.secret}",
            timeout_s=3.0,
        )

    def objects(self) -> dict[str, bytes]:
        client = self.client()
        listed = client.list_objects_v2(Bucket=self.name).get("Contents", [])
        listed.sort(key=lambda entry: entry["Key"])
        return {entry["Key"]: client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read() for entry in listed}

    def received(self) -> list[dict[str, Any]]:
        if self.server.process is None:
            return []
        documents = [json.loads(body) for body in self.objects().values()]
        return [{**document, "name": document["subject"]["name"]} for document in documents]

    def secrets(self) -> list[str]:
        return [SECRET]

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    made = Moto()
    yield made
    made.remove()


@pytest.fixture
def bucket(server: Moto, tmp_path: Path) -> Bucket:
    if server.process is None:
        server.start()
    return Bucket(server, tmp_path)


class TestS3Contract(SinkContract):
    deduplicates = True

    @pytest.fixture
    def destination(self, bucket: Bucket) -> Destination:
        return bucket


def test_object_is_the_sidecar_under_its_day(bucket: Bucket) -> None:
    sink = S3Sink(bucket.settings)
    sink.deliver(message(1))
    sink.close()
    ((key, body),) = bucket.objects().items()
    assert key == f"dfwatch/2026/01/02/{message(1).key}.json"
    assert json.loads(body) == message(1).document
    assert bucket.client().head_object(Bucket=bucket.name, Key=key)["ContentType"] == "application/json"


def test_evidence_goes_along_if_wanted(bucket: Bucket, tmp_path: Path) -> None:
    folder = tmp_path / "clip.mp4.evidence"
    folder.mkdir()
    (folder / "report.html").write_text("<p>look</p>")
    (folder / "frame-1.jpg").write_bytes(b"picture")
    (folder / "link.jpg").symlink_to("/etc/hostname")
    plain = message(1)
    document = {**plain.document, "evidence": {"folder": folder.name, "report": "report.html", "frames": []}}
    sent = replace(plain, document=document, sidecar=str(tmp_path / "clip.mp4.json"))
    sink = S3Sink(with_values(bucket.settings, evidence=True))  # type: ignore[arg-type]
    sink.deliver(sent)
    top = f"dfwatch/2026/01/02/{plain.key}"
    found = bucket.objects()
    assert json.loads(found.pop(f"{top}.json")) == document
    assert found == {f"{top}/frame-1.jpg": b"picture", f"{top}/report.html": b"<p>look</p>"}
    kind = bucket.client().head_object(Bucket=bucket.name, Key=f"{top}/report.html")["ContentType"]
    assert kind == "text/html"
    # Evidence that was pruned meanwhile does not hold up the outcome.
    sink.deliver(replace(sent, key=message(2).key, sidecar="/nowhere/clip.mp4.json"))
    sink.close()
    assert f"dfwatch/2026/01/02/{message(2).key}.json" in bucket.objects()


def test_bucket_that_is_not_there(bucket: Bucket) -> None:
    sink = S3Sink(with_values(bucket.settings, bucket="nobodys"))  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="NoSuchBucket") as caught:
        sink.deliver(message(1))
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"bucket": ""}, "bucket"),
        ({"access_key_id": "x"}, "access_key_id"),
        ({"access_key_id": "x", "secret_access_key": "hunter2"}, "secret_access_key"),
        ({"endpoint_url": "s3.example.org"}, "endpoint_url"),
        ({"endpoint_url": "https://[::1"}, "endpoint_url"),
        ({"endpoint_url": "https://s3.example.org:x"}, "endpoint_url"),
        ({"endpoint_url": "https://s3.example.org:99999"}, "endpoint_url"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], setting: str) -> None:
    ((name, cause, hint),) = with_values(S3Settings(bucket="x"), **changes).problems()
    assert name == setting
    assert "hunter2" not in cause + hint
