"""An HTTP proxy before an object store that fails now and then: 500, 503, cut connections, slow answers."""

import http.client
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "503", "cut", "slow")


class FaultyProxy:
    """Forwards to `host:port`; a share of the requests fails, by a seeded draw in the order of their arrival."""

    def __init__(self, host, port, *, share, seed=0):
        self.counts = dict.fromkeys(FAULTS, 0)
        self.num_requests = 0
        self._rng, self._lock, self._share = random.Random(seed), threading.Lock(), share
        handler = type("Handler", (_Handler,), {"proxy": self, "target": (host, port)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fault_of(self, method, path):
        """The fault of the next request, or None."""
        del method, path
        with self._lock:
            self.num_requests += 1
            if self._rng.random() >= self._share:
                return None
            fault = self._rng.choice(FAULTS)
            self.counts[fault] += 1
            return fault

    def answered(self, method, path, num_bytes):
        """What the store has answered a request with."""

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class RefusingProxy(FaultyProxy):
    """Forwards to `host:port`, but refuses what is written below a key while `refusal` is a status and S3's code."""

    def __init__(self, host, port, *, key=""):
        super().__init__(host, port, share=0)
        self.refusal, self.key = None, key

    def fault_of(self, method, path):
        return self.refusal if method in ("PUT", "POST") and self.key in path else None


class CountingProxy(FaultyProxy):
    """Forwards to `host:port`, and keeps how many bytes each GET of a key was answered with."""

    def __init__(self, host, port):
        super().__init__(host, port, share=0)
        self.reads = []

    def answered(self, method, path, num_bytes):
        if method == "GET":
            self.reads.append((path, num_bytes))

    def take(self, key):
        """The sizes of the answers for a key since the last call."""
        sizes = [num_bytes for path, num_bytes in self.reads if path.partition("?")[0].endswith(key)]
        self.reads.clear()
        return sizes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy
    target: tuple

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault_of(self.command, self.path)
        if isinstance(fault, tuple):
            status, code = fault
            xml = f"<Error><Code>{code}</Code><Message>it says {code}</Message></Error>"
            self._answer(status, {"Content-Type": "application/xml"}, xml.encode())
            return
        if fault in ("500", "503"):
            self._answer(int(fault), {}, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")
            return
        if fault == "slow":
            time.sleep(1.0)
        status, headers, content = self._forward(body)
        self.proxy.answered(self.command, self.path, len(content))
        if fault == "cut" and self.command == "GET" and len(content) > 1:
            # The whole length is promised, half of it comes.
            self._answer(status, headers, content[: len(content) // 2], promised=len(content))
            self.close_connection = True
            return
        self._answer(status, headers, content)

    # The names that http.server calls.
    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815

    def _forward(self, body):
        connection = http.client.HTTPConnection(*self.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def _answer(self, status, headers, content, promised=None):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", str(length or promised or len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass
