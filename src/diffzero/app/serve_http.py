"""What the page's server answers, with limits on everything that a stranger sends.

Nothing is fetched from elsewhere and nothing is written to disk. Requests are answered only for
hosts that the server goes by, which stops pages elsewhere that point their own name here, and
questions only with a header that other sites' pages may not send.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import DiffzeroError, InputError
from .serve_ask import Ask, choices, example
from .serve_desk import Busy, CalledOff, Job
from .serve_server import Server

MOST_BYTES = 10 * 2**20  # of a photo
PATIENCE = 20.0  # seconds for what a client should send at once
PAGE = {
    "/": ("serve.html", "text/html; charset=utf-8"),
    "/serve.css": ("serve.css", "text/css; charset=utf-8"),
    "/serve.js": ("serve.js", "text/javascript; charset=utf-8"),
}
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Handler(BaseHTTPRequestHandler):
    """One request a connection; answers to questions are lines of JSON, as they are known."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "diffzero", ""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what people ask is nobody's business."""

    def do_GET(self) -> None:
        """The page, its choices and its examples."""
        path = urlsplit(self.path).path
        if not self._known_host():
            return
        if path in PAGE:
            name, kind = PAGE[path]
            self._send(200, kind, (Path(__file__).parent / name).read_bytes())
        elif path == "/api/choices":
            self._json(200, choices(self.server.models, self.server.desk.clip))
        elif path.startswith("/api/example/"):
            try:
                self._send(200, "image/png", example(path.removeprefix("/api/example/"))[0])
            except InputError as error:
                self._json(404, {"error": str(error)})
        else:
            self._json(404, {"error": "No such page."})

    def do_POST(self) -> None:
        """A photo with a question, or a question called off."""
        url = urlsplit(self.path)
        fields = dict(parse_qsl(url.query, max_num_fields=20))
        if not self._known_host():
            return
        if self.headers.get("X-Diffzero") is None:
            self._json(403, {"error": "Requests must carry the header X-Diffzero."})
        elif url.path == "/api/cancel":
            self._json(200, {"cancelled": self.server.desk.cancel(fields.get("job", ""))})
        elif url.path in ("/api/classify", "/api/explain"):
            self._question(fields, url.path == "/api/explain")
        else:
            self._json(404, {"error": "No such page."})

    def _question(self, fields: dict[str, str], explain: bool) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or not int(length[:12]):
            self._json(411, {"error": "A photo was expected, with its length."})
        elif len(length) > 12 or int(length) > MOST_BYTES:
            self._json(413, {"error": f"The photo is larger than {MOST_BYTES >> 20} MB."})
        else:
            try:
                with self.server.desk.place(fields.get("job", "")) as job:
                    self._answer(job, self._photo(int(length)), fields, explain)
            except Busy as busy:
                self._json(503, {"error": str(busy)})

    def _photo(self, length: int) -> bytes:
        """The body, if it comes in time."""
        parts, left, until = [], length, time.monotonic() + 3 * PATIENCE
        while left:
            part = self.rfile.read1(min(left, 1 << 16))
            if not part or time.monotonic() > until:
                raise TimeoutError("the photo did not arrive in time")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _answer(self, job: Job, photo: bytes, fields: dict[str, str], explain: bool) -> None:
        try:
            ask = Ask.of(photo, fields, explain, self.server.models)
        except InputError as error:
            self._json(400, {"error": str(error)})
            return
        self._head(200, "application/x-ndjson")
        gone = (ConnectionError, TimeoutError)
        try:
            self.server.desk.answer(job, ask, self._tell)
        except gone:
            return
        except CalledOff:
            last = {"event": "cancelled"}
        except DiffzeroError as error:
            last = {"event": "error", "error": str(error)}
        except Exception as error:
            last = {"event": "error", "error": f"{type(error).__name__}: this is a bug; please "
                    "report it with what you asked."}  # fmt: skip
        else:
            last = {"event": "done"}
        with suppress(*gone):
            self._tell(last)

    def _tell(self, event: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(event).encode() + b"\n")
        self.wfile.flush()

    def _known_host(self) -> bool:
        host = urlsplit("//" + self.headers.get("Host", "")).hostname
        known = self.server.names is None or host in self.server.names
        if not known:
            self._json(403, {"error": "The server does not go by this name."})
        return known

    def _json(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self._head(status, kind, len(body))
        self.wfile.write(body)

    def _head(self, status: int, kind: str, length: int | None = None) -> None:
        self.close_connection = True
        self.send_response(status)
        headers = SAFE | {"Content-Type": kind, "Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
