"""The world's motion module is distilled from drawn clips, and what it saves and loses is measured."""

import pytest

from animatediff.errors import UserError
from animatediff.sprites import shipped
from animatediff.sprites.few_step import evaluation, train
from animatediff.weights import motion_modules


def test_it_is_distilled_and_measured(tmp_path, caplog):
    train.main(tmp_path, num_clips=4, num_steps=1)
    file = tmp_path / shipped.FEW_STEP.name
    steps = motion_modules.open_file(str(tmp_path / "motion_module.safetensors")).few_step.num_inference_steps
    caplog.set_level("INFO")
    evaluation.main(file, num_clips=1, entries=("base",), sheet=tmp_path / "s.png")
    assert f"base, {steps} steps" in caplog.text
    assert (tmp_path / "s-base.png").is_file()
    with pytest.raises(UserError, match="does not say how it is sampled"):
        evaluation.main(shipped.MOTION_MODULE)
