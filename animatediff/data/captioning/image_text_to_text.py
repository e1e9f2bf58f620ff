"""Captions by a model of transformers in this process: one that chats about pictures, or BLIP and its like.

A model with a chat template is shown all frames of a shot and asked the prompt. One without is shown the middle frame.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from animatediff.data.captioning.batches import answer_in_batches
from animatediff.data.captioning.captions import Answer, CaptionRequest, Usage
from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import any_error_as_user_error

_MOST_TOKENS_OF_ONE_PICTURE = 77
"""BLIP was trained on captions of 20 to 40 tokens, and CLIP reads so many."""


class ImageTextToTextModel:
    """Runs the model that `captions.transformers` names. The same frames give the same answers: nothing is drawn."""

    def __init__(self, config: CaptionConfig, device: str) -> None:
        """Load the model.

        Raises:
            UserError: there is none, or it does not caption pictures.
        """
        self._name, self._prompt, self._batch_size = str(config.transformers), config.prompt, config.batch_size
        with any_error_as_user_error(f"captions.transformers {self._name}"):
            self._processor = _load_processor(self._name)
            # On a GPU as precise as the file; CPUs compute in half precision slowly.
            dtype = "auto" if device.startswith("cuda") else torch.float32
            model = AutoModelForImageTextToText.from_pretrained(self._name, dtype=dtype)
            self._model = model.to(device).eval().requires_grad_(False)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # answers begin where prompts end
        self._template = getattr(self._processor, "chat_template", None) or tokenizer.chat_template
        most = config.max_tokens if self._template else min(config.max_tokens, _MOST_TOKENS_OF_ONE_PICTURE)
        self._options = {"do_sample": False, "num_beams": 1, "max_new_tokens": most}
        self._bos = tokenizer.bos_token_id
        eos = self._model.generation_config.eos_token_id
        self._ends = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, tokenizer.sep_token_id}

    def answers(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        """Return the model's answers, in order; what it fails on is the reason that a shot has no caption."""
        return answer_in_batches(requests, self._batch_size, self._ask, f"captions.transformers {self._name}")

    @torch.inference_mode()
    def _ask(self, batch: list[CaptionRequest]) -> list[Answer]:
        inputs = self._inputs([request.frames for request in batch]).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, **self._options)
        num_asked = [0] * len(batch)
        if "input_ids" in inputs:
            num_asked = inputs["attention_mask"].sum(1).tolist()
            if not self._model.config.is_encoder_decoder:
                tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [self._answer(*each) for each in zip(batch, texts, num_asked, tokens.tolist(), strict=True)]

    def _inputs(self, shots: list[np.ndarray]) -> Any:
        if not self._template:
            pictures = [Image.fromarray(frames[len(frames) // 2]) for frames in shots]
            return self._processor(images=pictures, return_tensors="pt")
        texts = [self._chat(len(frames)) for frames in shots]
        bos = self._processor.tokenizer.bos_token  # a second one would be another text
        return self._processor(
            text=texts,
            images=[[Image.fromarray(frame) for frame in frames] for frames in shots],
            padding=True,
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            return_tensors="pt",
        )

    def _chat(self, num_frames: int) -> str:
        content = [*({"type": "image"} for _ in range(num_frames)), {"type": "text", "text": self._prompt}]
        chat = [{"role": "user", "content": content}]
        text: str = self._processor.apply_chat_template(
            chat, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return text

    def _answer(self, request: CaptionRequest, text: str, num_asked: int, tokens: list[int]) -> Answer:
        # Some begin with a token that also ends.
        num_tokens = next(
            (i for i, token in enumerate(tokens) if token in self._ends and (i or token != self._bos)), None
        )
        usage = Usage(num_asked, len(tokens) if num_tokens is None else num_tokens)
        return Answer(request.shot_id, text, self._name, is_cut=num_tokens is None, usage=usage)


def _load_processor(name: str) -> Any:
    try:
        return AutoProcessor.from_pretrained(name)
    except ImportError:
        # What prepares videos needs torchvision, which nothing else does: to us frames are pictures.
        family = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(name))]
        parts = family.get_attributes()
        if "video_processor" not in parts:
            raise
    parts = [part for part in parts if part != "video_processor"]
    without_videos: Any = type(family.__name__, (family,), {"get_attributes": classmethod(lambda cls: parts)})
    return without_videos.from_pretrained(name)
