"""How well clips keep the pictures that they are given, by the world's ground truth.

`python -m animatediff.sprites.sparse_control_evaluation --sheet sheet.png` renders the same prompts without pictures,
with the first frame of a real render, and with its first and last, and prints a table.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.models.control.sparse_control import SparseControlNet, sparse_condition
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.vae import encode_frames
from animatediff.sprites import shipped
from animatediff.sprites.clip_evaluation import clip_scenes
from animatediff.sprites.command import run
from animatediff.sprites.readings.clips import follows, measure_clip
from animatediff.sprites.readings.pictures import Reading, read
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, render
from animatediff.sprites.scenes.world import Scene, caption
from animatediff.training.text import CaptionEncoder
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoders, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.controls import sparse_control_file
from animatediff.weights.motion_schedule import read_schedule

logger = logging.getLogger(__name__)

SHOWN: dict[str, tuple[int, ...]] = {"no picture": (), "first": (0,), "first and last": (0, -1)}
"""The frames that are given as pictures, by the row's name."""
NUM_STEPS, GUIDANCE_SCALE = 25, 5.0
_NUM_FRAMES, _BATCH_SIZE = 16, 4
_NEAR = 3.0  # pixels of 64 that a subject may be off: what stands still may move as much
_SHEET_FRAMES = (0, 3, 6, 9, 12, 15)
_COLUMNS = ("PSNR", "subject", "colour", "place", "kept", "follows", "jitter")


@dataclass(frozen=True)
class Figures:
    """Of many clips. Shares are in [0, 1].

    Attributes:
        psnr: mean over the given pictures' frames, in dB against the picture; NaN where none is given.
        subject: share of the given pictures whose frame shows their shape.
        colour: the same of its colour.
        place: the same of its place, within three pixels of 64.
        kept: the same of all three.
        follows: share of the clips that move as their prompt says.
        jitter: mean over the clips of the median second difference of the centroid, in pixels of 64; one without
            counts as the worst.
    """

    psnr: float
    subject: float
    colour: float
    place: float
    kept: float
    follows: float
    jitter: float


class Renderer:
    """Renders clips of prompts, with pictures of some of their frames.

    Args:
        base: the world's.
        motion_module: the world's.
        sparse_control: the encoder's file.
        scale: of the control.
        keep: whether given frames are put back at each step, as `keep` of a catalog's control says.
    """

    def __init__(
        self, base: str, motion_module: str, sparse_control: str, *, scale: float = 1.0, keep: bool = True
    ) -> None:
        self._scale, self._keep = scale, keep
        self._facts = BaseFacts(base)
        self._vae: AutoencoderKL = load_vae(base).float().eval()
        self._schedule: NoiseSchedule = read_schedule(motion_module).schedule
        self._network: SparseControlNet = sparse_control_file.open_file(sparse_control).build(self._facts.unet, base)
        self._unet = MotionUNet(load_unet(base).float(), motion_modules.read(motion_module)).eval()
        self._encode = CaptionEncoder(self._facts, load_text_encoders(base), torch.device("cpu"), torch.float32)

    @torch.no_grad()
    def render(self, scenes: Sequence[Scene], frames: Sequence[int], *, first_seed: int) -> np.ndarray:
        """Return a clip a scene, (b f h w 3) uint8 RGB, the i-th from seed `first_seed + i`.

        Args:
            scenes: their captions are the prompts, their renders the pictures.
            frames: those that are given as pictures.
            first_seed: of the noise.
        """
        shape = self._facts.latent_shape(_NUM_FRAMES, height=SAMPLE_SIZE, width=SAMPLE_SIZE)
        f, c, h, w = shape
        noise = torch.stack(
            [
                torch.randn(c, f, h, w, generator=torch.Generator().manual_seed(first_seed + i))
                for i in range(len(scenes))
            ]
        )
        text, empty = (
            self._encode(texts, height=h, width=w).text for texts in ([caption(s) for s in scenes], [""] * len(scenes))
        )
        told = Conditioning(text, negative=Conditioning(empty))
        if frames:
            pictures = self._pictures(scenes, frames)
            condition = self._network.embed(pictures, frames, f)
            control = Control(self._network, condition, torch.full((len(scenes), f), self._scale))
            told = replace(
                told, controls=(control,), known=sparse_condition(pictures, frames, f) if self._keep else None
            )
        latents = sample(
            self._unet,
            SAMPLERS["ddim"](self._schedule),
            told,
            noise,
            num_inference_steps=NUM_STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        return np.stack([self._decode(each) for each in latents])

    def _pictures(self, scenes: Sequence[Scene], frames: Sequence[int]) -> Tensor:
        """Return the latents of the given frames, (b c k h w)."""
        latents = [encode_frames(self._vae, real_clip(scene)[list(frames)]) for scene in scenes]  # k c h w
        return torch.from_numpy(np.stack(latents)).float().transpose(1, 2) * self._facts.scaling_factor

    def _decode(self, latents: Tensor) -> np.ndarray:
        pixels = self._vae.decode(latents.transpose(0, 1) / self._facts.scaling_factor).sample
        return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def main(
    base: Path = shipped.BASE,
    motion_module: Path = shipped.MOTION_MODULE,
    sparse_control: Path = shipped.SPARSE_CONTROL,
    scale: float = 1.0,
    keep: bool = True,
    num_clips: int = 60,
    sheet: Path | None = None,
) -> None:
    """Render and measure.

    Args:
        base: the world's base.
        motion_module: its motion module.
        sparse_control: its SparseCtrl encoder.
        scale: of the control.
        keep: whether given frames are put back at each step; else they drift away from their pictures.
        num_clips: prompts, each rendered three times.
        sheet: PNG file for a contact sheet of some of the clips beside what they were given.
    """
    renderer = Renderer(str(base), str(motion_module), str(sparse_control), scale=scale, keep=keep)
    scenes = clip_scenes(num_clips)
    real = np.stack([real_clip(scene) for scene in scenes])
    clips = {"real renders": real}
    rows = {"real renders": figures(real, scenes, (0, -1))}
    for name, frames in SHOWN.items():
        clips[name] = render_all(renderer, scenes, frames)
        rows[name] = figures(clips[name], scenes, frames)
        logger.info("%s is measured", name)
    logger.info("%s", table(rows))
    if sheet is not None:
        contact_sheet(clips).save(sheet)


def render_all(renderer: Renderer, scenes: Sequence[Scene], frames: Sequence[int]) -> np.ndarray:
    """Return a clip a scene, in batches, (n f h w 3); the i-th from seed i."""
    starts = range(0, len(scenes), _BATCH_SIZE)
    return np.concatenate([renderer.render(scenes[i : i + _BATCH_SIZE], frames, first_seed=i) for i in starts])


def real_clip(scene: Scene) -> np.ndarray:
    """Return the scene as it is, (f h w 3) uint8 RGB."""
    return render(scene, num_frames=_NUM_FRAMES, height=SAMPLE_SIZE, width=SAMPLE_SIZE)


def figures(clips: np.ndarray, scenes: Sequence[Scene], frames: Sequence[int]) -> Figures:
    """Measure clips (n f h w 3) of scenes, of which `frames` were given."""
    pairs = [
        (clip[frame], real_clip(scene)[frame]) for clip, scene in zip(clips, scenes, strict=True) for frame in frames
    ]
    right = [_is_kept(read(found), read(given)) for found, given in pairs]
    measured = [measure_clip(clip) for clip in clips]
    jitters = [clip.jitter for clip in measured]
    worst = max(jitter for jitter in jitters if not math.isnan(jitter))
    subject, colour, place = np.mean(right, axis=0).tolist() if right else (math.nan,) * 3
    return Figures(
        psnr=float(np.mean([_psnr(found, given) for found, given in pairs])) if pairs else math.nan,
        subject=subject,
        colour=colour,
        place=place,
        kept=float(np.mean([all(each) for each in right])) if right else math.nan,
        follows=float(np.mean([follows(c, s.motion) for c, s in zip(measured, scenes, strict=True)])),
        jitter=float(np.mean([worst if math.isnan(jitter) else jitter for jitter in jitters])),
    )


def table(rows: dict[str, Figures]) -> str:
    """Return the figures as aligned text, a line a row."""
    width = max(map(len, rows))
    lines = ["  ".join([" " * width, *(column.rjust(7) for column in _COLUMNS)])]
    for name, row in rows.items():
        shares = (row.subject, row.colour, row.place, row.kept, row.follows)
        cells = [f"{row.psnr:.1f}", *(f"{share:.1%}" for share in shares), f"{row.jitter:.2f}"]
        lines.append("  ".join([name.ljust(width), *(cell.rjust(7) for cell in cells)]))
    return "\n".join(lines)


def contact_sheet(clips: dict[str, np.ndarray], *, num_clips: int = 9, zoom: int = 1) -> Image.Image:
    """Return some frames of clips: a row a clip, a block of columns for each of `clips`."""
    strips = [
        [np.concatenate([clip[index] for index in _SHEET_FRAMES], axis=1) for clip in each[:num_clips]]
        for each in clips.values()
    ]
    gap = np.full((SAMPLE_SIZE, 8, 3), 255, np.uint8)
    rows = []
    for row in zip(*strips, strict=True):
        parts = [part for strip in row for part in (strip, gap)]
        rows.append(np.concatenate(parts[:-1], axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def _is_kept(found: Reading, given: Reading) -> tuple[bool, bool, bool]:
    """Whether subject, colour and place of a given picture are those of its frame."""
    if found.pose is None or given.pose is None:
        return found.shape == given.shape, found.colour == given.colour, False
    off = SAMPLE_SIZE * math.hypot(found.pose.x - given.pose.x, found.pose.y - given.pose.y)
    return found.shape == given.shape, found.colour == given.colour, off <= _NEAR


def _psnr(found: np.ndarray, given: np.ndarray) -> float:
    error = float(np.mean((found.astype(float) - given.astype(float)) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-3))  # 78 dB where nothing differs


if __name__ == "__main__":
    run(main)
