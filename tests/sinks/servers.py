"""The servers that sinks deliver to, as processes that the tests kill and start."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import programs
from tests.servers import DEADLINE_S, Server
from tests.sinks.receiver import Received, kept_in


@contextmanager
def black_hole_first(monkeypatch: pytest.MonkeyPatch, port: int) -> Iterator[None]:
    """``localhost`` has two addresses: at the first nothing answers, as with a broken IPv6; the second is 127.0.0.1."""
    real = socket.getaddrinfo

    def known(host: Any, asked: Any, *rest: Any, **more: Any) -> Any:
        if host != "localhost":
            return real(host, asked, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", known)
    with ExitStack() as opened:
        # Where nobody accepts and the line is full, Linux leaves further attempts without an answer.
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            caller = opened.enter_context(socket.socket())
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(("127.0.0.2", port))
        yield


class Postgresql(Server):
    def __init__(self) -> None:
        super().__init__("postgres")
        self.postgres = programs.require("/usr/lib/postgresql/*/bin/postgres", "postgres")
        self.password = "hunter2-of-postgres"
        (self.folder / "password").write_text(self.password)
        (self.folder / "password").chmod(0o644)
        subprocess.run(
            [
                os.path.join(os.path.dirname(self.postgres), "initdb"),
                *("--pgdata", str(self.folder / "data")),
                *("--username", "dfwatch", "--auth", "scram-sha-256", "--pwfile", str(self.folder / "password")),
                *("--no-sync", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self.as_user,
        )
        self.start()

    def command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",  # only this process is killed, not the machine
            "shared_buffers": "16MB",
        }
        return [
            self.postgres,
            *("-D", str(self.folder / "data")),
            *(f"--{name}={value}" for name, value in options.items()),
        ]

    def ready(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError), psycopg.connect(f"{self.conninfo} password={self.password}"):
            return True
        return False

    @property
    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} dbname=postgres user=dfwatch"


class Mosquitto(Server):
    def __init__(self) -> None:
        super().__init__()
        self.mosquitto = programs.require("mosquitto")
        self.password = "hunter2-of-mosquitto"
        passwords = self.folder / "passwords"
        subprocess.run(
            [programs.require("mosquitto_passwd"), "-b", "-c", str(passwords), "dfwatch", self.password],
            check=True,
            capture_output=True,
        )
        (self.folder / "acl").write_text("user dfwatch\ntopic readwrite news/#\n")
        # As root it would become another user, who may not read this folder.
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name}\n"
        (self.folder / "conf").write_text(
            f"{user}listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
            f"acl_file {self.folder / 'acl'}\n"
            # Written at each change: a broker that is killed still knows its subscribers and what waits for them.
            f"persistence true\npersistence_location {self.folder}/\nautosave_on_changes true\nautosave_interval 1\n"
        )
        self.start()

    def command(self) -> list[str]:
        return [self.mosquitto, "-c", str(self.folder / "conf")]


class Redis(Server):
    def __init__(self) -> None:
        super().__init__()
        self.redis = programs.require("redis-server")
        self.password = "hunter2-of-redis"
        self.start()

    def command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "requirepass": self.password,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        return [self.redis, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def ready(self) -> bool:
        import redis

        client = redis.Redis(port=self.port, password=self.password)
        with suppress(redis.RedisError):
            return bool(client.ping())
        return False


class ReceiverProcess(Server):
    """``receiver.py``, with what it kept.

    Args:
        certificate: File with its private key and certificate; None for HTTP without TLS.
    """

    def __init__(self, certificate: str | None = None) -> None:
        super().__init__()
        self.certificate = certificate
        self.start()

    def command(self) -> list[str]:
        script = Path(__file__).with_name("receiver.py")
        more = [self.certificate] if self.certificate else []
        return [sys.executable, "-I", str(script), str(self.folder / "kept"), str(self.port), *more]

    @property
    def requests(self) -> list[Received]:
        return kept_in(self.folder / "kept")


class Moto(Server):
    """moto's server. It keeps everything in memory; its recorder brings back what it had done before it was killed."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = self.folder / "recording"
        self.start()

    def command(self) -> list[str]:
        return [
            *("/usr/bin/env", "MOTO_ENABLE_RECORDING=1", f"MOTO_RECORDER_FILEPATH={self.recording}"),
            *(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)),
        ]

    def start(self) -> None:
        import urllib3

        recorded = self.recording.read_bytes().split(b"\n")[:-1] if self.recording.exists() else []
        # Looking on changes nothing, and a request that it died over got no answer.
        changes = [line for line in recorded if json.loads(line)["method"] in {"PUT", "POST"}]
        self.recording.write_bytes(b"".join(line + b"\n" for line in changes))
        super().start()
        answer = urllib3.request(
            "POST",
            f"http://127.0.0.1:{self.port}/moto-api/recorder/replay-recording",
            timeout=DEADLINE_S,
            retries=False,
        )
        assert answer.status == 200, answer.data
