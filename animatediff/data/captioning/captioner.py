"""The captioner that a config names: a model's answers, mended or rejected, put together with tags."""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from animatediff.data.captioning.captions import Answer, CaptionModel, CaptionReason, CaptionRequest, CaptionResult
from animatediff.data.captioning.cleaning import Cleaned, clean_answer, clean_text
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.captioning.template import fill_template
from animatediff.errors import UserError, printed

_MODELS = {
    "url": "endpoint:EndpointModel",
    "transformers": "image_text_to_text:ImageTextToTextModel",
    "function": "function:FunctionModel",
}
"""Modules of this folder by the config's field that names them; loaded only where it does, as their libraries are heavy
or not installed."""
_TAGGER = "wd_tagger:WDTagger"
_TAGGER = "wd_tagger:WDTagger"
_MOST_DETAIL = 300
_MOST_FAILURES = 8
"""Shots that fail one after another before it is taken for the server's, or the function's, own trouble."""


class Tagger(Protocol):
    """What reads tags off frames."""

    name: str
    """Stored with every shot."""

    def tags(self, frames: np.ndarray) -> tuple[str, ...]:
        """Return the tags of (f h w 3) uint8 RGB frames, the most important first."""


def load_captioner(
    config: CaptionConfig, device: str = "cpu", count_tokens: Callable[[str], int] | None = None
) -> "Captioner":
    """Return the captioner that a config names, ready to be asked. A model is loaded; of a server nothing is asked.

    Args:
        config: what it names decides which libraries are loaded.
        device: where models of this process run, such as `cuda`.
        count_tokens: of a text, by the tokenizer of the base that is trained on.

    Raises:
        UserError: a model or function is not there or not usable, a package is not installed, a key is not set.
    """
    model = next((_load(path, config, device) for name, path in _MODELS.items() if getattr(config, name)), None)
    tagger = _load(_TAGGER, config, device) if config.tags.folder else None
    return Captioner(config, model, tagger, count_tokens)


def _load(path: str, config: CaptionConfig, device: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"{__package__}.{module}"), name)(config, device)


class Captioner:
    """Captions shots, and tags them, as one config says."""

    def __init__(
        self,
        config: CaptionConfig,
        model: CaptionModel | None,
        tagger: Tagger | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        """Put one together from its parts; `load_captioner` does so from a config alone."""
        self._config, self._model, self._tagger, self._count_tokens = config, model, tagger, count_tokens

    def caption_all(self, requests: Iterable[CaptionRequest]) -> Iterator[CaptionResult]:
        """Yield a result for each request, in the order in which they are answered.

        Requests are read one by one as there is room for them, so that frames may be decoded as they are asked for.
        A shot that could not be captioned has a reason.

        Raises:
            UserError: it is of no use to go on: the server is not there or refuses everything, or eight shots one after
                another failed. What was answered was yielded before; the rest, with those eight, may be asked for anew.
        """
        failed: list[CaptionResult] = []
        for result in self._results(requests):
            if result.reason is CaptionReason.FAILED:
                failed.append(result)
                if len(failed) == _MOST_FAILURES:
                    raise UserError(f"{result.detail} (so for {_MOST_FAILURES} shots one after another)")
                continue
            yield from failed
            failed.clear()
            yield result
        yield from failed

    def _results(self, requests: Iterable[CaptionRequest]) -> Iterator[CaptionResult]:
        if self._tagger is None:
            yield from map(self._result, self._answers(requests))
            return
        tagger, tags = self._tagger, dict[str, tuple[str, ...]]()

        def tagged() -> Iterator[CaptionRequest]:
            for request in requests:
                tags[request.shot_id] = tagger.tags(request.frames)
                yield request

        for answer in self._answers(tagged()):
            names = filter(None, (answer.model, tagger.name))
            yield self._result(replace(answer, tags=tags.pop(answer.shot_id), model=" + ".join(names)))

    def _answers(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        if self._model is not None:
            return self._model.answers(requests)
        return (Answer(request.shot_id, "", "") for request in requests)

    def _result(self, answer: Answer) -> CaptionResult:
        cleaned = self._cleaned(answer)
        text = "" if cleaned.reason else fill_template(self._config.text, cleaned.caption, answer.tags)
        if not text and not cleaned.reason:
            cleaned = Cleaned("", CaptionReason.EMPTY, "no tag is probable enough")
        return CaptionResult(
            answer.shot_id,
            caption=text,
            tags=answer.tags,
            model=answer.model,
            reason=cleaned.reason,
            detail=printed(cleaned.detail, _MOST_DETAIL),
            num_tokens=self._count_tokens(text) if self._count_tokens and text else None,
            usage=answer.usage,
        )

    def _cleaned(self, answer: Answer) -> Cleaned:
        if answer.reason is not None:
            return Cleaned("", answer.reason, answer.detail)
        if self._model is None:
            return Cleaned("")
        if self._config.function is not None:
            # A person's own words are not judged; without any, tags that come with them may be the text.
            return Cleaned("") if answer.tags and not answer.text.strip() else clean_text(answer.text)
        return clean_answer(
            answer.text, is_cut=answer.is_cut, prompt=self._config.prompt, is_english=self._config.is_english
        )
