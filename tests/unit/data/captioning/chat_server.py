"""A server of chat completions over HTTP that fails as it is told to, and counts what it is asked."""

import base64
import io
import json
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

MODEL = "some-org/vision-9b"
CAPTION = "A ball of level {} rolls to the left."


class ChatServer:
    """What the handler asks and tells: `faults` is called with a shot's number and how often it came before."""

    def __init__(self, faults):
        self.faults = faults
        self.asked, self.answered = Counter(), Counter()
        self.bodies, self.headers, self.models_asked = [], [], 0
        self.models = [MODEL, "other"]
        self.most_at_once = self._at_once = 0
        self.lock = threading.Lock()
        self.url = ""
        self.before_answer = lambda number: None
        self.is_over = threading.Event()

    def fault_of(self, body, headers):
        number = shot_number(body)
        with self.lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.asked[number] += 1
            return number, self.faults(number, self.asked[number] - 1)

    @contextmanager
    def counted(self):
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1


def pictures_of(body):
    parts = body["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert parts[-1]["type"] == "text"
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def shot_number(body):
    return round(float(pictures_of(body)[0].mean()))


def completion(content, finish_reason="stop", **message):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish_reason,
    }
    return {"model": MODEL, "choices": [choice], "usage": {"prompt_tokens": 900, "completion_tokens": 12}}


def answer_to(number, fault):
    """Of a fault that is no failure of the server: what the model says."""
    caption = CAPTION.format(number)
    return {
        None: completion(caption),
        "refusal": completion("I'm sorry, but I can't describe these frames."),
        "refusal field": completion(None, refusal="This is against our rules."),
        "content_filter": completion("A ball", "content_filter"),
        "empty": completion(""),
        "null": completion(None),
        "cut answer": completion(caption + " It then", "length"),
        "cut at once": completion("A ball that", "length"),
        "think": completion(f"<think>\nA cube? I cannot say.\n</think>\n\n{caption}"),
        "only thinking": completion("<think>\nA cube? I cannot", "length"),
        "parts": completion([{"type": "text", "text": "A ball of level "}, {"type": "text", "text": caption[16:]}]),
        "thinking parts": completion(
            [{"type": "thinking", "thinking": [{"text": "A cube?"}]}, {"type": "text", "text": caption}]
        ),
        "thinking beside": completion(caption, reasoning_content="A cube? I cannot say."),
        "thinking alone": completion(None, reasoning_content=caption),
        "cut thinking": completion(None, "length", reasoning="A cube? I cannot"),
        "repeats": completion("a ball and a ball and a ball and a ball and a ball and", "length"),
    }[fault]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state = self.server.state
        with state.lock:
            state.models_asked += 1
            state.headers.append(dict(self.headers))
        if isinstance(state.models, list):
            self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in state.models]})
        else:
            self.send(state.models, {"error": {"message": "no such page"}})

    def do_POST(self):
        state = self.server.state
        with state.counted():
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number, fault = state.fault_of(body, dict(self.headers))
            if isinstance(fault, tuple):  # a status, a body, and headers
                self.send(*fault)
            elif fault == "hang":
                state.is_over.wait(20)
                self.close_connection = True
            elif fault == "reset":
                self.close_connection = True
            elif fault == "cut body":
                self.send(200, json.dumps(completion("A ball")).encode()[:40], {"Content-Length": "4000"})
                self.close_connection = True
            elif fault == "no json":
                self.send(200, b"<html>Welcome to the proxy</html>")
            elif fault == "no choices":
                self.send(200, {"choices": []})
            elif fault == "abort":
                self.send(200, completion("A ball of", "abort"))
            else:
                state.before_answer(number)
                with state.lock:
                    state.answered[number] += 1
                self.send(200, answer_to(number, fault))

    def send(self, status, body=b"", headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def error(status, message, **headers):
    return status, {"error": {"message": message}}, {name.replace("_", "-"): value for name, value in headers.items()}


def http_date(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # or connections wait for a second

    def handle_error(self, *_):
        """Of those who give up and close."""


@contextmanager
def serving(faults=lambda number, before: None):
    server = _Server(("127.0.0.1", 0), Handler)
    server.state = state = ChatServer(faults)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield state
    finally:
        state.is_over.set()
        server.shutdown()
        server.server_close()
