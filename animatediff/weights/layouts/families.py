"""What the names in a weights file give away: a table of patterns, most telling first.

The names are those of the programs that write the files; each is read off real files or the code that writes them.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeGuard, get_args

from pydantic import Field

from animatediff.config import Config
from animatediff.weights.reading.tensors import TensorFile

LoraFamily = Literal["lora", "domain_adapter", "motion_lora"]
"""What low-rank files change: the base (a domain adapter is a LoRA, too), or with `motion_lora` the motion module."""
Family = Literal[
    LoraFamily,
    "motion_module",
    "checkpoint",
    "vae",
    "textual_inversion",
    "controlnet",
    "t2i_adapter",
    "sparse_control",
    "ip_adapter",
    "image_encoder",
    "upscaler",
    "unknown",
]
Base = Literal["sd1", "sd2", "sdxl", "sdxl-refiner", "sd3", "flux", "other"]

# A low-rank factor: kohya's `.lora_down.weight`, diffusers' `.lora.down.weight` and `.processor.to_q_lora.down.weight`,
# PEFT's `.lora_A.weight` or `.lora_A.default.weight`, MotionDirector's `.processor.0_lora.down.weight`.
_FACTOR = r"[._](?:lora|lora_linear_layer)[._]{}(?:\.[\w-]+)?(?:\.weight)?$"
DOWN = _FACTOR.format(r"(?:down|A|embedding_A)")
UP = _FACTOR.format(r"(?:up|B|embedding_B)")

ALGORITHMS: tuple[tuple[str, str], ...] = (
    ("DoRA", r"[._](?:dora_scale|lora_magnitude_vector)\b"),
    ("GLoRA", r"^(?:lora|lycoris)_.+\.[ab][12]\.weight$"),
    ("IA3", r"\.on_input$|[._]ia3_l\b"),
    ("OFT", r"[._]oft_(?:blocks|diag|[rR])\b"),
    ("LoHa", r"[._]hada_w[12]"),
    ("LoKr", r"[._]lokr_w[12]"),
    ("LoCon", r"[._]lora_mid\.weight$"),
    ("LoRA", f"{DOWN}|{UP}"),
    ("full", r"^(?:lora|lycoris)_.+\.(?:diff|diff_b|w_norm|b_norm)$"),
)
"""How a file changes the weights of a model, by a pattern among its names; the first that is found."""


FAMILY_NAMES: dict[Family, str] = {
    "motion_module": "motion module",
    "motion_lora": "MotionLoRA",
    "domain_adapter": "domain adapter (LoRA on the base's attention, rank 128)",
    "checkpoint": "checkpoint",
    "vae": "VAE",
    "lora": "LoRA",
    "textual_inversion": "textual inversion",
    "controlnet": "ControlNet",
    "t2i_adapter": "T2I-Adapter",
    "sparse_control": "SparseCtrl encoder",
    "ip_adapter": "IP-Adapter",
    "image_encoder": "image encoder of IP-Adapters",
    "upscaler": "upscaler",
}
"""What people call a file of a family."""


def is_lora(family: Family | None) -> TypeGuard[LoraFamily]:
    """Whether files of a family are low-rank ones, which are added to weights."""
    return family in get_args(LoraFamily)


class FileRule(NamedTuple):
    """A kind of file: what it is if all patterns are found among its names."""

    family: Family
    patterns: tuple[str, ...]
    layout: str | None = None
    version: str | None = None


FILE_RULES: tuple[FileRule, ...] = (
    # Adapters first: several of them hold low-rank factors, or parts of a UNet under its own names.
    FileRule("ip_adapter", (r"[._]to_k_ip\.", r"^image_proj\."), version="IP-Adapter"),
    FileRule("ip_adapter", (r"^(?:ip_adapter\.)?\d+\.to_k_ip\.",), version="IP-Adapter"),
    FileRule("controlnet", (r"^lora_controlnet$",), "ldm", "Control-LoRA"),
    FileRule("controlnet", (r"^lllite_(?:unet|conds)",), "kohya", "ControlNet-LLLite"),
    FileRule("controlnet", (r"^difference$", r"^control_model\."), "ldm", "ControlNet difference"),
    FileRule("controlnet", (r"(?:^|\.)(?:task_embedding$|spatial_ch_projs\.)",), version="ControlNet union"),
    FileRule("controlnet", (r"(?:^|\.)(?:base_to_ctrl|ctrl_to_base)\.",), "diffusers", "ControlNet-XS"),
    FileRule("lora", ("|".join(pattern for _, pattern in ALGORITHMS),)),
    FileRule(
        "sparse_control", (r"(?:^|\.)controlnet_cond_embedding\.conv_in\.", r"motion_modules\."), version="scribble"
    ),
    FileRule("sparse_control", (r"(?:^|\.)controlnet_cond_embedding\.", r"motion_modules\."), version="rgb"),
    FileRule("controlnet", (r"(?:^|\.)controlnet_cond_embedding\.",), "diffusers", "ControlNet"),
    FileRule("controlnet", (r"^control_model\.|^input_hint_block\.\d|^zero_convs\.\d",), "ldm", "ControlNet"),
    FileRule("t2i_adapter", (r"^(?:adapter\.)?body\.\d+\.(?:block1\.|resnets\.\d+\.block1\.)",), version="T2I-Adapter"),
    FileRule("motion_module", (r"motion_modules\.\d+\.|temporal_attentions\.\d+\.",)),
    # Stable Diffusion and its parts.
    FileRule("checkpoint", (r"^model\.diffusion_model\.",), "ldm"),
    FileRule("checkpoint", (r"^model_ema\.diffusion_model",), "ldm"),  # only the averaged UNet was kept
    FileRule(
        "checkpoint",
        (r"^(?:diffusion_model\.)?(?:input_blocks\.0\.0|joint_blocks\.0|double_blocks\.0)\.",),
        "ldm",
        "UNet",
    ),
    FileRule("checkpoint", (r"^conv_in\.weight$", r"^down_blocks\.0\.", r"^time_embedding\."), "diffusers", "UNet"),
    FileRule("checkpoint", (r"^unet\.conv_in\.weight$", r"^unet\.down_blocks\.0\."), "diffusers"),
    FileRule("vae", (r"^(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.(?:down|up)\.\d+\.block\.",), "ldm"),
    FileRule("vae", (r"^(?:vae\.)?(?:encoder|decoder)\.(?:down|up)_blocks\.\d+\.resnets\.",), "diffusers"),
    FileRule("checkpoint", (r"^(?:cond_stage_model|conditioner)\.",), "ldm", "text encoder"),
    FileRule(
        "checkpoint", (r"^(?:text_model\.)?encoder\.layers\.0\.self_attn\.q_proj\.",), "diffusers", "text encoder"
    ),
    FileRule("checkpoint", (r"^transformer\.resblocks\.0\.", r"token_embedding\.weight$"), "ldm", "text encoder"),
    FileRule("checkpoint", (r"^encoder\.block\.0\.layer\.0\.SelfAttention\.",), "diffusers", "text encoder"),
    FileRule(
        "image_encoder",
        (r"^vision_model\.encoder\.layers\.0\.self_attn\.q_proj\.", r"^visual_projection\.weight$"),
        "diffusers",
        "CLIP vision model",
    ),
    # The rest.
    FileRule("textual_inversion", (r"^string_to_param\.|^emb_params$|^clip_[lg]$",), "a1111"),
    FileRule("textual_inversion", (r"^text_encoders_[01]$",), "diffusers"),
    FileRule("textual_inversion", (r"^<[^\n]+>$",), "diffusers"),
    FileRule(
        "upscaler", (r"\brdb1\.conv1\.|\bRDB1\.conv1\.|^layers\.0\.residual_group\.",), version="ESRGAN or SwinIR"
    ),
)


class FileContents:
    """A file's tensors, with their names joined to search them all at once.

    `^` and `$` in a pattern are a name's start and end.
    """

    def __init__(self, file: TensorFile) -> None:
        self.tensors = file.tensors
        self.metadata = file.metadata
        self.shapes = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
        self._lines = "\n".join(map(_line, file.tensors))

    def has(self, pattern: str) -> bool:
        """Whether a name matches somewhere."""
        return re.search(pattern, self._lines, re.MULTILINE) is not None

    def matching(self, pattern: str | re.Pattern[str]) -> Iterator[str]:
        """Yield the names that match somewhere."""
        search = re.compile(pattern).search
        return (name for name in self.shapes if search(_line(name)))


def _line(name: str) -> str:
    return name.replace("\n", " ")


class WeightsIdentity(Config):
    """What a file is. None stands for what its content does not tell."""

    uri: str
    family: Family
    version: str | None = None
    """Of a motion module: v1, v2, v3, sdxl, animatelcm, hotshotxl, pia, animatelcm-i2v; of a LoRA its algorithm: LoRA,
    LoCon, LoHa, ...; of a checkpoint that is no text-to-image model what it is for; of an embedding its vectors."""
    layout: str | None = None
    """Whose key names: official, diffusers, kohya, peft, ldm, a1111, ..."""
    base: Base | None = None
    """The model it was made for."""
    text_width: int | None = None
    """Numbers a token of the text embeddings that it reads, or of an embedding: 768 of SD 1.x, 1024 of SD 2, 2048 of
    SDXL; of a small or unknown base any other."""
    rank: str | None = None
    """Of a low-rank file: one number, or `4-64` where its layers differ."""
    alpha: str | None = None
    """Likewise; None where the file has none, which stands for the rank."""
    dtype: str | None = None
    """Such as `float16`; several are joined with `+`."""
    parameters: int = 0
    """Trained numbers: without position tables, alphas and EMA copies."""
    sha256: str | None = None
    """Of the file's bytes."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """What the file says of itself: title, author, licence, trigger words, base."""
    note: str | None = None
    """What a user should know about this kind of file."""


class PartialIdentity(NamedTuple):
    """What names and shapes tell of a file; the fields mean the same as those of its `WeightsIdentity`."""

    family: Family
    version: str | None = None
    layout: str | None = None
    base: Base | None = None
    rank: str | None = None
    alpha: str | None = None
    note: str | None = None
    text_width: int | None = None


def find_rule(contents: FileContents) -> FileRule | None:
    """Return the first rule that the file fulfils."""
    return next((rule for rule in FILE_RULES if all(contents.has(pattern) for pattern in rule.patterns)), None)
