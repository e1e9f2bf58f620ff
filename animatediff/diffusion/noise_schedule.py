"""What a noise schedule may say; `schedule` computes with it. Configs are read before torch is imported."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from animatediff.config import Config

PredictionType = Literal["epsilon", "v_prediction"]
_BetaSchedule = Literal["linear", "scaled_linear"]
_Timesteps = Annotated[int, Field(ge=2, le=100_000)]
_Beta = Annotated[float, Field(gt=0, lt=1)]


class NoiseSchedule(Config):
    """Amounts of noise over the timesteps.

    The defaults are the reference's training config. Its betas are linear where Stable Diffusion's are
    scaled_linear: the paper chose them against flicker, and sampling with the other kind greys the picture out.

    Each published motion module's own is in `weights.motion_schedule`.
    """

    num_train_timesteps: _Timesteps = 1000
    """Timesteps of the diffusion."""
    beta_start: _Beta = 0.00085
    """Noise variance added at the first timestep."""
    beta_end: _Beta = 0.012
    """The same at the last one."""
    beta_schedule: _BetaSchedule = "linear"
    """What rises evenly between them: the betas (linear) or their square roots (scaled_linear)."""
    prediction_type: PredictionType = "epsilon"
    """What the model predicts: the noise (epsilon), or the `velocity` (v_prediction)."""
    zero_terminal_snr: bool = False
    """Whether the last timestep holds no signal at all, and sampling begins with it (Lin et al., arXiv 2305.08891).
    Only a model that predicts the velocity can learn from such a timestep."""

    @model_validator(mode="after")
    def _no_signal_needs_velocity(self) -> Self:
        if self.zero_terminal_snr and self.prediction_type != "v_prediction":
            raise ValueError(
                "zero_terminal_snr needs prediction_type v_prediction: "
                "where only noise is left, predicting it teaches nothing"
            )
        return self


class NoiseScheduleOverrides(Config):
    """Overrides of a noise schedule; a field that is null is inherited, however it came to be null."""

    num_train_timesteps: _Timesteps | None = None
    """Timesteps of the diffusion."""
    beta_start: _Beta | None = None
    """Noise variance added at the first timestep."""
    beta_end: _Beta | None = None
    """The same at the last one."""
    beta_schedule: _BetaSchedule | None = None
    """What rises evenly between them: the betas (linear) or their square roots (scaled_linear)."""
    prediction_type: PredictionType | None = None
    """What the model predicts: the noise (epsilon), or the `velocity` (v_prediction)."""
    zero_terminal_snr: bool | None = None
    """Whether the last timestep holds no signal at all; see `NoiseSchedule`."""

    @classmethod
    def from_schedule(cls, schedule: NoiseSchedule) -> Self:
        """Override every field by a schedule's."""
        return cls(**schedule.model_dump())

    def apply_to(self, schedule: NoiseSchedule) -> NoiseSchedule:
        """Return `schedule` with the overridden fields.

        Where they say that noise is predicted, an end without signal is not inherited: it is the velocity's.

        Raises:
            ValueError: the two together are no schedule.
        """
        inherited = schedule.model_dump()
        if self.prediction_type == "epsilon":
            inherited["zero_terminal_snr"] = False
        return NoiseSchedule.model_validate(inherited | self.model_dump(exclude_none=True))
