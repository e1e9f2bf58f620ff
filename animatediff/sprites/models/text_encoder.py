"""A text encoder that knows its captions' words, whether or not a still picture shows what they mean.

Stable Diffusion's text encoder had read captions long before it met a UNet. The sprite world's learns them with the
UNet, by what pictures show, and "moving left" and "moving right" look alike in a picture of one moment: after 22,500
steps of text-to-image the two moved its output by 0.02 of 2.9 behind the caption's end, where a colour moved it by 4.7.
Nothing that reads it could learn such words from clips.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.sprites.models.fitting import Fit, fit
from animatediff.sprites.models.text_to_image import tokenize
from animatediff.sprites.scenes.world import NUM_WORDINGS, caption, caption_words, sample_scenes

_NUM_CAPTIONS = 20_000
_BATCH_SIZE = 64
_MOTION_SAID = 0.8


class WordReader(nn.Module):
    """Tells from what a text encoder says behind a caption's end which words the caption has."""

    word_ids: Tensor

    def __init__(self, tokenizer: CLIPTokenizer, width: int) -> None:
        super().__init__()
        ids = tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in caption_words()])
        self.register_buffer("word_ids", torch.tensor(ids), persistent=False)
        self._end = tokenizer.eos_token_id
        self.read = nn.Linear(width, len(ids))

    def loss(self, text_encoder: CLIPTextModel, token_ids: Tensor, places: Tensor) -> Tensor:
        """Return how badly the words are read.

        Args:
            text_encoder: that is read.
            token_ids: (b n), padded with end tokens.
            places: (b) in [0, 1), which of a caption's end tokens is read, from the first to the last.

        Returns:
            Cross-entropy in nats a caption, the mean of the batch.
        """
        num_said = (token_ids != self._end).sum(dim=1)
        at = num_said + (places * (token_ids.shape[1] - num_said)).long()
        said = (token_ids[:, :, None] == self.word_ids).any(dim=1)
        logits = self.read(text_encoder(token_ids)[0][torch.arange(len(at)), at])
        return binary_cross_entropy_with_logits(logits, said.to(logits.dtype), reduction="none").sum(dim=1).mean()


class Captions:
    """Captions of the world's clips, most of which say the motion, in batches."""

    def __init__(self, tokenizer: CLIPTokenizer, *, seed: int, num: int = _NUM_CAPTIONS) -> None:
        rng = np.random.default_rng((seed, 2000))
        self._token_ids = tokenize(
            tokenizer,
            [
                caption(scene, with_motion=rng.random() < _MOTION_SAID, wording=int(rng.integers(NUM_WORDINGS)))
                for scene in sample_scenes(num, seed)
            ],
        )
        self._seed = seed

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Return (b n) token ids and (b) places, as `WordReader.loss` takes them: the same for the same step."""
        rng = np.random.default_rng((self._seed, 2001, step))
        chosen = torch.from_numpy(rng.integers(len(self._token_ids), size=_BATCH_SIZE))
        return self._token_ids[chosen], torch.from_numpy(rng.random(_BATCH_SIZE))


class _Pair(nn.Module):
    """What is trained."""

    def __init__(self, text_encoder: CLIPTextModel, reader: WordReader) -> None:
        super().__init__()
        self.text_encoder, self.reader = text_encoder, reader


def teach_words(
    text_encoder: CLIPTextModel,
    captions: Captions,
    tokenizer: CLIPTokenizer,
    *,
    plan: Fit,
    checkpoint: Path | None = None,
) -> tuple[WordReader, float]:
    """Train a text encoder until its end tokens tell the caption's words. A UNet has to learn to read it anew.

    Args:
        text_encoder: trained in place.
        captions: to learn from.
        tokenizer: knows the words.
        plan: how long.
        checkpoint: see `fit`.

    Returns:
        The reader, frozen, and the seconds that the steps took.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reader = WordReader(tokenizer, text_encoder.config.hidden_size)
    pair = _Pair(text_encoder, reader)
    seconds = fit(pair, lambda step: reader.loss(text_encoder, *captions.draw(step)), plan, checkpoint)
    return reader.requires_grad_(False), seconds
