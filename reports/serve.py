"""A page and the files beside it on a local port, each made at its first request and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Make = Callable[[], bytes]
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "png": "image/png"}


class Server(ThreadingHTTPServer):
    """Serves ``files`` (name to what makes it) and nothing else, to this machine alone.

    A request under another host's name is refused, so that no web page elsewhere can read along. Making is
    done by one thread at a time: drawing libraries want it so.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, Make], port: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.files, self.made, self.lock = files, dict[str, bytes](), threading.Lock()

    @property
    def address(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/"

    def content(self, name: str) -> bytes | None:
        """A file's bytes; None if there is none of that name."""
        with self.lock:
            if name not in self.made and name in self.files:
                self.made[name] = self.files[name]()
            return self.made.get(name)


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        name = urlsplit(self.path).path.lstrip("/") or "index.html"
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost", self.server.server_address[0]):
            self.send_error(403, "ask for 127.0.0.1 or localhost")
        elif name == "favicon.ico":
            self._answer(204, "image/png", b"")
        elif (content := self.server.content(name)) is None:
            self.send_error(404)
        else:
            self._answer(200, TYPES[name.rpartition(".")[2]], content)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""
