"""Serves a web page and its files behind a token in the address, and takes what it posts."""

import ipaddress
import queue
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any

_MAX_BODY = 64 * 1024  # bytes
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
_HEADERS = {
    # The two that let a browser give the page a clock with finer steps, from localhost.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The token is in the address.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """Serves files by name below ``/TOKEN/``, and takes what is posted to one name.

    A request whose ``Host`` is not this server's gets the status 403, so that no other page's
    name can be rebound to it; so does one without the token. There is no folder behind the names:
    one that is not in ``files`` gets 404.

    Args:
        host: The IPv4 address, or name of one, to listen on.
        port: The port; 0 takes any that is free.
        files: Contents, or functions that return them, by name. The page is ``""``.
        policy: The page's ``Content-Security-Policy``.
        post_to: The name to which can be posted.
        parse: Parses what was posted; raises ValueError for what is answered with the status 400.

    Attributes:
        token: The token that an address has to begin with.
        posted: What has been posted and parsed.

    Raises:
        OSError: The address cannot be listened on.
    """

    daemon_threads = True

    def __init__(
        self,
        host: str,
        port: int,
        files: Mapping[str, bytes | Callable[[], bytes]],
        policy: str,
        post_to: str,
        parse: Callable[[bytes], Any],
    ) -> None:
        self.token = secrets.token_urlsafe(16)
        self.host = host.lower()
        self.files = files
        self.policy = policy
        self.post_to = post_to
        self.parse = parse
        self.posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(f"--host {host} --port {port}: cannot listen there: {reason}") from error

    @property
    def is_local(self) -> bool:
        """Returns whether only this machine can reach the server."""
        return ipaddress.ip_address(self._address).is_loopback

    @property
    def url(self) -> str:
        """Returns the page's address with its token."""
        anywhere = ipaddress.ip_address(self._address).is_unspecified
        host = _own_address() if anywhere else self._address
        return f"http://{host}:{self.server_port}/{self.token}/"

    def hosts(self, address: str) -> set[str]:
        """Lists the ``Host`` headers allowed in a request to an address of this machine."""
        # A browser sends a number only if it was sent to that number; names are the danger.
        names = {address, self.host}
        if ipaddress.ip_address(address).is_loopback:
            names.add("localhost")
        port = self.server_port
        return {f"{name}:{port}" for name in names} | (names if port == 80 else set())

    @property
    def _address(self) -> str:
        return str(self.server_address[0])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignores browsers that hang up; reports other errors."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 60  # seconds that a client may be silent

    def do_GET(self) -> None:
        name = self._name()
        if name is None:
            return
        if not name and not self.path.partition("?")[0].endswith("/"):
            # Lost on the way to a phone. Without it the page's own files are not below the token.
            place = {"Location": f"/{self.server.token}/"}
            self._answer(HTTPStatus.PERMANENT_REDIRECT, headers=place)
            return
        content = self.server.files.get(name)
        if content is None:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        headers = {"Content-Type": _TYPES.get(PurePosixPath(name).suffix, "application/x-binary")}
        if not name:
            headers["Content-Type"] = _TYPES[".html"]
            headers["Content-Security-Policy"] = self.server.policy
        body = content if isinstance(content, bytes) else content()
        self._answer(HTTPStatus.OK, body, headers)

    def do_POST(self) -> None:
        name = self._name()
        if name is None:
            return
        if name != self.server.post_to:
            self._answer(HTTPStatus.NOT_FOUND)
            return
        length = self.headers.get("Content-Length", "")
        # By its digits first: int() raises at more than 4,300 of them.
        short = len(length) <= len(str(_MAX_BODY))
        if not (short and length.isascii() and length.isdigit() and int(length) <= _MAX_BODY):
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        body = self.rfile.read(int(length))
        try:
            parsed = self.server.parse(body)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        self._answer(HTTPStatus.NO_CONTENT)
        # Not before the answer is out: whoever waits for it may end the process.
        self.server.posted.put(parsed)

    def _name(self) -> str | None:
        """Returns the name that is requested; None if the request has been refused."""
        hosts = self.headers.get_all("Host", [])
        allowed = self.server.hosts(self.connection.getsockname()[0])
        first, _, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        right = secrets.compare_digest(first.encode(), self.server.token.encode())
        if len(hosts) != 1 or hosts[0].lower() not in allowed or not right:
            self._answer(HTTPStatus.FORBIDDEN)
            return None
        return rest

    def _answer(
        self, status: HTTPStatus, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "tflite_export"

    def log_message(self, *_: object) -> None:
        """Says nothing: the terminal is for measurements."""


def _own_address() -> str:
    """Finds the address by which others on the network reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # An address for documentation. Connecting a datagram socket sends nothing; it only
            # chooses the way out.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
