"""What a UNet predicts: as its weights file says, or the scheduler's config beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from animatediff import storage
from animatediff.errors import UserError
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.remote_header import remote_header
from animatediff.weights.reading.tensors import TensorFile, open_tensors

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
"""Where a diffusers folder says it."""

# Empty tensors with which checkpoints tell web UIs: what ComfyUI and reForge look for.
_PREDICTS_V, _ZERO_TERMINAL_SNR = "v_pred", "ztsnr"
_EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
_OF_MODELSPEC = {"v": "v_prediction", "epsilon": "epsilon"}


class Prediction(NamedTuple):
    """What a UNet was trained to predict."""

    prediction_type: str
    """In diffusers' words, of which `NoiseSchedule` has those that are trained and sampled here."""
    zero_terminal_snr: bool = False
    """Whether the last timestep that it was trained on holds no signal."""

    @property
    def predicts_v(self) -> bool:
        """Whether it predicts the velocity, and not, as most do, the noise."""
        return self.prediction_type == "v_prediction"

    def __str__(self) -> str:
        """Return it as logs and messages have it."""
        return f"{self.prediction_type}{' with zero_terminal_snr' if self.zero_terminal_snr else ''}"


def of_scheduler(config: Mapping[str, Any]) -> Prediction | None:
    """Return what a scheduler's config says; None where it does not say it.

    `rescale_betas_zero_snr` counts where the velocity is predicted alone: of a timestep without signal nothing can be
    learned about the noise.
    """
    name = config.get("_class_name")
    if isinstance(name, str) and name.startswith("EDM"):
        return Prediction("EDM's denoised picture")
    said = config.get("prediction_type")
    if said is None:
        return None
    return Prediction(str(said), said == "v_prediction" and config.get("rescale_betas_zero_snr") is True)


def of_file(file: TensorFile) -> Prediction | None:
    """Return what a single file says, by tensors without a number in them or by ModelSpec; None where it does not.

    Raises:
        UserError: it was trained with a noise schedule of a kind that is not read here.
    """
    if mark := next((name for name in _EDM if name in file.tensors), None):
        raise UserError(
            f"{file.uri} was trained with EDM's noise schedule (it has {mark}), which no sampler here has: take a "
            "checkpoint that predicts noise (epsilon) or velocity (v_prediction)"
        )
    if _PREDICTS_V in file.tensors:
        return Prediction("v_prediction", _ZERO_TERMINAL_SNR in file.tensors)
    said = _OF_MODELSPEC.get(file.metadata.get("modelspec.prediction_type", ""))
    return None if said is None else Prediction(said)


def of_checkpoint(uri: str) -> Prediction | None:
    """Return what a checkpoint says, a single file or a diffusers folder; None where it does not.

    Of a remote one little is fetched: a safetensors file's header, or a folder's config.

    Raises:
        UserError: it cannot be read, or is of a kind that is not read here.
    """
    if header := remote_header(uri):
        return of_file(header)
    is_web_page = uri.startswith(("http://", "https://"))  # which may not know what a folder is
    if storage.is_local(uri) or is_web_page or storage.find_files(uri) == ["."]:
        path = local_copy(uri)
        return of_folder(path) if path.is_dir() else of_file(open_tensors(uri))
    config = storage.join(uri, SCHEDULER_CONFIG)
    return of_scheduler(read_json(local_copy(config), config)) if storage.exists(config) else None


def of_folder(folder: Path) -> Prediction | None:
    """Return what the scheduler in a diffusers folder says; None where there is none, or it does not say it.

    Raises:
        UserError: its config cannot be read.
    """
    config = folder / SCHEDULER_CONFIG
    return of_scheduler(read_json(config, str(config))) if config.is_file() else None


def check_agrees(checkpoint: str, said: Prediction | None, prediction_type: str) -> None:
    """Refuse a checkpoint that predicts the velocity in a noise schedule of noise.

    What says epsilon is taken with either: schedulers' configs say it of many that nobody asked.

    Args:
        checkpoint: its URI.
        said: what it says.
        prediction_type: of the noise schedule.

    Raises:
        UserError: the line says what to do.
    """
    if said is not None and said.predicts_v and prediction_type != said.prediction_type:
        raise UserError(
            f"checkpoint {checkpoint} was trained to predict v, as it says, and the noise schedule that is set is for "
            f"models that predict {prediction_type}: leave that out, or set its prediction_type to v_prediction"
        )
