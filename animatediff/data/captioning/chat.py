"""OpenAI's chat completions: what is sent of a shot, and what an answer says."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from animatediff.data.captioning.captions import Answer, CaptionReason, Usage
from animatediff.errors import printed

_JPEG_QUALITY = 90
_MOST_DETAIL = 300
_MODERATION = re.compile(
    r"content[_ ](?:filter|policy|management)|moderation|flagged|safety system|data_inspection", re.I
)


_BROKEN_OFF = ("abort", "error")
"""What SGLang, vLLM and gateways call the end of an answer that they did not finish."""
_THINKING_PARTS = ("thinking", "reasoning")
_WITHOUT_THINKING = (
    "start the server without a reasoning parser, or have it think less with captions.extra_body: "
    "{chat_template_kwargs: {enable_thinking: false}}"
)


def picture_urls(frames: np.ndarray) -> list[str]:
    """Return frames, (f h w 3) uint8 RGB, as JPEGs in data URIs, which every server takes."""
    return [f"data:image/jpeg;base64,{base64.b64encode(_jpeg(frame)).decode()}" for frame in frames]


def _jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def spread(items: Sequence[str], most: int) -> list[str]:
    """Return at most so many of the items, from the middles of equal stretches."""
    number = min(most, len(items))
    return [items[int((i + 0.5) * len(items) / number)] for i in range(number)]


def request_body(model: str, prompt: str, pictures: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request that shows pictures, in order, and asks about them."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in pictures]
    parts.append({"type": "text", "text": prompt})
    # Some gateways stream unless they are told not to.
    return {"model": model, "messages": [{"role": "user", "content": parts}], "stream": False, **options}


class NoAnswerError(ValueError):
    """What the server sent is no answer."""

    def __init__(self, status: int, detail: str) -> None:
        """Keep the HTTP status that it amounts to."""
        super().__init__(detail)
        self.status = status


def read_answer(content: bytes, shot_id: str, model: str) -> Answer:
    """Read the body of a successful response.

    Args:
        content: the body.
        shot_id: whose it is.
        model: the name that was asked for; the server may tell a longer one.

    Raises:
        NoAnswerError: it is cut, no JSON, has no answer in it, or tells an error.
    """
    body = _json(content)
    # An error of its own kind is the whole body, or stands in the choice that it broke off.
    error = body if body.get("object") == "error" else body.get("error")
    if error:
        raise NoAnswerError(_status(error), error_message(content))
    try:
        choice = body["choices"][0]
        if choice.get("finish_reason") in _BROKEN_OFF:
            error = choice.get("error")
            detail = error_message(json.dumps({"error": error}).encode()) if error else _start(content)
            raise NoAnswerError(_status(error), f"an answer that was broken off: {detail}")
        message = choice["message"]
        text = _text(message.get("content"))
        refusal = message.get("refusal")
        thoughts = message.get("reasoning_content") or message.get("reasoning")
    except (KeyError, IndexError, TypeError, AttributeError) as missing:
        raise NoAnswerError(500, f"a response without an answer: {_start(content)}") from missing
    usage = body.get("usage")
    answer = Answer(
        shot_id,
        text,
        printed(told) if isinstance(told := body.get("model"), str) and told else model,
        is_cut=choice.get("finish_reason") == "length",
        usage=Usage(_count(usage, "prompt_tokens"), _count(usage, "completion_tokens")),
    )
    if choice.get("finish_reason") == "content_filter" or (isinstance(refusal, str) and refusal.strip()):
        detail = _start(refusal.encode()) if isinstance(refusal, str) and refusal else "by the server's content filter"
        return Answer(shot_id, "", answer.model, reason=CaptionReason.REFUSED, detail=detail, usage=answer.usage)
    if thoughts and not text.strip() and not answer.is_cut:
        detail = "all that it said was taken for its thinking (reasoning_content): " + _WITHOUT_THINKING
        return Answer(shot_id, "", answer.model, reason=CaptionReason.EMPTY, detail=detail, usage=answer.usage)
    return answer


def read_models(content: bytes) -> list[str]:
    """Return the names of the models that a server lists.

    Raises:
        NoAnswerError: it is no such list.
    """
    models = _json(content).get("data")
    if not isinstance(models, list):
        raise NoAnswerError(500, f"no list of models: {_start(content)}")
    return [model["id"] for model in models if isinstance(model, Mapping) and isinstance(model.get("id"), str)]


def error_message(content: bytes) -> str:
    """Return what the body of a failed response says, on one line."""
    try:
        said: Any = json.loads(content)
    except (ValueError, RecursionError):
        return _start(content)
    # {"error": {"message": ...}}, {"error": ...}, {"message": ...} and FastAPI's {"detail": ...} are in use.
    for key in ("error", "message", "detail", "msg"):
        if isinstance(said, list) and said:
            said = said[0]
        if isinstance(said, Mapping) and said.get(key):
            # FastAPI says what is wrong, and where apart from it.
            place = [str(part) for part in said["loc"]] if isinstance(said.get("loc"), list) and key == "msg" else []
            said = ": ".join([".".join(place), str(said[key])]) if place else said[key]
    return _start(said.encode(errors="replace") if isinstance(said, str) else content)


def is_moderation(message: str) -> bool:
    """Whether an error is the server's refusal of the pictures, rather than of the request."""
    return _MODERATION.search(message) is not None


def _json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoAnswerError(500, f"a response that is cut or no JSON: {_start(content)}") from error
    if not isinstance(body, dict):
        raise NoAnswerError(500, f"a response that is no JSON object: {_start(content)}")
    return body


def _text(content: Any) -> str:
    """Return the text of a message, of one with parts as well; null is none."""
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else _text_of_part(part) for part in content)
    if not isinstance(content, str | None):
        raise TypeError(content)
    return content or ""


def _text_of_part(part: Mapping[str, Any]) -> str:
    return "" if part.get("type") in _THINKING_PARTS else str(part.get("text") or "")


def _status(error: Any) -> int:
    """Return the HTTP status that an error inside a body amounts to: that of the server's own failure by default."""
    code = error.get("code") if isinstance(error, Mapping) else None
    code = int(code) if isinstance(code, str) and code.isdecimal() else code
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _start(content: bytes) -> str:
    return " ".join(printed(content[:10_000].decode(errors="replace")).split())[:_MOST_DETAIL] or "nothing"


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0
