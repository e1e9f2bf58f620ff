"""The scale of each module's low-rank change, alpha / rank: the layouts keep the alpha in different places.

kohya and LyCORIS write an alpha beside the factors of each module. peft writes one config, beside the file; diffusers
copies it into the file's metadata, once for each part of the model. Without any, the change is its factors' product.
"""

import logging
import math
import posixpath
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from animatediff import storage
from animatediff.config import first_problem
from animatediff.errors import UserError
from animatediff.weights.layouts.motion import from_official
from animatediff.weights.lora.module_index import ModuleRef
from animatediff.weights.reading.files import local_copy, parse_json, read_text
from animatediff.weights.reading.tensors import TensorFile

_log = logging.getLogger(__name__)

_CONFIG_FILE = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
"""diffusers' name for it in a file's metadata."""
_PREFIXES = {"unet": "unet.", "motion": "unet.", "text_encoder": "text_encoder.", "text_encoder_2": "text_encoder_2."}
_Rank = Annotated[int, Field(gt=0, le=1 << 20)]
_APPLIED = ("LORA", "LOHA", "LOKR")


class PeftLoraConfig(BaseModel):
    """The fields of peft's config that set a LoRA's scale; patterns override those of the modules that they name."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: str = "LORA"
    r: _Rank
    alpha: FiniteFloat = Field(validation_alias=AliasChoices("lora_alpha", "alpha"))
    use_rslora: bool = False
    use_dora: bool | None = False
    rank_pattern: dict[str, _Rank] = {}
    alpha_pattern: dict[str, FiniteFloat] = {}

    def scale(self, module: str, rank: int | None) -> float:
        """Return the factor of one module's change: alpha / rank, or alpha / sqrt(rank) where it is a rank-stabilised.

        Args:
            module: its path in the model.
            rank: of its factors; None where they have none, so that the config's counts.
        """
        rank = rank or int(_matching_value(self.rank_pattern, module, self.r))
        alpha = _matching_value(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def module_scale(
    factors: Mapping[str, Tensor], rank: int | None, peft_config: PeftLoraConfig | None, module: ModuleRef
) -> float:
    """Return what a module's change is multiplied by.

    Args:
        factors: the module's, of which `alpha` and LyCORIS' `scalar` count: the latter multiplies the change as it is.
        rank: of its factors; None where they have none.
        peft_config: peft's, for modules without an alpha of their own.
        module: whose change it is.

    Raises:
        ValueError: alpha or scalar is no number.
    """
    alpha = factors.get("alpha")
    scalar = _number(factors["scalar"], "scalar") if "scalar" in factors else 1.0
    # Two whole matrices have no rank. LyCORIS then writes any alpha, 1e10 too, and does not use it.
    if alpha is None or rank is None:
        return scalar * (peft_config.scale(_path_in_peft(module), rank) if peft_config else 1.0)
    return scalar * _number(alpha, "alpha") / rank


def _number(tensor: Tensor, what: str) -> float:
    if tensor.numel() != 1 or tensor.is_complex() or not math.isfinite(float(tensor)):
        said = tensor.tolist() if tensor.numel() == 1 else f"numbers of the shape {list(tensor.shape)}"
        raise ValueError(f"its {what} is no finite number: {said}")
    return float(tensor)


def _path_in_peft(module: ModuleRef) -> str:
    """Return the module's path in the models that peft trains: diffusers', and transformers' of the time."""
    if module.part == "motion":
        return from_official(module.path, "diffusers")
    if module.part.startswith("text_encoder"):
        return f"text_model.{module.path.removeprefix('text_model.')}"
    return module.path


def read_peft_config(file: TensorFile, part: str) -> PeftLoraConfig | None:
    """Return what peft says of one part, beside the file or in its metadata; None where it says nothing.

    Raises:
        UserError: it cannot be read, or is of another algorithm than LoRA, LoHa and LoKr.
    """
    beside = storage.beside(file.uri, _CONFIG_FILE)
    if posixpath.basename(file.uri).startswith("adapter_model.") and storage.exists(beside):
        return _with_lengths(_parse(read_text(local_copy(beside), beside), "", beside), file, beside)
    if METADATA_KEY in file.metadata:
        source = f"{METADATA_KEY} of {file.uri}"
        return _with_lengths(_parse(file.metadata[METADATA_KEY], _PREFIXES[part], source), file, source)
    if any(name.startswith("base_model.model.") for name in file.tensors):
        _log.warning("%s came without its %s: alpha is taken to be the rank", file.uri, _CONFIG_FILE)
    return None


def _with_lengths(peft_config: PeftLoraConfig | None, file: TensorFile, source: str) -> PeftLoraConfig | None:
    """Refuse a DoRA whose lengths are lost: without them its factors are another change."""
    if peft_config and peft_config.use_dora and not any("lora_magnitude_vector" in name for name in file.tensors):
        raise UserError(f"{source} is of the kind DoRA, and {file.uri} has no lora_magnitude_vector: save it anew")
    return peft_config


def _parse(text: bytes | str, prefix: str, source: str) -> PeftLoraConfig | None:
    content = parse_json(text, source)
    # The file of a single part has no prefixes.
    found = _without_prefix(content, prefix) if any("." in key for key in content) else content
    try:
        peft_config = PeftLoraConfig.model_validate(found) if found else None
    except ValidationError as error:
        raise UserError(f"{source}: {first_problem(error)}") from error
    if peft_config and peft_config.peft_type not in _APPLIED:
        raise UserError(f"{source} is of peft's {peft_config.peft_type}, which is not applied here: take a LoRA")
    for pattern in (peft_config.rank_pattern, peft_config.alpha_pattern) if peft_config else ():
        _check_names(pattern, source)
    return peft_config


def _without_prefix(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in content.items() if key.startswith(prefix)}


def _check_names(pattern: Mapping[str, float], source: str) -> None:
    # peft takes a name for a regular expression. A stranger's is not run: it can be made to take for ever.
    for name in pattern:
        if not re.fullmatch(r"\^?[\w.-]+", name):
            raise UserError(f"{source} has a rank or alpha for {name}: regular expressions are not read, name modules")


def _matching_value(pattern: Mapping[str, float], module: str, default: float) -> float:
    """Return the number of the first name that is the module's path or, as in peft, the end of it."""
    for name, value in pattern.items():
        if module == name.removeprefix("^") or module.endswith(f".{name}"):
            return value
    return default
