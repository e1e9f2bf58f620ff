"""What a config says of captions: who writes them, from what, and how they are put together with tags."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from animatediff.config import Config
from animatediff.data.captioning.template import check_template, names_in
from animatediff.uris import Uri, printable_uri, with_secrets

PROMPT = (
    "These pictures are frames of one video clip, in their order. Describe the clip in English, in one sentence of at "
    "most 40 words: who or what is seen, how they look, what they do and how they move, the place, the light, and the "
    "camera's movement if there is any. Begin with the subject itself: do not mention a video, clip, picture or frame, "
    "do not guess what cannot be seen, and write nothing but this sentence."
)
"""Asks for what 77 tokens of CLIP can hold, with the words for movement that a motion module learns from."""

_COMPLETIONS = "/chat/completions"


def _without_path(url: Uri) -> Uri:
    whole = with_secrets(url)
    if not whole.startswith(("http://", "https://")):
        raise ValueError(f"{printable_uri(url)} is no web address: write it like http://gpu1:8000/v1")
    address, question_mark, query = whole.partition("?")
    address = address.rstrip("/").removesuffix(_COMPLETIONS)
    changed = address + question_mark + query
    return url if changed == whole else type(url)(changed)


class TagConfig(Config):
    """How tags are read off frames."""

    folder: Uri | None = None
    """A WD tagger, `model.onnx` and `selected_tags.csv`: a local folder or a hub id, such as
    `SmilingWolf/wd-vit-tagger-v3`. It needs the package onnxruntime."""
    threshold: float = Field(0.35, gt=0, lt=1)
    """Probability from which a tag is taken: mean over the frames that are looked at."""
    character_threshold: float = Field(0.85, gt=0, lt=1)
    """The same for names of characters, of which taggers are surer."""
    most: int = Field(30, ge=1)
    """Most tags of a shot."""
    exclude: tuple[str, ...] = ()
    """Tags that are never taken, as they are stored: `monochrome`, `highres`."""


class CaptionConfig(Config):
    """How shots are captioned: by a served model, a model in the workers, a function, a tagger, or one and a tagger."""

    url: Annotated[Uri, AfterValidator(_without_path)] | None = None
    """Of a server that speaks OpenAI's chat completions, as vLLM and SGLang do: `http://gpu1:8000/v1`."""
    model: str = "auto"
    """What the server calls the model; auto takes the first that it serves."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the server's key, on the driver and the workers."""
    extra_body: dict[str, Any] = Field({})
    """What a request says beside, in the server's words, such as `{temperature: 0.7, chat_template_kwargs:
    {enable_thinking: false}}`; not on the command line."""
    transformers: Uri | None = None
    """An image-text-to-text model (Qwen-VL, InternVL, BLIP ...) that the workers run: a local folder or a hub id."""
    function: str | None = None
    """A function of your own, `package.module:function`: what it is given stands in `captioning/function.py`."""
    tags: TagConfig = TagConfig()
    """Tags, beside captions or in their place."""
    prompt: str = Field(PROMPT, min_length=1)
    """What a model is asked. Models without a chat template (BLIP) are asked nothing."""
    template: str | None = None
    """How caption and tags become the text that is trained on: `my style, {tags:5}, {caption}`, where `{tags:5}` are
    the first five. Default: `{caption}, {tags}`, or what there is of both."""
    frames: int = Field(8, ge=1, le=256)
    """Frames of a shot that are looked at, spread over it."""
    side: int = Field(512, ge=32, le=4096)
    """Pixels of a frame's longer side, as a model sees it; smaller ones stay."""
    max_tokens: int = Field(512, ge=8)
    """Most tokens of an answer. Models that think before they answer need thousands."""
    concurrency: int = Field(16, ge=1, le=1024)
    """Requests that a worker has waiting at a server."""
    tries: int = Field(5, ge=1, le=20)
    """How often a shot is asked for where the server fails or does not answer."""
    timeout_s: float = Field(120, gt=0, le=3600)
    """Seconds until a request is given up. A shot is given up after `tries` times as long."""
    batch_size: int = Field(4, ge=1)
    """Shots that a model in the workers captions at once."""

    @property
    def text(self) -> str:
        """The template, or its default."""
        if self.template is not None:
            return self.template
        if self.tags.folder is None:
            return "{caption}"
        return "{caption}, {tags}" if self._sources() else "{tags}"

    @property
    def is_english(self) -> bool:
        """Whether it is known that captions have to be in English."""
        return self.prompt == PROMPT

    @property
    def is_by_a_model(self) -> bool:
        """Whether a model writes sentences."""
        return self.url is not None or self.transformers is not None

    def _sources(self) -> list[str]:
        return [name for name in ("url", "transformers", "function") if getattr(self, name) is not None]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = self._sources()
        if len(sources) > 1:
            raise ValueError(f"{' and '.join(sources)} both write captions: name one of them")
        if not sources and self.tags.folder is None:
            raise ValueError("who writes captions? name one of url, transformers, function and tags.folder")
        if self.url is None and (self.model != "auto" or self.api_key_env is not None or self.extra_body):
            raise ValueError("model, api_key_env and extra_body belong to a url, and there is none")
        if taken := self.extra_body.keys() & {"model", "messages", "stream", "n"}:
            raise ValueError(f"extra_body says {', '.join(sorted(taken))}, which is said already")
        return self

    @model_validator(mode="after")
    def _template_fits(self) -> Self:
        check_template(self.text)
        names = names_in(self.text)
        if "caption" in names and not self._sources():
            raise ValueError("template names {caption}, which nobody writes: name one of url, transformers, function")
        if "caption" not in names and self.is_by_a_model:
            writer = self._sources()[0]
            raise ValueError(f"{{caption}} is left out of template, and {writer} would write it for nothing: name it")
        if "tags" in names and self.tags.folder is None and self.function is None:
            raise ValueError("template names {tags}, which nobody gives: name tags.folder")
        return self
