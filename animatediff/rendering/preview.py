"""Clips of a dataset as pictures: their latents decoded again by the VAE that made them."""

import textwrap
from collections.abc import Iterator

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw

from animatediff import storage
from animatediff.data import shards
from animatediff.data.manifest import Manifest
from animatediff.errors import UserError
from animatediff.models.vae import has_fingerprint

_SHOWN_FRAMES = 8
_FRAME_WIDTH = 128
_LINE = 14


def check_vae(vae: AutoencoderKL, manifest: Manifest) -> None:
    """Refuse a VAE that made the latents in no precision.

    Raises:
        UserError: another one did, and these pictures would show it wrong.
    """
    if not has_fingerprint(vae, manifest.encoder_fp):
        raise UserError("the dataset was encoded by another VAE than this base's: name its own with --base")


def choose(manifest: Manifest, num: int) -> list[tuple[int, int]]:
    """Return (shard, row) of `num` clips spread evenly over the dataset, or of all if there are fewer."""
    ends = np.cumsum([shard.num_clips for shard in manifest.shards])
    numbers = np.unique(np.linspace(0, manifest.num_clips - 1, min(num, manifest.num_clips)).round().astype(int))
    found = np.searchsorted(ends, numbers, side="right")
    return [(int(s), int(n - (ends[s - 1] if s else 0))) for s, n in zip(found, numbers, strict=True)]


@torch.no_grad()
def decode(
    dataset_uri: str, manifest: Manifest, vae: AutoencoderKL, num: int
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yield some clips' captions, frames (f h w 3) uint8 RGB, and frames per second.

    Args:
        dataset_uri: a sealed dataset.
        manifest: its manifest.
        vae: that made it, in float32.
        num: how many clips.

    Raises:
        UserError: a shard cannot be read.
    """
    for shard, row in choose(manifest, num):
        uri = storage.join(dataset_uri, manifest.shards[shard].path)
        group, place = divmod(row, shards.ROW_GROUP_ROWS)
        columns = ["caption", "latent", "latent_shape", "latent_dtype", "t_start", "t_end"]
        clip = shards.read_row_group(uri, group, columns).slice(place, 1).to_pylist()[0]
        latents = torch.from_numpy(shards.latent_from_row(clip).astype(np.float32))
        # One frame at a time: a clip of 512 pixels would take gigabytes.
        pixels = torch.cat([vae.decode(frame).sample for frame in latents.split(1)])
        frames = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        seconds = clip["t_end"] - clip["t_start"]
        yield clip["caption"], frames, (len(frames) - 1) / seconds if seconds else 1.0


def contact_sheet(clips: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Clips below each other, some frames of each in a row, above their captions."""
    strips = [_strip(frames) for _, frames in clips]
    width = max(strip.width for strip in strips)
    height = sum(strip.height + _LINE + 6 for strip in strips)
    sheet = Image.new("RGB", (width, height), "white")
    pen, y = ImageDraw.Draw(sheet), 0
    for (caption, _), strip in zip(clips, strips, strict=True):
        sheet.paste(strip, (0, y))
        pen.text((2, y + strip.height + 1), textwrap.shorten(caption, width // 6, placeholder=" ..."), "black")
        y += strip.height + _LINE + 6
    return sheet


def _strip(frames: np.ndarray) -> Image.Image:
    """Return one row of evenly spread frames of (f h w 3)."""
    chosen = np.linspace(0, len(frames) - 1, min(_SHOWN_FRAMES, len(frames))).round().astype(int)
    height = round(_FRAME_WIDTH * frames.shape[1] / frames.shape[2])
    pictures = [Image.fromarray(frames[i]).resize((_FRAME_WIDTH, height), Image.Resampling.BICUBIC) for i in chosen]
    strip = Image.new("RGB", (_FRAME_WIDTH * len(pictures), height))
    for i, picture in enumerate(pictures):
        strip.paste(picture, (i * _FRAME_WIDTH, 0))
    return strip
