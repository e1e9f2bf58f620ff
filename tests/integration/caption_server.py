"""A server of OpenAI's chat completions for tests, over real HTTP: it counts how often it was shown the same frames."""

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class CaptionServer:
    """Answers with a caption of its own for each shot; as a context it is there.

    `before_answer(number)` is called with the number of each question, from 1, and may return an HTTP status to
    answer with in its place.
    """

    def __init__(self, before_answer=lambda number: None):
        self.before_answer = before_answer
        self.asked = Counter()
        self.captions = {}
        self._lock = threading.Lock()
        self._number = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(200, {"data": [{"id": "test-model"}]})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = server.answer(json.loads(body))
                self.reply(status, answer)

            def reply(self, status, answer):
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, question):
        """(status, body) for a question; the same frames get the same caption."""
        content = question["messages"][-1]["content"]
        shown = "".join(part["image_url"]["url"] for part in content if part["type"] == "image_url")
        key = hashlib.sha256(shown.encode()).hexdigest()
        with self._lock:
            self._number += 1
            number = self._number
        if status := self.before_answer(number):
            return status, {"error": {"message": "no"}}
        with self._lock:
            self.asked[key] += 1
            caption = self.captions.setdefault(key, f"A shape called {key[:8]} moves over plain ground.")
        choice = {"message": {"role": "assistant", "content": caption}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 12}
        return 200, {"model": "test-model", "choices": [choice], "usage": usage}
