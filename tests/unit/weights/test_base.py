"""Bases as they are published: in half precision alone, or in shards of it."""

import shutil

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from animatediff.errors import UserError
from animatediff.weights import base as bases
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts, load_config
from animatediff.weights.reading import hub
from animatediff.weights.reading.tensors import open_tensors
from tests.support_base import build_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("bases") / "base")


def in_half_precision(base, folder, max_shard_size):
    """As `save_pretrained(variant="fp16")` leaves a base."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    components = {"unet": load_unet(base), "vae": load_vae(base), "text_encoder": load_text_encoder(base)[1]}
    for part, component in components.items():
        component.half().save_pretrained(folder / part, variant="fp16", max_shard_size=max_shard_size)
    return folder


@pytest.mark.parametrize("max_shard_size", ["10GB", "200KB"])
def test_a_base_in_half_precision_alone_is_loaded(base, tmp_path, max_shard_size):
    half = str(in_half_precision(str(base), tmp_path / "half", max_shard_size))
    for load in (load_unet, load_vae, lambda uri: load_text_encoder(uri)[1]):
        loaded, full = load(half).state_dict(), load(str(base)).state_dict()
        for name, tensor in full.items():
            assert loaded[name].dtype == torch.float32
            assert torch.equal(loaded[name], tensor.half().float()), name


def test_of_two_precisions_the_full_one_is_loaded(base, tmp_path):
    both = shutil.copytree(base, tmp_path / "both")
    load_vae(str(base)).half().save_pretrained(both / "vae", variant="fp16")
    found = load_vae(str(both)).state_dict()
    wanted = open_tensors(str(base / "vae" / "diffusion_pytorch_model.safetensors")).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("raised", "offline", "says"),
    [
        (LocalEntryNotFoundError, False, "the hub could not be reached and the cache .* name a local folder"),
        (OfflineModeIsEnabled, True, "HF_HUB_OFFLINE is set and the cache .* point HF_HOME at"),
        (RepositoryNotFoundError, False, "the hub has none"),
        (GatedRepoError, False, "accept its licence"),
    ],
)
def test_what_went_wrong_with_the_hub_is_told_as_that(monkeypatch, raised, offline, says):
    def load(*_, **__):
        try:
            raise raised.__new__(raised)  # their own arguments are responses of the hub
        except Exception as error:  # diffusers' and transformers' words for all of them
            raise OSError("owner/name does not appear to have a file named config.json.") from error

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", offline)
    for cls, call in (
        (bases.AutoencoderKL, bases.load_vae),
        (bases.UNet2DConditionModel, lambda base: load_config(base, "unet")),
    ):
        monkeypatch.setattr(cls, "from_pretrained", load)
        monkeypatch.setattr(cls, "load_config", load)
        with pytest.raises(UserError, match=f"of base owner/name: .*taken for a hub id.* {says}") as caught:
            call("owner/name")
        assert "config.json" not in str(caught.value)


def test_a_scheduler_whose_bounds_are_infinite_says_what_the_base_predicts(base, tmp_path):
    """As DPM-Solver's published configs have `lambda_min_clipped`."""
    other = shutil.copytree(base, tmp_path / "other")
    (other / "scheduler" / "scheduler_config.json").write_text(
        '{"lambda_min_clipped": -Infinity, "prediction_type": "v_prediction"}'
    )
    assert BaseFacts(str(other)).prediction_type == "v_prediction"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_weights_is_told_as_that(base, tmp_path, part):
    other = shutil.copytree(base, tmp_path / "other")
    for file in (other / part).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match=f"has no weights in its {part}/"):
        bases.check_part(str(other), part)
