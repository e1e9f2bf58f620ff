"""Train the sprite world's base model from scratch: `python -m animatediff.sprites.train_base --output FOLDER`.

Also the way to make a world of one's own: change what `world` and `drawing` say, and run it.
"""

import json
import logging
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from animatediff.errors import UserError
from animatediff.sprites.command import run
from animatediff.sprites.models.autoencoder import train_vae
from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.models.parts import make_pipeline
from animatediff.sprites.models.text_encoder import Captions, teach_words
from animatediff.sprites.models.text_to_image import (
    Course,
    TextToImage,
    make_tokenizer,
    refine_text_to_image,
    train_text_to_image,
)
from animatediff.sprites.scenes.stills import draw_stills

logger = logging.getLogger(__name__)

VAE_PLAN = Fit(num_steps=5_500, lr=7e-4, warmup=100, ema_decay=0.998)
TEXT_TO_IMAGE_PLAN = Fit(num_steps=9_500, lr=1e-3, warmup=300, decay=0.65, ema_decay=0.998)
# Of a clip's nine motions one turns the shape, and of its pictures too few for a base to learn it. With a fifth of them
# turned shapes still came out as blobs.
REFINEMENTS = {"refinement": 0.2, "second_refinement": 0.5}
"""Share of the pictures in each that show a turned shape."""
REFINEMENT_PLAN = Fit(num_steps=6_500, lr=5e-4, warmup=100, decay=0.9, ema_decay=0.998)
WORDS_PLAN = Fit(num_steps=1_000, lr=1e-3, warmup=20, decay=0.5, ema_decay=0.99)
READING_PLAN = Fit(num_steps=5_500, lr=5e-4, warmup=100, decay=0.9, ema_decay=0.998)
_READING_TURNED = 0.4
_WORDS_WEIGHT = 0.02  # 0.3 nats a caption beside a picture's error of 0.04: enough that the words stay
NUM_PICTURES = 30_000
"""Pictures of each stage of text encoder and UNet."""
_NEW_PICTURES = 500_000  # between the seeds of one stage and the next


def main(output: Path, seed: int = 0) -> None:
    """Train the VAE; text encoder and UNet; these two refined; all words, and the UNet that reads them.

    Run it again to go on after a kill.

    Args:
        output: folder that `StableDiffusionPipeline.from_pretrained` opens in the end; absent or empty before. The
            checkpoints lie beside it, in a folder of the same name with `.work`.
        seed: of weights, pictures and draws; the same seed on the same machine gives the same model.
    """
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: name a new folder")
    work = output.with_name(output.name + ".work")
    draft = work / "base"  # renamed when it is whole, so that a kill leaves no half a model in the way
    (draft / "tokenizer").mkdir(parents=True, exist_ok=True)
    vae, vae_s = _vae(work, seed)
    # Made where the base will be: `save_pretrained` no longer writes CLIP's own two files.
    tokenizer = make_tokenizer(draft / "tokenizer")
    course = Course(TEXT_TO_IMAGE_PLAN, seed, work / "text_to_image.pt")
    model, model_s = train_text_to_image(vae, tokenizer, draw_stills(NUM_PICTURES, seed=seed), course)
    stages = [("vae", VAE_PLAN, vae_s), ("text_to_image", TEXT_TO_IMAGE_PLAN, model_s)]
    for i, (name, turned) in enumerate(REFINEMENTS.items(), start=1):
        course = Course(REFINEMENT_PLAN, seed + i * _NEW_PICTURES, work / f"{name}.pt")
        stills = draw_stills(NUM_PICTURES, seed=course.seed, turned=turned)
        refined_s = refine_text_to_image(model, vae, tokenizer, stills, course)
        stages.append((name, REFINEMENT_PLAN, refined_s))
    stages += _teach_words(model, vae, tokenizer, seed + (len(REFINEMENTS) + 1) * _NEW_PICTURES, work)
    make_pipeline(vae, model.text_encoder, tokenizer, model.unet).to(torch.float16).save_pretrained(draft)
    _open_in_float32(draft / "text_encoder" / "config.json")
    for config in draft.glob("*/config.json"):
        _forget_place(config)
    record = {name: {"num_steps": plan.num_steps, "minutes": round(s / 60, 1)} for name, plan, s in stages}
    (draft / "training.json").write_text(json.dumps({"seed": seed, "cpus": os.cpu_count(), **record}, indent=2) + "\n")
    draft.replace(output)
    for name, plan, seconds in stages:
        logger.info("%s: %d steps in %.1f min", name, plan.num_steps, seconds / 60)
    logger.info("the base is in %s; %s is no longer needed", output, work)


def _teach_words(
    model: TextToImage, vae: AutoencoderKL, tokenizer: CLIPTokenizer, seed: int, work: Path
) -> list[tuple[str, Fit, float]]:
    """Words that stills do not show, as those of motion, for the text encoder; then both go on with stills."""
    captions = Captions(tokenizer, seed=seed)
    reader, words_s = teach_words(
        model.text_encoder, captions, tokenizer, plan=WORDS_PLAN, checkpoint=work / "words.pt"
    )

    def words_loss(step: int) -> Tensor:
        return _WORDS_WEIGHT * reader.loss(model.text_encoder, *captions.draw(WORDS_PLAN.num_steps + step))

    course = Course(READING_PLAN, seed + _NEW_PICTURES, work / "reading.pt", auxiliary_loss=words_loss)
    stills = draw_stills(NUM_PICTURES, seed=course.seed, turned=_READING_TURNED)
    reading_s = refine_text_to_image(model, vae, tokenizer, stills, course)
    return [("words", WORDS_PLAN, words_s), ("reading", READING_PLAN, reading_s)]


def _open_in_float32(config: Path) -> None:
    """Set a config to float32, in which diffusers opens weights; transformers takes the one that the config says."""
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def _forget_place(config: Path) -> None:
    """Where a part was read from is noted by diffusers: a folder of this machine, which is nobody else's business."""
    content = json.loads(config.read_text())
    content.pop("_name_or_path", None)
    config.write_text(json.dumps(content, indent=2) + "\n")


def _vae(work: Path, seed: int) -> tuple[AutoencoderKL, float]:
    """Return the trained VAE, kept beside its checkpoint.

    Training it draws thousands of pictures before the first step.
    """
    folder, seconds = work / "vae", work / "vae_seconds"
    if not seconds.exists():
        vae, spent_s = train_vae(seed=seed, plan=VAE_PLAN, checkpoint=work / "vae.pt")
        vae.save_pretrained(folder)
        seconds.write_text(str(spent_s))
    return AutoencoderKL.from_pretrained(folder), float(seconds.read_text())


if __name__ == "__main__":
    run(main)
