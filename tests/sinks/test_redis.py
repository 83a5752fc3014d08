"""redis with a real server that writes each command to disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfwatch.errors import SinkError
from dfwatch.sinks.redis_stream import RedisSettings, RedisSink
from dfwatch.sinks.testing import Destination, SinkContract, message, with_values
from tests.sinks.servers import Redis

redis = pytest.importorskip("redis")


class Stream(Destination):
    def __init__(self, folder: Path) -> None:
        self.server = Redis()
        self.password = folder / "password"
        self.password.write_text(f"{self.server.password}\n")

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(
            url=f"redis://127.0.0.1:{self.server.port}/0", password=f"file:{self.password}", timeout_s=3.0
        )

    def client(self) -> Any:
        return redis.Redis(port=self.server.port, password=self.server.password, decode_responses=True)

    def received(self) -> list[dict[str, Any]]:
        if self.server.process is None:
            return []
        found = []
        with self.client() as client:
            for _, entry in client.xrange("dfwatch:outcomes"):
                document = json.loads(entry["document"])
                assert entry["key"] == document["job_id"]
                assert (entry["verdict"], entry["status"]) == (document["verdict"] or "", document["status"])
                found.append({**document, "name": document["subject"]["name"]})
        return found

    def secrets(self) -> list[str]:
        return [self.server.password]

    def stop(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    made = Stream(tmp_path)
    yield made
    made.server.remove()


class TestRedisContract(SinkContract):
    @pytest.fixture
    def destination(self, stream: Stream) -> Destination:
        return stream


def test_stream_is_kept_short(stream: Stream) -> None:
    sink = RedisSink(with_values(stream.settings, max_entries=100))  # type: ignore[arg-type]
    for number in range(350):
        sink.deliver(message(number))
    sink.close()
    keys = [record["job_id"] for record in stream.received()]
    assert 100 <= len(keys) < 300
    assert keys[-1] == message(349).key


def test_wrong_password_and_key_of_another_kind(stream: Stream) -> None:
    with stream.client() as client:
        client.set("taken", "x")
    sink = RedisSink(with_values(stream.settings, stream="taken"))  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="holds a string"):
        sink.probe()
    with pytest.raises(SinkError, match="WRONGTYPE"):
        sink.deliver(message(1))
    stream.password.write_text("hunter3")
    with pytest.raises(SinkError, match="invalid username-password") as caught:
        sink.deliver(message(1))
    assert "hunter3" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"url": "http://x"}, "url"),
        ({"url": "redis://[::1"}, "url"),
        ({"url": "redis://x:hunter2/0"}, "url"),
        ({"url": "rediss://x:99999/0"}, "url"),
        ({"url": "redis://a b/0"}, "url"),
        ({"url": "redis://:hunter2@x:1/0"}, "url"),
        ({"url": "redis://x:1/0?password=hunter2"}, "url"),
        ({"url": "redis://x:1/outcomes"}, "url"),
        ({"url": "redis://x:1/0", "ca_file": "/etc/ssl/ca.pem"}, "ca_file"),
        ({"password": "hunter2"}, "password"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], setting: str) -> None:
    ((name, cause, hint),) = with_values(RedisSettings(url="redis://x"), **changes).problems()
    assert name == setting
    assert "hunter2" not in cause + hint


@pytest.mark.parametrize("url", ["redis:///0", "redis://x", "rediss://[::1]:6379/0", "unix:///run/redis.sock?db=1"])
def test_urls_that_are_taken(url: str) -> None:
    assert RedisSettings(url=url).problems() == []


def test_url_that_redis_does_not_understand_is_an_error_like_any_other() -> None:
    sink = RedisSink(RedisSettings(url="redis://127.0.0.1:1/0?db=first"))
    with pytest.raises(SinkError) as caught:
        sink.deliver(message(1))
    assert caught.value.retryable
    with pytest.raises(SinkError):
        sink.probe()
