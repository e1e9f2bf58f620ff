"""What motion module files written here say of themselves, in their safetensors metadata."""

import json
from collections.abc import Mapping
from typing import Any

from animatediff.models.config import MotionConfig
from animatediff.weights.layouts.few_step import FewStepSampling
from animatediff.weights.reading.files import parse_json

CONFIG_KEY = "motion_config"
"""Where files written here keep their config."""
_SCHEDULE, _FEW_STEP = "noise_schedule", "few_step"  # beside the fields of the config


def own_config(metadata: Mapping[str, str]) -> MotionConfig | None:
    """Return the config in the metadata of a file that was written here.

    Raises:
        ValueError: it cannot be read.
    """
    content = _own_content(metadata)
    return (
        MotionConfig.model_validate({k: v for k, v in content.items() if k not in (_SCHEDULE, _FEW_STEP)})
        if content
        else None
    )


def own_schedule(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the noise schedule that a file written here was trained with, if it says so.

    Raises:
        ValueError: the config cannot be read.
    """
    schedule = _own_content(metadata).get(_SCHEDULE)
    return schedule if isinstance(schedule, dict) else None


def own_few_step(metadata: Mapping[str, str]) -> FewStepSampling | None:
    """Return what a file written here must be sampled with, if few steps are enough for it.

    Raises:
        ValueError: it cannot be read.
    """
    found = _own_content(metadata).get(_FEW_STEP)
    return None if found is None else FewStepSampling.model_validate(found)


def own_metadata(
    config: MotionConfig, schedule: Mapping[str, Any] | None, few_step: FewStepSampling | None = None
) -> dict[str, str]:
    """Return what `own_config`, `own_schedule` and `own_few_step` read back.

    It is one entry: the order of several is left to chance, and the file's bytes with it.
    """
    extra: dict[str, Any] = {} if schedule is None else {_SCHEDULE: dict(schedule)}
    extra |= {} if few_step is None else {_FEW_STEP: few_step.model_dump(mode="json", exclude_none=True)}
    return {CONFIG_KEY: json.dumps(config.model_dump(mode="json") | extra)}


def _own_content(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get(CONFIG_KEY)
    return {} if text is None else parse_json(text, CONFIG_KEY)
