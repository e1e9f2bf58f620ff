"""What is shipped shows what it says: pictures of the prompts, clips that move, styles and words that were learned."""

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.entries import EmbeddingFile, Entry, Lora
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.checks.few_step import set_by_files
from animatediff.rendering.results.result import Result
from animatediff.sprites import shipped
from animatediff.sprites.evaluation import draw_prompts, open_base, shares_right, still_scenes
from animatediff.sprites.readings.clips import follows, measure_clip
from animatediff.sprites.scenes.world import MOTIONS, NEW_COLOUR, caption
from animatediff.sprites.scoring import KNOWN_COLOURS, score


@pytest.fixture(scope="module")
def animator():
    return Animator(str(shipped.BASE), str(shipped.MOTION_MODULE), schedule=NoiseSchedule(), device="cpu")


@pytest.fixture
def clip(animator):
    """A prompt's frames with an entry's weights, and their scores."""

    def of(prompt, name="base", **weights):
        animator.load(Entry(name=name, prompts=(prompt,), **weights))
        item = Item(
            digest="",
            entry=name,
            model="",
            prompt=prompt,
            seed=1,
            width=64,
            height=64,
            num_inference_steps=20,
            guidance_scale=5,
        )
        frames = animator.render(item)
        return frames, score(Result(**item.model_dump(), status="ok"), frames)

    return of


def test_all_of_it_is_small_and_nothing_is_pickled():
    files = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert not any("_name_or_path" in path.read_text() for path in files if path.suffix == ".json")


def test_diffusers_own_pipeline_opens_the_base_and_draws_the_same():
    pipeline = StableDiffusionPipeline.from_pretrained(shipped.BASE)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a large red star on a white background"]
    ours = draw_prompts(open_base(str(shipped.BASE)), prompts)
    assert np.abs(draw_prompts(pipeline, prompts).astype(int) - ours).max() <= 1


@pytest.mark.parametrize("held_out", [False, True])
def test_the_base_draws_its_prompts(held_out):
    scenes = still_scenes(16, held_out=held_out)
    prompts = [caption(scene, with_motion=False) for scene in scenes]
    shares = shares_right(draw_prompts(open_base(str(shipped.BASE)), prompts), scenes)
    assert min(shares.values()) >= 0.75, shares


def test_a_clip_shows_its_prompt_and_moves_smoothly(clip):
    frames, found = clip("a large red star moving right on a black background")
    assert min(found["shape"], found["colour"], found["background"], found["style"]) >= 0.9, found
    assert measure_clip(frames).displacement > 5
    assert follows(measure_clip(frames), "right")
    assert found["jitter"] < 2


@pytest.mark.parametrize("motion", ["left", "up", "bounce"])
def test_a_clip_moves_as_its_prompt_says(clip, motion):
    frames, _ = clip(f"a small yellow circle {MOTIONS[motion]} on a dark blue background")
    assert follows(measure_clip(frames), motion)


def test_five_steps_are_enough_with_the_few_step_lora(animator):
    entry = {"name": "few", "motion_loras": [str(shipped.FEW_STEP)]}
    prompt = f"a small yellow circle {MOTIONS['left']} on a dark blue background"
    files = {"base": str(shipped.BASE), "motion_module": str(shipped.MOTION_MODULE)}
    size = {"width": 64, "height": 64}
    catalog = set_by_files(Catalog.model_validate({**files, **size, "prompts": [prompt], "entries": [entry]}))
    (item,) = expand(catalog).items
    assert (item.sampler, item.num_inference_steps, item.guidance_scale) == ("euler", 5, 3.0)
    assert str(item.guidance_interval) == "{start: 0.4, end: 1.0}"
    animator.load(catalog.entries[0])
    frames = animator.render(item)
    found = score(Result(**item.model_dump(), status="ok"), frames)
    assert min(found["shape"], found["colour"]) >= 0.75, found
    assert follows(measure_clip(frames), "left")


def test_the_lora_draws_clips_with_chalk(clip):
    prompt = "a large red star moving right on a black background"
    _, found = clip(prompt, name="lora-chalk", loras=(Lora(path=str(shipped.CHALK_LORA)),))
    assert min(found["style"], found["shape"], found["colour"]) >= 0.75, found


def test_the_embedding_s_word_is_its_colour(animator):
    word, rgb = NEW_COLOUR
    prompt = f"a large {word} star on a white background"
    files = (EmbeddingFile(path=str(shipped.BROWN_EMBEDDING)),)
    animator.load(Entry(name="brown", prompts=(prompt,), embeddings=files))
    item = Item(digest="", entry="", model="", prompt=prompt, seed=0, width=64, height=64, num_inference_steps=20)
    frames = animator.render(item.model_copy(update={"guidance_scale": 5.0, "num_frames": 4})).astype(float)
    star = np.median(frames[np.linalg.norm(frames - 245, axis=-1) > 100], axis=0)
    distances = {name: np.linalg.norm(star - other) for name, other in KNOWN_COLOURS.items()}
    assert min(distances, key=distances.get) == word, (star, rgb, distances)
