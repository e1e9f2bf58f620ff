"""A motion module's noise schedule: its file's own, else that of the published version which it is."""

from typing import NamedTuple

import pytest
from safetensors.torch import save_file

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.errors import UserError
from animatediff.weights import motion_modules
from animatediff.weights.motion_schedule import MotionSchedule, read_schedule
from animatediff.weights.prediction import Prediction
from tests.unit.weights.test_motion_modules import make, published

REFERENCE = ("linear", 0.012, 0.00158)
# Betas, the last of them, and the share of the signal's variance that is left at the end.
VERSIONS = {
    "v1": REFERENCE,
    "v2": REFERENCE,
    "v3": REFERENCE,
    "animatelcm": REFERENCE,
    "sdxl": ("scaled_linear", 0.020, 0.00023),
    "hotshotxl": ("scaled_linear", 0.012, 0.00466),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_version_is_known_by_its_schedule(version, tmp_path):
    uri, converted = str(tmp_path / "mm.safetensors"), str(tmp_path / "converted.safetensors")
    widths = (320, 32, 32) if "xl" in version else (320, 32, 32, 32)
    save_file(published(version, widths=widths), uri)
    motion_modules.convert(uri, converted, to="official")
    kind, last, left = VERSIONS[version]
    for file in (uri, converted):
        schedule, is_named = read_schedule(file)
        assert not is_named
        assert schedule == NoiseSchedule(beta_schedule=kind, beta_end=last)
        assert compute_alphas_cumprod(schedule)[-1].item() == pytest.approx(left, rel=0.01)


def test_what_a_file_says_comes_before_its_version(tmp_path):
    uri = str(tmp_path / "mm.safetensors")
    motion_modules.write(uri, make("sdxl"), schedule={"beta_end": 0.015})
    assert read_schedule(uri) == MotionSchedule(NoiseSchedule(beta_end=0.015), is_named=True)
    for said, told in (
        ({"beta_end": 2}, r"beta_end: Input should be less than 1 \(got 2\)"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr needs prediction_type v_prediction: .*"),
    ):
        motion_modules.write(uri, make("sdxl"), schedule=said)
        with pytest.raises(UserError, match=f"the noise schedule in .* cannot be used: {told}$"):
            read_schedule(uri)


def test_motion_modules_for_a_small_base_are_no_published_ones(tmp_path):
    """Of three blocks, they have the shape of SDXL's."""
    uri = str(tmp_path / "mm.safetensors")
    save_file(published("sdxl"), uri)
    assert read_schedule(uri) == MotionSchedule(NoiseSchedule())
    motion_modules.write(uri, make("sdxl"))
    assert read_schedule(uri) == MotionSchedule(NoiseSchedule())


class Base(NamedTuple):
    """A base of whose configs the scheduler's alone matters."""

    prediction: Prediction | None


V, ZERO_SNR = Prediction("v_prediction"), Prediction("v_prediction", zero_terminal_snr=True)
NOISE = Prediction("epsilon")


@pytest.mark.parametrize(
    ("named", "base", "checkpoint", "expected"),
    [
        (None, None, None, NOISE),
        (None, NOISE, None, NOISE),
        (None, V, None, V),
        (None, ZERO_SNR, None, ZERO_SNR),
        (None, None, ZERO_SNR, ZERO_SNR),
        (None, ZERO_SNR, V, V),
        (None, V, NOISE, NOISE),
        # Of a motion module whose file says how it was trained.
        (NOISE, V, None, V),
        (V, ZERO_SNR, None, V),
        (ZERO_SNR, V, None, ZERO_SNR),
        (V, NOISE, None, V),
        (V, None, ZERO_SNR, ZERO_SNR),
        (ZERO_SNR, None, V, V),
    ],
)
def test_what_is_predicted_is_as_the_checkpoint_says_else_the_base(named, base, checkpoint, expected):
    own = MotionSchedule(NoiseSchedule(beta_end=0.02, **(named or NOISE)._asdict()), is_named=named is not None)
    assert own.on(Base(base), checkpoint) == NoiseSchedule(beta_end=0.02, **expected._asdict())


def test_fresh_motion_modules_have_the_references():
    assert read_schedule(None) == MotionSchedule(NoiseSchedule())
