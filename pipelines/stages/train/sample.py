"""The clips that show what a training run has learned."""

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from animatediff import storage
from animatediff.data.loading.loader import ClipBatch, ClipLoader
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import Manifest
from animatediff.errors import UserError
from animatediff.models.prompts import a1111_syntax
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.controls import ControlSpec
from animatediff.rendering.catalog.entries import Entry, Lora
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.prompts import prompt_syntax
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.rendering.outputs import encode_gif, encode_mp4, encode_png
from animatediff.training.recipes.recipe import Recipe, SamplingWeights
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.weights.base import load_vae
from animatediff.weights.base_facts import BaseFacts
from pipelines.settings import SampleConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Renderer:
    """Renders a run's samples with its weights file, in the size of the dataset's clips.

    The recipe says which weights are sampled with, and whether they give clips or single pictures.

    Attributes:
        recipe: the run's, its paths absolute.
        sample: how to render.
        prompts: at least one.
        size: (f h w) of the dataset's clips, in frames and pixels.
        on_gpu: whether a GPU is at hand.
        first_frame: (1 c h w) latents of a held-out clip's, with the scaling factor: what a recipe's weights are shown
            that show nothing without a picture; None for the others.
    """

    recipe: Recipe
    sample: SampleConfig
    prompts: tuple[str, ...]
    size: tuple[int, int, int]
    on_gpu: bool
    first_frame: Tensor | None = None

    @classmethod
    def plan(cls, sample: SampleConfig, recipe: Recipe, manifest: Manifest, *, on_gpu: bool) -> "Renderer":
        """Return the renderer of a run, its prompts filled in.

        Raises:
            UserError: the dataset's clips cannot be read.
        """
        try:
            f, h, w = (int(number) for number in manifest.shards[0].bucket.split("x"))
        except ValueError as error:
            raise UserError(f"the bucket {manifest.shards[0].bucket!r} names no frames, height and width") from error
        if syntax := prompt_syntax.report(sample.prompts):
            logger.warning("sample.prompts: %s", syntax)
        if sample.prompts and not recipe.shows_pictures:
            return cls(recipe, sample, sample.prompts, (f, h, w), on_gpu)
        clip = _held_out_clip(recipe.config, manifest)
        first_frame = clip.latents[:, :, 0].clone() if recipe.shows_pictures else None
        return cls(recipe, sample, sample.prompts or (clip.captions[0],), (f, h, w), on_gpu, first_frame)

    def render(self, weights_uri: str) -> dict[str, bytes]:
        """Return the files' contents by name: `0.mp4` and `0.gif` of the first prompt, or `0.png`, and so on.

        With a picture that clips begin with there is `picture.png`, too.

        Raises:
            UserError: the base has no VAE, or the weights give NaN pixels.
        """
        recipe, used = self.recipe, self.recipe.sampling_weights(weights_uri)
        device = "cuda" if self.on_gpu else "cpu"
        animator = Animator(recipe.config.base, used.motion_module, schedule=recipe.noise_schedule, device=device)
        animator.load(self._entry(used))
        files: dict[str, bytes] = {}
        controls: tuple[ControlSpec, ...] = ()
        with TemporaryDirectory() as folder:
            if self.first_frame is not None and used.sparse_control is not None:
                files["picture.png"] = self._picture(self.first_frame)
                picture = Path(folder, "picture.png")
                picture.write_bytes(files["picture.png"])
                controls = (ControlSpec(net=used.sparse_control, pictures=(str(picture),)),)
            for i, prompt in enumerate(self.prompts):
                frames = animator.render(self._item(prompt, 1 if used.is_still else self.size[0], controls))
                files |= self._encoded(str(i), frames)
        return files

    @torch.no_grad()
    def _picture(self, latents: Tensor) -> bytes:
        """Return a frame (1 c h w) as a PNG file."""
        base = self.recipe.config.base
        codec = FrameCodec(load_vae(base).float(), BaseFacts(base).scaling_factor)
        return encode_png(codec.decode(latents)[0])

    def _entry(self, used: SamplingWeights) -> Entry:
        return Entry(
            name="sample",
            prompts=self.prompts,
            checkpoint=self._checkpoint(),
            domain_adapter=Lora(path=used.domain_adapter) if used.domain_adapter is not None else None,
            motion_loras=tuple(Lora(path=uri) for uri in used.motion_loras),
        )

    def _checkpoint(self) -> str | None:
        """Return what is trained on where the base itself predicts something else; None is the base."""
        config = self.recipe.config
        if BaseFacts(config.base).prediction_type == self.recipe.noise_schedule.prediction_type:
            return None
        return next((uri for uri in config.base_checkpoints if uri != BASE_AS_IS), None)

    def _item(self, prompt: str, num_frames: int, controls: tuple[ControlSpec, ...]) -> Item:
        return Item(
            digest="",
            entry="sample",
            model="",
            **self._read_as_in_training(prompt),
            seed=self.sample.seed,
            **self._sampling(),
            num_frames=num_frames,
            height=self.size[1],
            width=self.size[2],
            fps=self.sample.fps,
            controls=controls,
        )

    def _sampling(self) -> dict[str, Any]:
        """Return the settings of sampling: what the run's result must be sampled with, else what the config says."""
        if self.recipe.few_step is not None:
            return self.recipe.few_step.settings
        return {
            "num_inference_steps": self.sample.num_inference_steps,
            "guidance_scale": self.sample.guidance_scale,
        }

    def _read_as_in_training(self, prompt: str) -> dict[str, Any]:
        """Return the fields of a prompt of plain words: as long as captions are read, it is read as well."""
        if self.recipe.config.text.chunks == 1:
            return {"prompt": prompt}
        return {"prompt": a1111_syntax.escaped(prompt), "prompt_syntax": "a1111"}

    def _encoded(self, name: str, frames: np.ndarray) -> dict[str, bytes]:
        if len(frames) == 1:
            return {f"{name}.png": encode_png(frames[0])}
        fps = self.sample.fps
        return {f"{name}.mp4": encode_mp4(frames, fps=fps), f"{name}.gif": encode_gif(frames, fps=fps)}


def write_files(folder_uri: str, files: dict[str, bytes]) -> list[str]:
    """Put files into a folder.

    Returns:
        Their URIs.
    """
    for name, content in files.items():
        storage.write_bytes(storage.join(folder_uri, name), content)
    return [storage.join(folder_uri, name) for name in files]


def _held_out_clip(config: RecipeConfig, manifest: Manifest) -> ClipBatch:
    loader = ClipLoader(
        config.dataset_uri,
        manifest,
        Batching(batch_size=1, seed=config.train.seed),
        ClipFilter(where=config.where, holdout=config.train.holdout, held_out=config.train.holdout > 0),
    )
    return loader.load(0)
