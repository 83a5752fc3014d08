"""An HTTP server that keeps in a file what it is sent: in a thread of a test, or as a process that a test kills.

As a process: ``python receiver.py FILE PORT [CERTIFICATE]``. It keeps a request before it answers, so whoever got an
answer can rely on it, and whoever got none may ask again. The standard library is all that it needs.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

Answer = Callable[["Handler"], tuple[int, dict[str, str]]]


class Received(NamedTuple):
    """One request that was answered with success; headers by their names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


def kept_in(path: Path) -> list[Received]:
    """What a receiver has kept, in order; a line that it died over does not count, and nobody got an answer to it."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [
        Received(entry["path"], entry["headers"], base64.b64decode(entry["body"])) for entry in map(json.loads, lines)
    ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers = self.server.answer(self)
        good = 200 <= status < 300
        if good:
            self.server.keep(Received(self.path, {name.lower(): text for name, text in self.headers.items()}, body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        text = b"" if good else b"no, because"
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class Receiver(ThreadingHTTPServer):
    """Listens from the start; ``answer`` says what it answers with: status and headers."""

    daemon_threads = True

    def __init__(self, kept: Path, port: int = 0, certificate: str | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake belongs to the thread of its connection: a client that says nothing must not stop the rest.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.kept = kept
        self.answer: Answer = lambda _handler: (204, {})
        self._keeping = threading.Lock()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def requests(self) -> list[Received]:
        return kept_in(self.kept)

    def keep(self, received: Received) -> None:
        entry = {**received._asdict(), "body": base64.b64encode(received.body).decode()}
        with self._keeping, self.kept.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.append(connection)
        return connection, address

    def handle_error(self, *_: object) -> None:
        pass

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


if __name__ == "__main__":
    Receiver(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4]).serve_forever()
