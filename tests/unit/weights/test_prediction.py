"""What a checkpoint says that it predicts: by tensors, by ModelSpec, or by its scheduler."""

import json
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.weights import checkpoints, prediction
from animatediff.weights.prediction import Prediction

EMPTY = torch.tensor([])
NOISE, V = Prediction("epsilon"), Prediction("v_prediction")
ZERO_SNR = Prediction("v_prediction", zero_terminal_snr=True)


def file(path, names=(), **metadata):
    save_file(dict.fromkeys(names, EMPTY) | {"weight": torch.zeros(1)}, path, metadata or None)
    return str(path)


@pytest.mark.parametrize(
    ("names", "metadata", "said"),
    [
        ((), {}, None),
        (("v_pred",), {}, V),
        (("v_pred", "ztsnr"), {}, ZERO_SNR),
        (("ztsnr",), {}, None),
        ((), {"modelspec.prediction_type": "v"}, V),
        ((), {"modelspec.prediction_type": "epsilon"}, NOISE),
        ((), {"modelspec.prediction_type": "?"}, None),
        (("v_pred", "ztsnr"), {"modelspec.prediction_type": "epsilon"}, ZERO_SNR),
    ],
)
def test_a_file_says_it_by_tensors_or_by_modelspec(tmp_path, names, metadata, said):
    assert prediction.of_checkpoint(file(tmp_path / "x.safetensors", names, **metadata)) == said


def test_of_a_remote_one_a_header_or_a_config_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.weights.reading.files.CACHE", tmp_path / "cache")
    folder, fs = f"memory://{tmp_path.name}", fsspec.filesystem("memory")
    fs.pipe_file(f"{folder}/x.safetensors", Path(file(tmp_path / "x.safetensors", ("v_pred",))).read_bytes())
    fs.pipe_file(f"{folder}/model/unet/diffusion_pytorch_model.safetensors", b"large")
    assert prediction.of_checkpoint(f"{folder}/x.safetensors") == V
    assert prediction.of_checkpoint(f"{folder}/model") is None
    fs.pipe_file(f"{folder}/model/scheduler/scheduler_config.json", b'{"prediction_type": "v_prediction"}')
    assert prediction.of_checkpoint(f"{folder}/model") == V
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["edm_mean", "edm_vpred.sigma_max"])
def test_what_edm_trained_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"EDM's noise schedule .*{name}.*: take a checkpoint that predicts noise"):
        prediction.of_checkpoint(file(tmp_path / "x.safetensors", (name,)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, None),
        ({"prediction_type": "epsilon"}, NOISE),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, NOISE),
        ({"prediction_type": "v_prediction"}, V),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, ZERO_SNR),
        ({"prediction_type": "sample"}, Prediction("sample")),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, Prediction("EDM's denoised picture")),
    ],
)
def test_a_folder_says_it_by_its_scheduler(tmp_path, config, said):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert prediction.of_checkpoint(str(tmp_path)) == said


def test_a_folder_that_predicts_v_is_another_one_to_digests(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    without = checkpoints.content_hash(str(tmp_path))
    (tmp_path / "scheduler").mkdir()
    found = set()
    for config in (
        {"prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ):
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
        found.add(checkpoints.content_hash(str(tmp_path)))
    assert len(found) == 3
    assert without in found  # as earlier versions had it
