"""The clip that shows what a training run has learned."""

import ray

from animatediff.data.loader import ClipLoader
from animatediff.data.manifest import Manifest
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog import Item
from animatediff.rendering.outputs import encode_gif, encode_mp4
from animatediff.training.recipe import Recipe
from pipelines.settings import SampleConfig
from pipelines.stages.train import Workers


def render_sample(
    sample: SampleConfig, recipe: Recipe, manifest: Manifest, motion_module: str, workers: Workers
) -> dict[str, bytes]:
    """Render the sample on a worker's resources, in the size of the dataset's clips.

    Args:
        sample: what to render.
        recipe: the run's.
        manifest: of its dataset.
        motion_module: URI of the trained file.
        workers: tells what the task may take.

    Returns:
        The files' contents by name: `sample.mp4` and `sample.gif`.

    Raises:
        UserError: the base has no VAE, or the weights give NaN pixels.
    """
    item = _item(sample, recipe, manifest)
    task = ray.remote(num_cpus=workers.cpus, num_gpus=1 if workers.use_gpu else 0, max_retries=0)(_render)
    device = "cuda" if workers.use_gpu else "cpu"
    return ray.get(task.remote(item, recipe.base, motion_module, recipe.schedule, device))


def _item(sample: SampleConfig, recipe: Recipe, manifest: Manifest) -> Item:
    loader = ClipLoader(recipe.dataset_uri, manifest, batch_size=1, seed=recipe.train.seed, where=recipe.where)
    prompt = sample.prompt if sample.prompt is not None else loader.load(0).captions[0]
    try:
        num_frames, height, width = (int(number) for number in manifest.shards[0].bucket.split("x"))
    except ValueError as error:
        raise UserError(f"the bucket {manifest.shards[0].bucket!r} names no frames, height and width") from error
    return Item(
        digest="",
        entry="sample",
        prompt=prompt,
        seed=sample.seed,
        num_inference_steps=sample.num_inference_steps,
        guidance_scale=sample.guidance_scale,
        num_frames=num_frames,
        height=height,
        width=width,
        fps=sample.fps,
    )


def _render(item: Item, base: str, motion_module: str, schedule: NoiseSchedule, device: str) -> dict[str, bytes]:
    frames = Animator(base, motion_module, schedule=schedule, device=device).render(item)
    return {"sample.mp4": encode_mp4(frames, fps=item.fps), "sample.gif": encode_gif(frames, fps=item.fps)}
