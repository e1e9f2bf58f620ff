"""What a catalog says of a clip: weights, settings, prompts."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from animatediff.config import Config
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseScheduleOverrides
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.diffusion.samplers import SamplerName, TimestepSpacing
from animatediff.diffusion.steps.deep_cache import DeepCache
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.diffusion.travel import Travel
from animatediff.models.config import Precision
from animatediff.rendering.catalog.controls import ControlSpec, FileUri, ImageSpec, PiaSpec
from animatediff.rendering.catalog.presets import PresetName, with_preset
from animatediff.rendering.catalog.prompts.prompt_text import PromptSyntax, PromptText, are_texts_by_frame


class RenderSettings(Config):
    """What a prompt is rendered with; the defaults are the reference's."""

    negative_prompt: PromptText = ""
    """What the clip is not to show: the guidance leads away from it. A text, or texts by frame."""
    prompt_syntax: PromptSyntax = "plain"
    """`plain`: brackets are characters, and what a text encoder cannot read at once is cut off. `a1111`: weights
    (`(word:1.2)`, `((word))`, `[word]`), `BREAK`, and any length, as AUTOMATIC1111's program reads them."""
    travel: Travel | None = None
    """How clips go from one prompt to the next that are given by frame; default: evenly, on a straight line."""
    preset: PresetName | None = None
    """`draft`, `fast` or `quality`: sets `sampler`, `timestep_spacing`, `num_inference_steps`, `guidance_interval`,
    `guidance_after_every`, `guidance_every` and `deep_cache`, but for those that are given beside it. Default: each by
    itself."""
    sampler: SamplerName = "ddim"
    """The way from noise to latents. Few-step motion modules need theirs: Lightning `euler` with `timestep_spacing:
    trailing`, AnimateLCM `lcm`; both with few steps and little guidance."""
    timestep_spacing: TimestepSpacing | None = None
    """How the steps are spread over the schedule's timesteps; default: the sampler's own."""
    num_inference_steps: int = Field(25, ge=1, le=1000)
    """Denoising steps."""
    guidance_scale: float = Field(8.0, ge=0, le=100)
    """Strength of the prompt; at 1 and below the negative prompt is not used."""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """Share of the guided prediction that is brought back to the unguided one's spread, against burnt-out colours
    (Lin et al., arXiv 2305.08891, who take 0.7)."""
    guidance_interval: GuidanceInterval | None = None
    """The denoising steps that are guided, each of which takes the UNet twice; default: all. Guidance matters most
    while the picture's layout is found: the last half can often do without it."""
    guidance_after_every: int | None = Field(None, ge=2, le=10)
    """Of how many steps behind `guidance_interval` one is guided as well, so that colours hold that would drift without
    any; default: none is."""
    guidance_every: int = Field(1, ge=1, le=10)
    """Of how many guided steps one computes what guidance leads away from; the others lead as far as that one did."""
    deep_cache: DeepCache | None = None
    """What of the UNet most steps take from an earlier one; default: nothing."""
    clip_skip: int = Field(0, ge=0, le=11)
    """Last layers of the text encoder that are left out; what other tools call clip skip 2 is 1 here. Of SDXL's two
    they come before the last one, which is never read."""
    width: int = Field(512, ge=8)
    """Width of a frame, in pixels."""
    height: int = Field(512, ge=8)
    """Height of a frame, in pixels."""
    num_frames: int = Field(16, ge=1)
    """Any number with `context`; without it, at most what the motion module's position table holds."""
    fps: float = Field(8.0, gt=0, le=100)
    """Frames per second of the written video."""
    context: Context | None = None
    """Windows of frames that the motion module sees at a time; default: all frames at once."""
    loop: bool = False
    """Whether the last frame goes over into the first; windows of `context` then reach around the clip's end."""
    controls: tuple[ControlSpec, ...] = ()
    """ControlNets and SparseCtrl encoders with their pictures; what they say adds up."""
    images: tuple[ImageSpec, ...] = ()
    """IP-Adapters with their pictures; what they say adds up."""
    image_encoder: FileUri | None = None
    """Folder of the CLIP vision model that `images` need: its `config.json` and weights."""
    pia: PiaSpec | None = None
    """The picture that the clip is made of, where the motion module is PIA's; all others know none."""
    init_image: FileUri | None = None
    """A picture that every frame begins from, in place of noise alone; see `strength`."""
    init_video: FileUri | None = None
    """A video whose frames the clip's begin from: from its start on, at `fps`."""
    strength: float = Field(0.8, ge=0, le=1)
    """How much of `init_image` or `init_video` is made anew: the share of the denoising steps that are taken."""
    free_init: FreeInit | None = None
    """Sample the clip several times, each from noise that keeps the low frequencies of the time before: calmer
    clips."""
    second_pass: SecondPass | None = None
    """Make the clip larger, and denoise it again at that size: what other tools call hires fix."""

    @property
    def output_width(self) -> int:
        """Width of a frame as it is written, in pixels: `width`, or that of the second pass."""
        return self.second_pass.enlarged(self.width) if self.second_pass else self.width

    @property
    def output_height(self) -> int:
        """Height of a frame as it is written, likewise."""
        return self.second_pass.enlarged(self.height) if self.second_pass else self.height


def _as_seeds(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


def _some(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values:
        raise ValueError("at least one is needed")
    return values


class SeededRenderSettings(RenderSettings):
    """Settings, and the seeds to repeat them with."""

    _preset = model_validator(mode="before")(with_preset)

    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], BeforeValidator(_as_seeds), AfterValidator(_some)
    ] = (0,)
    """One, or a list: every prompt is rendered once for each."""


class Prompt(SeededRenderSettings):
    """A prompt; settings given here override its entry's and the catalog's."""

    prompt: PromptText
    """What the clip shows: a text, or texts by frame, `{0: a red circle, 24: a blue circle}`, between which it travels.
    Before the first frame that is named and behind the last their texts hold; with `loop` the last travels to the
    first around the clip's end."""


def _as_prompt(value: Any) -> Any:
    if isinstance(value, str) or are_texts_by_frame(value):
        return {"prompt": value}
    is_text = isinstance(value, dict) and len(value) == 1 and not value.keys() & Prompt.model_fields.keys()
    if is_text or not isinstance(value, dict | Prompt):
        # YAML takes `a cat: sitting` for a mapping, `yes` for a truth value, 1984 for a number.
        raise ValueError(f"a text is needed: put it into quotes (got {value!r})")
    return value


Prompts = tuple[Annotated[Prompt, BeforeValidator(_as_prompt)], ...]
"""In a file: texts, texts by frame, or mappings with either as `prompt` and the settings that it needs."""


def _as_file(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class Lora(Config):
    """A low-rank file and its strength; in a file its path alone will do."""

    path: FileUri
    """A weights file, local or at a URI."""
    scale: float = Field(1.0, allow_inf_nan=False)
    """1 is as trained, 0 leaves it out."""


class EmbeddingFile(Config):
    """A textual inversion; in a file its path alone will do."""

    path: FileUri
    """A weights file, local or at a URI."""
    token: str | None = Field(None, min_length=1)
    """The word that stands for it in prompts; default: the file's own, else its name without suffix."""


class PersonalisedFiles(Config):
    """The files that make the base a personalised model, and how it was trained to take noise away.

    What is done with each file is in `weights_slots.WEIGHTS_SLOTS`.
    """

    checkpoint: FileUri | None = None
    """A diffusers folder, or a single file in the original layout; default: the base as it is."""
    vae: FileUri | None = None
    """A VAE's file or diffusers folder; default: the checkpoint's, or the base's where that one has none."""
    loras: tuple[Annotated[Lora, BeforeValidator(_as_file)], ...] = ()
    """LoRA, LoCon, LoHa, LoKr or DoRA files; their changes add up."""
    domain_adapter: Annotated[Lora | None, BeforeValidator(_as_file)] = None
    """The adapter that the motion module was trained beside (v3); left out, as published, it plays no part."""
    motion_loras: tuple[Annotated[Lora, BeforeValidator(_as_file)], ...] = ()
    """Camera moves and learned motions, added to the motion module."""
    embeddings: tuple[Annotated[EmbeddingFile, BeforeValidator(_as_file)], ...] = ()
    """Textual inversions, used where their words stand in a prompt or a negative prompt."""
    noise_schedule: NoiseScheduleOverrides | None = None
    """What of the noise schedule the files do not say, such as `prediction_type` of a checkpoint that predicts the
    velocity without a mark of it; default: as the catalog, the checkpoint, the base and the motion module say."""


class ComputeSettings(Config):
    """How the UNet computes. It stays in memory that way from item to item, and it rounds accordingly."""

    precision: Precision | None = None
    """Of the UNet, and of what adds to its features: `float32`, `bfloat16` or `float16`; default: float32 on a CPU,
    float16 on a GPU. `auto`: bfloat16 where the job renders on CPUs that all multiply it (avx512_bf16 or amx_bf16),
    else the default. The first run finds out, and later ones of the same folder keep to it."""
    compile: bool = False
    """Compile the UNet, on a GPU with CUDA graphs: minutes for each form of clips (size, frames, batch, controls) in
    each worker, then less time a clip, whose last bits differ."""


class ModelFiles(PersonalisedFiles, ComputeSettings):
    """All weights files that an item is rendered with, and how."""

    base: FileUri
    """A diffusers folder, a URI, or a hub id."""
    motion_module: FileUri
    """A file, trained here or published, or a training run's folder."""

    @property
    def resident(self) -> tuple[object, ...]:
        """What stays in memory while models that share it change."""
        return self.base, self.motion_module, self.precision, self.compile


class Entry(SeededRenderSettings, PersonalisedFiles, ComputeSettings):
    """A personalised model and its prompts; settings given here override the catalog's."""

    name: str
    """Name of the model; letters, digits, `.`, `_` and `-`. Entries of one name have the same weights."""
    base: FileUri | None = None
    """Default: the catalog's."""
    motion_module: FileUri | None = None
    """Default: the catalog's."""
    priority: int = 0
    """Entries of a higher priority are rendered first."""
    prompts: Prompts = ()
    """Default: the catalog's, so that every model is shown with every prompt."""
