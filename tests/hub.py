"""A hub on this machine: the addresses that the hub's own client asks, answered from folders.

`hub = Hub(); hub.add("someone/model", FOLDER)` serves a repository; `hub.answers[...]` makes it
fail as the real one does: a status with its headers, or a silence of so many seconds.
"""

import hashlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASKED = re.compile(r"/api/(?:models|datasets)/(\w+/[\w-]+)(?:/(revision|tree)/([^/?]+))?")
FILE = re.compile(r"/(\w+/[\w-]+)/resolve/([^/]+)/([^?]+)")


class Hub:
    """Serves until it is closed.

    Attributes:
        address: For `HF_ENDPOINT`.
        answers: `(status, headers, seconds)` by a part of the address, before anything else.
        asked: Addresses that were asked for, in order.
    """

    def __init__(self):
        self.folders, self.answers, self.asked = {}, {}, []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, name, folder):
        """Serve a folder under a name."""
        self.folders[name] = folder

    def close(self):
        """Stop, so that nothing answers at the address any more."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        """What the hub says to one request."""
        self.asked.append(request.path)
        for part, (status, headers, seconds) in self.answers.items():
            if part in request.path:
                time.sleep(seconds)
                return say(request, status, b"", headers)
        if found := ASKED.match(request.path):
            return self.tell(request, *found.groups())
        if found := FILE.match(request.path):
            return self.give(request, *found.groups())
        return say(request, 404, b"")

    def tell(self, request, name, what, revision):
        """Facts of a repository, or its files."""
        if name not in self.folders:  # as the hub says it to those without a token
            return say(request, 401, b"", {"X-Error-Message": "Invalid username or password."})
        if revision not in (None, "main", COMMIT):
            return say(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
        folder = self.folders[name]
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        if what == "tree":
            told = [{"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size,
                     "oid": hashlib.sha1(p.read_bytes()).hexdigest()} for p in files]  # fmt: skip
        else:
            told = {"id": name, "sha": COMMIT, "siblings": []}
        return say(request, 200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def give(self, request, name, revision, path):
        """A file of a repository."""
        if name not in self.folders or revision not in ("main", COMMIT):
            missing = "RepoNotFound" if name not in self.folders else "RevisionNotFound"
            return say(request, 404, b"", {"X-Error-Code": missing})
        file = self.folders[name] / path
        if not file.is_file():
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return say(request, 404, b"", headers)
        body = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(body).hexdigest()}"'}
        return say(request, 200, body, headers)


def say(request, status, body, headers=()):
    """Send an answer; who asked may be gone by then."""
    try:
        request.send_response(status)
        for key, value in {"Content-Length": len(body), **dict(headers)}.items():
            request.send_header(key, str(value))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)
    except OSError:
        pass
