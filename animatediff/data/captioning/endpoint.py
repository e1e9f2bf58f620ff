"""Captions by a server that speaks OpenAI's chat completions: vLLM, SGLang, and hosted ones."""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
from fsspec.asyn import get_loop, sync

from animatediff.data.captioning import chat
from animatediff.data.captioning.captions import Answer, CaptionReason, CaptionRequest
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.captioning.server import (
    Attempts,
    GivenUpError,
    ModeratedError,
    RejectedError,
    Server,
    TryAgainError,
)
from animatediff.errors import UserError

_log = logging.getLogger(__name__)

_GRACE_S = 5.0
"""For requests that are being answered while another finds that the server is of no use."""
_MOST_NAMES = 10
_NO_SUCH_PLACE = frozenset({404, 405, 410})
_BAD_REQUEST = frozenset({400, 413, 422})
_UNSUPPORTED = re.compile(r"support|unrecogni[sz]ed|unknown|unexpected|not permitted|extra", re.IGNORECASE)
_TOO_LARGE = re.compile(r"context length|too (?:large|long|many)|exceed|at most \d+ (?:image|picture)", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"model\b.{0,200}?\b(?:not exist|not found|not available|unknown)|(?:unknown|invalid|no such) model", re.I
)
_MOST_PICTURES = re.compile(r"at most (\d+) (?:image|picture)", re.IGNORECASE)


def find_model(config: CaptionConfig) -> str:
    """Return what the server calls the model: the config's name, or the first that it lists.

    For a job's driver: all workers then ask for the same one, and a server that is not there is told of at once.

    Raises:
        UserError: the server is not there, refuses the key, or is to choose and lists no model.
    """
    return EndpointModel(config, "").find_model()


class EndpointModel:
    """Asks the server at `captions.url`, with many requests waiting at once."""

    def __init__(self, config: CaptionConfig, device: str) -> None:
        """Connect to nothing yet; the server has devices of its own.

        Raises:
            UserError: the key is not set.
        """
        self._server, self._prompt, self._concurrency = Server(config), config.prompt, config.concurrency
        self._model = "" if config.model == "auto" else config.model
        self._options = {"max_tokens": config.max_tokens, "temperature": 0, "seed": 0} | config.extra_body
        """Not every server knows them all."""
        self._most_pictures = config.frames
        self._has_answered = False

    def find_model(self) -> str:
        """See the function of this name."""
        sync(get_loop(), self._find_model)
        return self._model

    def answers(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        """Yield the server's answers as they come; up to `concurrency` requests are read ahead.

        Raises:
            UserError: the server is not there, or lets nobody in; what it answered was yielded before.
        """
        if not self._model:
            self.find_model()
        loop = get_loop()  # FSSpec's, in a thread of its own
        session = sync(loop, self._open)
        waiting: set[Future[Answer]] = set()
        reading = _Reading(requests)
        try:
            for request in reading:
                asked = self._answer(session, request.shot_id, chat.picture_urls(request.frames))
                waiting.add(asyncio.run_coroutine_threadsafe(asked, loop))
                yield from _take_finished(waiting, must_wait=len(waiting) >= self._concurrency)
            while waiting:
                yield from _take_finished(waiting, must_wait=True)
            if reading.error is not None:
                raise reading.error
        finally:
            for future in waiting:
                future.cancel()
            sync(loop, session.close)

    async def _open(self) -> aiohttp.ClientSession:
        return self._server.open()

    async def _find_model(self) -> None:
        async with self._server.open() as session:
            try:
                models = await self._server.patiently(lambda: self._models(session), Attempts())
            except RejectedError as error:
                if self._model:  # it is there; some list nothing
                    return
                remedy = "its address usually ends with /v1; of a server without a list, name one in captions.model"
                raise self._server.error(f"lists no models ({error})", remedy) from error
            except GivenUpError as error:
                raise self._server.error(f"does not answer ({error})", "start it, or mend the address") from error
        if not models:
            raise self._server.error("serves no model", "start it with one")
        if self._model and self._model not in models:
            told = _listed(models)
            _log.warning("%s lists no model %s; it has %s (captions.model)", self._server.name, self._model, told)
        self._model = self._model or models[0]

    async def _models(self, session: aiohttp.ClientSession) -> list[str]:
        content = await self._server.get(session, "models")
        try:
            return chat.read_models(content)
        except chat.NoAnswerError as error:
            raise RejectedError(200, str(error)) from error

    async def _answer(self, session: aiohttp.ClientSession, shot_id: str, pictures: list[str]) -> Answer:
        attempts = Attempts()
        answer: Answer | None = None
        while answer is None:
            pictures, options = chat.spread(pictures, self._most_pictures), dict(self._options)
            body = chat.request_body(self._model, self._prompt, pictures, options)
            try:
                answer = await self._server.patiently(partial(self._ask, session, shot_id, body), attempts)
            except ModeratedError as error:
                answer = self._no_answer(shot_id, CaptionReason.REFUSED, error)
            except GivenUpError as error:
                answer = self._no_answer(shot_id, CaptionReason.FAILED, error)
            except RejectedError as error:
                if error.status in _NO_SUCH_PLACE or self._is_of_the_model(error):
                    raise await self._wrong_address(session, error) from error
                if self._can_ask_otherwise(error, options):
                    continue
                pictures = self._fewer(error, pictures)
                if not pictures:
                    answer = self._no_answer(shot_id, CaptionReason.FAILED, error)
        self._has_answered |= answer.reason is not CaptionReason.FAILED
        usage = replace(answer.usage, num_tries=attempts.number, duration_s=attempts.duration_s)
        return replace(answer, usage=usage)

    async def _ask(self, session: aiohttp.ClientSession, shot_id: str, body: dict[str, Any]) -> Answer:
        try:
            content = await self._server.post(session, "chat", "completions", body=body)
            try:
                return chat.read_answer(content, shot_id, self._model)
            except chat.NoAnswerError as error:
                raise self._server.problem(error.status, str(error)) from error
        except RejectedError as error:
            if error.status in _NO_SUCH_PLACE and self._has_answered:  # a server that is being restarted
                raise TryAgainError(str(error), is_dead=True) from error
            raise

    def _no_answer(self, shot_id: str, reason: CaptionReason, error: Exception) -> Answer:
        return Answer(shot_id, "", self._model, reason=reason, detail=f"{self._server.name}: {error}")

    def _is_of_the_model(self, error: RejectedError) -> bool:
        """Whether a request was refused for the model's name: gateways say so with other statuses than 404."""
        return error.status in _BAD_REQUEST and self._model in error.message and bool(_NO_MODEL.search(error.message))

    def _can_ask_otherwise(self, error: RejectedError, options: dict[str, Any]) -> bool:
        """Whether a request whose options were refused may be sent with others; leaves out what is not known."""
        if error.status not in _BAD_REQUEST or not _UNSUPPORTED.search(error.message):
            return False
        refused = next((name for name in options if re.search(rf"\b{name}\b", error.message)), None)
        if refused is None:
            return False
        if refused in self._options:  # or another request has found out
            value = self._options.pop(refused)
            if refused == "max_tokens":
                self._options["max_completion_tokens"] = value
        return True

    def _fewer(self, error: RejectedError, pictures: list[str]) -> list[str]:
        """Return the pictures to show where so many are too much; none where it is not that."""
        if error.status != 413 and (error.status not in _BAD_REQUEST or not _TOO_LARGE.search(error.message)):
            return []
        most = _MOST_PICTURES.search(error.message)
        if most and 0 < int(most[1]) < len(pictures):
            self._most_pictures = int(most[1])
            return pictures
        return chat.spread(pictures, len(pictures) // 2)

    async def _wrong_address(self, session: aiohttp.ClientSession, error: RejectedError) -> UserError:
        try:
            models = await self._models(session)
        except (RejectedError, TryAgainError, UserError):
            models = []
        if not models:
            return self._server.error(f"has no chat completions ({error})", "its address usually ends with /v1")
        return self._server.error(
            f"has no model {self._model} ({error})", f"name one of its own in captions.model: {_listed(models)}"
        )


def _listed(models: list[str]) -> str:
    return ", ".join(models[:_MOST_NAMES]) + (", ..." if len(models) > _MOST_NAMES else "")


class _Reading:
    """Requests as long as they can be read: those before an error are answered before it is told."""

    def __init__(self, requests: Iterable[CaptionRequest]) -> None:
        self._requests = requests
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[CaptionRequest]:
        try:
            yield from self._requests
        except Exception as error:
            self.error = error


def _take_finished(waiting: set[Future[Answer]], *, must_wait: bool) -> Iterator[Answer]:
    """Take the requests that are answered out of `waiting`, and yield the answers."""
    done, _ = wait(waiting, timeout=None if must_wait else 0, return_when=FIRST_COMPLETED)
    error = next((future.exception() for future in done if future.exception()), None)
    if error is not None:
        done, _ = wait(waiting, timeout=_GRACE_S)
    waiting -= done
    yield from (future.result() for future in done if future.exception() is None)
    if error is not None:
        raise error
