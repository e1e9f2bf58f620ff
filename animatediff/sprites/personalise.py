"""Personalised checkpoints of the sprite world's base, in the layouts that users have.

`python -m animatediff.sprites.personalise --base FOLDER --output FOLDER` makes three: a DreamBooth fine-tune of the cel
style as a single file in the original layout, a LoRA of the chalk style in kohya's, and a textual inversion of a
colour. None needs a trigger word but the last, whose word is its purpose.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from animatediff.sprites.command import run
from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.models.text_to_image import Course, TextToImage, refine_text_to_image
from animatediff.sprites.scenes.stills import Stills, draw_stills
from animatediff.sprites.scenes.world import NEW_COLOUR, Rgb
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.layouts import ldm
from animatediff.weights.reading.tensors import save_tensors

logger = logging.getLogger(__name__)

_RANK = 4
_LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
_FIRST_WORD = "orange"  # the new colour's vector begins as this one's


@dataclass(frozen=True)
class Lesson:
    """How a checkpoint is trained.

    Attributes:
        plan: steps and learning rate.
        num_pictures: it sees.
        batch_size: pictures a step.
    """

    plan: Fit
    num_pictures: int
    batch_size: int = 32


# The rates fall for most of the steps, as the base's does.
DREAMBOOTH = Lesson(Fit(num_steps=500, lr=8e-4, warmup=20, decay=0.8, ema_decay=0.99), num_pictures=2000)
LORA = Lesson(Fit(num_steps=600, lr=2e-3, warmup=20, decay=0.8, ema_decay=0.99), num_pictures=2000)
# The text encoder tells its words apart by much, so that a new one has far to go: of 36 stills 25 were read as brown.
# Three vectors gave 27, but moved the words behind them: 9 of 18 clips then went as their prompts say, with one 14.
EMBEDDING = Lesson(
    Fit(num_steps=1000, lr=3e-1, warmup=20, decay=0.8, ema_decay=0.98, weight_decay=0.0), num_pictures=1000
)


def main(base: str, output: Path, seed: int = 0) -> None:
    """Make the three checkpoints.

    Args:
        base: folder of the base model.
        output: folder for `cel_style.safetensors`, `chalk_style.safetensors` and `brown.safetensors`.
        seed: of pictures and draws.
    """
    output.mkdir(parents=True, exist_ok=True)
    train_dreambooth(base, str(output / "cel_style.safetensors"), seed=seed)
    train_lora(base, str(output / "chalk_style.safetensors"), seed=seed)
    train_embedding(base, str(output / "brown.safetensors"), seed=seed)


def train_dreambooth(base: str, out_uri: str, *, seed: int, style: str = "cel", lesson: Lesson = DREAMBOOTH) -> None:
    """Fine-tune the whole UNet on a style and write the base's three parts as one file, in the original layout.

    Args:
        base: folder of the base model.
        out_uri: the `.safetensors` file, float16.
        seed: of pictures and draws.
        style: a key of `drawing.STYLES`.
        lesson: steps, rate and batch.
    """
    student = _Student(base)
    student.model.unet.requires_grad_(True)
    student.learn(draw_stills(lesson.num_pictures, seed=seed + 1, styles=(style,), odd_colours=0), lesson, seed)
    parts: dict[str, tuple[str, nn.Module]] = {
        "unet": (ldm.UNET_PREFIX, student.model.unet),
        "vae": (ldm.VAE_PREFIX, student.vae),
        "text_encoder": (ldm.SD1_TEXT_PREFIX, student.model.text_encoder),
    }
    tensors: dict[str, Tensor] = {}
    for part, (prefix, module) in parts.items():
        state = module.state_dict()
        names = ldm.sources(part, state)
        tensors |= {prefix + names[name].name: tensor.half() for name, tensor in state.items()}
    save_tensors(out_uri, tensors, {})


def train_lora(base: str, out_uri: str, *, seed: int, style: str = "chalk", lesson: Lesson = LORA) -> None:
    """Train a LoRA of a style on the UNet's transformers and write it under kohya's names.

    Args:
        base: folder of the base model.
        out_uri: the `.safetensors` file, float16.
        seed: of weights, pictures and draws.
        style: a key of `drawing.STYLES`.
        lesson: steps, rate and batch.
    """
    # Only needed to train: loading a LoRA is this project's own.
    from peft import LoraConfig, get_peft_model_state_dict

    student = _Student(base)
    unet = student.model.unet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_LORA_TARGETS)))
    student.learn(draw_stills(lesson.num_pictures, seed=seed + 1, styles=(style,), odd_colours=0), lesson, seed)
    tensors: dict[str, Tensor] = {}
    for key, tensor in get_peft_model_state_dict(unet).items():
        path, factor = key.removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + path.replace(".", "_")
        tensors[f"{name}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[factor] }.weight"] = tensor.half()
        tensors[f"{name}.alpha"] = torch.tensor(float(_RANK))
    save_tensors(out_uri, tensors, {"ss_network_dim": str(_RANK), "ss_network_alpha": str(_RANK)})


def train_embedding(
    base: str, out_uri: str, *, seed: int, colour: tuple[str, Rgb] = NEW_COLOUR, lesson: Lesson = EMBEDDING
) -> None:
    """Learn a word for a colour that the base has no name for, and write its vector under the word, as diffusers does.

    Args:
        base: folder of the base model.
        out_uri: the `.safetensors` file, float32.
        seed: of pictures and draws.
        colour: the word, and what it means.
        lesson: steps, rate and batch; without weight decay, so that the other words stay.
    """
    student = _Student(base)
    table, row = student.add_word(colour[0], like=_FIRST_WORD)
    table.requires_grad_(True)
    is_new = (torch.arange(len(table)) == row)[:, None]
    table.register_hook(lambda gradient: gradient * is_new)
    student.learn(draw_stills(lesson.num_pictures, seed=seed + 1, new_colour=colour), lesson, seed)
    save_tensors(out_uri, {colour[0]: table[[row]].detach()}, {})


class _Student:
    """A base that is to learn: all parts frozen at first."""

    def __init__(self, base: str) -> None:
        self.vae = load_vae(base)
        self.tokenizer, text_encoder = load_text_encoder(base)
        self.model = TextToImage(text_encoder.float(), load_unet(base)).requires_grad_(False)

    def add_word(self, word: str, *, like: str) -> tuple[nn.Parameter, int]:
        """Give the text encoder one more token; returns its table and the token's row."""
        self.tokenizer.add_tokens([word])
        encoder = self.model.text_encoder
        encoder.resize_token_embeddings(len(self.tokenizer))
        table = encoder.get_input_embeddings().weight
        row, model_row = self.tokenizer.convert_tokens_to_ids([word, f"{like}</w>"])
        with torch.no_grad():
            table[row] = table[model_row]
        return table, row

    def learn(self, stills: Stills, lesson: Lesson, seed: int) -> None:
        course = Course(lesson.plan, seed, batch_size=lesson.batch_size)
        seconds = refine_text_to_image(self.model, self.vae, self.tokenizer, stills, course)
        logger.info("trained in %.0f s", seconds)


if __name__ == "__main__":
    run(main)
