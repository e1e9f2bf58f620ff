"""A web server for a folder that wants a user and a token, whichever; it refuses what lies below a status."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class _Handler(SimpleHTTPRequestHandler):
    def send_head(self) -> Any:
        """Answer with the status that the first folder names, if it names one."""
        url = urlsplit(self.path)
        first = url.path.split("/")[1]
        if first.isdigit() or "token=" not in url.query or "Authorization" not in self.headers:
            self.send_error(int(first) if first.isdigit() else 401)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Leave out what servlets put behind a path."""
        return super().translate_path(path.partition(";")[0])

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: str) -> Iterator[int]:
    """Serve a folder on this machine; gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder))
    server.handle_error = lambda *_: None  # who asks for a part may not want the rest
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
