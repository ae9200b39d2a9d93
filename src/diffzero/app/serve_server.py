"""The page's server: the standard library's, with as many connections as memory allows."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from typing import Any

from .serve_desk import Desk

MOST_CONNECTIONS = 64


class Server(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers.

    Args:
        address: Host and port; port 0 takes a free one.
        handler: What answers a request.
        desk: Who answers questions.
        models: Names that may be asked for.
        names: Host names that the server goes by; None for any.
    """

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(
        self,
        address: tuple[str, int],
        handler: Any,
        desk: Desk,
        models: list[str],
        names: set[str] | None,
    ) -> None:
        self.desk, self.models, self.names = desk, models, names
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if there is room for one more."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server."""
