"""A small HTTP listener for whoever asks how the daemon is: ``/metrics``, ``/healthz``, ``/readyz``."""

from __future__ import annotations

import json
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final

import structlog

from dfwatch.operation.addresses import split_address
from dfwatch.operation.vitals import why_not_alive, why_not_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from dfwatch.operation.vitals import Vitals

_log = structlog.get_logger(__name__)

_RETRY_S: Final = 10.0
_REQUEST_TIMEOUT_S: Final = 10.0
_JSON: Final = "application/json"

Answer = tuple[HTTPStatus, str, bytes]


class Listener:
    """Serves on one address, from threads of its own; an address that is taken is tried again.

    Args:
        address: Host and port, as ``split_address`` takes them; port 0 takes a free one.
        vitals: How the daemon is; asked at each request.
        exposition: What ``/metrics`` answers.
        content_type: Its type.
    """

    def __init__(
        self, address: str, vitals: Callable[[], Vitals], exposition: Callable[[], bytes], content_type: str
    ) -> None:
        self._host, self._port = split_address(address)
        self._vitals = vitals
        self._exposition = exposition
        self._content_type = content_type
        self._server: ThreadingHTTPServer | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-http", daemon=True)

    def start(self) -> None:
        """Listen from now on. Never fails: what the daemon is there for does not depend on who watches it."""
        self._server = self._bind()
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        while self._thread.is_alive():
            if self._server is not None:
                self._server.shutdown()
            self._thread.join(0.2)
        if self._server is not None:
            self._server.server_close()

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port in use; None while the address is taken by somebody else."""
        server = self._server
        return None if server is None else (str(server.server_address[0]), int(server.server_address[1]))

    def _bind(self) -> ThreadingHTTPServer | None:
        try:
            server = _Server((self._host, self._port), self._handler())
        except OSError as error:
            _log.error(
                "the metrics cannot be served; tried again",
                address=f"{self._host}:{self._port}",
                cause=error.strerror,
                hint="another program may use the port; under systemd the drop-in 'network' is needed",
            )
            return None
        _log.info("serving metrics and health", address=f"{self._host}:{server.server_address[1]}")
        return server

    def _run(self) -> None:
        while self._server is None:
            if self._ended.wait(_RETRY_S):
                return
            self._server = self._bind()
        # Even when it was closed meanwhile: ``shutdown`` waits for this call to end.
        self._server.serve_forever(poll_interval=0.2)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        routes: dict[str, Callable[[], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": lambda: _told(why_not_alive(self._vitals())),
            "/readyz": lambda: _told(why_not_ready(self._vitals())),
        }

        class Handler(_Handler):
            answers = routes

        return Handler

    def _metrics(self) -> Answer:
        return HTTPStatus.OK, self._content_type, self._exposition()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # The base class looks its own name up, which takes long where there is no name server.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's own
        """A client that hangs up is nobody's concern."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server_version = "dfwatch"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    answers: dict[str, Callable[[], Answer]]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        answer = self.answers.get(self.path.partition("?")[0])
        if answer is None:
            status, kind, content = HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /healthz /readyz\n"
        else:
            status, kind, content = answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's own
        pass


def _told(reasons: list[str]) -> Answer:
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    # In ASCII: a reason may hold a path that is no Unicode.
    text = json.dumps({"ok": not reasons, "reasons": reasons}) + "\n"
    return status, _JSON, text.encode("ascii")
