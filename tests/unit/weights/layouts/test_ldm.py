"""The original layouts' names: against a writer of its own, and against diffusers' converters."""

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from hypothesis import given
from hypothesis import strategies as st

from animatediff.errors import UserError
from animatediff.weights.layouts import ldm
from animatediff.weights.layouts.architectures import meta_modules
from tests.support_weights import open_clip_file, tiny_sdxl, unet_to_ldm, vae_to_ldm


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def full_size(request):
    """A full-size base without weights."""
    return request.param, meta_modules(request.param)


def numbered(names):
    """Tensors that are told apart, in a shape that passes for a matrix."""
    return {name: torch.full((1, 1), float(i)) for i, name in enumerate(names)}


def test_the_unets_names_are_the_original_ones(full_size):
    kind, modules = full_size
    names = ldm.unet_ldm_names(modules["unet"].state_dict())
    assert names == {name: unet_to_ldm(name, kind) for name in modules["unet"].state_dict()}
    file = numbered(names.values())
    second = convert_ldm_unet_checkpoint(
        {ldm.UNET_PREFIX + name: t for name, t in file.items()}, modules["unet"].config
    )
    assert second == {name: file[old] for name, old in names.items()}


def test_module_names_are_renamed_as_their_parameters_are(full_size):
    _, modules = full_size
    parameters = ldm.unet_ldm_names(modules["unet"].state_dict())
    leaves = {name.rpartition(".")[0] for name in parameters}
    assert ldm.unet_ldm_names(leaves) == {
        name.rpartition(".")[0]: old.rpartition(".")[0] for name, old in parameters.items()
    }


def test_the_vaes_names_are_the_original_ones(full_size):
    _, modules = full_size
    names = ldm.vae_ldm_names(modules["vae"].state_dict())
    assert names == {name: vae_to_ldm(name) for name in modules["vae"].state_dict()}
    file = numbered(names.values())
    second = convert_ldm_vae_checkpoint({ldm.VAE_PREFIX + name: t for name, t in file.items()}, modules["vae"].config)
    assert second == {name: file[old] for name, old in names.items()}


def test_clip_l_keeps_its_names(full_size):
    kind, modules = full_size
    names = ldm.clip_ldm_names(modules["text_encoder"].state_dict())
    file = numbered(names.values())
    prefix = {"sd1": ldm.SD1_TEXT_PREFIX, "sdxl": ldm.SDXL_TEXT_PREFIX}[kind]
    second = convert_ldm_clip_checkpoint({prefix + name: tensor for name, tensor in file.items()})
    assert {name.removeprefix("text_model."): tensor for name, tensor in second.items()} == file
    # With and without `text_model.` before the names, as transformers' versions have it.
    assert ldm.clip_ldm_names(f"text_model.{name}" for name in names) == {f"text_model.{name}": name for name in names}


def test_open_clip_is_split_and_transposed():
    model = tiny_sdxl()["text_encoder_2"]
    state = model.state_dict()
    file = open_clip_file(state)
    sources = ldm.open_clip_sources(state)
    ours = {name: source.read(file[source.name]) for name, source in sources.items()}
    second = convert_open_clip_checkpoint(
        model,
        {ldm.SDXL_TEXT_2_PREFIX + name: tensor for name, tensor in file.items()},
        prefix=ldm.SDXL_TEXT_2_PREFIX,
    )
    for name, tensor in state.items():
        assert torch.equal(ours[name], tensor)
        assert torch.equal(second[name], tensor)
    assert {source.name for source in sources.values()} | {"logit_scale"} == file.keys()


@given(layers=st.lists(st.integers(1, 3), min_size=1, max_size=4), attention=st.lists(st.booleans(), min_size=4))
def test_every_name_of_any_stack_of_blocks_has_its_own_place(layers, attention):
    last = len(layers) - 1
    names = [f"mid_block.{module}" for module in ("resnets.0.conv1", "attentions.0.norm", "resnets.1.conv1")]
    for block, count in enumerate(layers):
        for side in ("down", "up"):
            names += [f"{side}_blocks.{block}.resnets.{i}.conv1" for i in range(count)]
            names += [f"{side}_blocks.{block}.attentions.{i}.norm" for i in range(count) if attention[block]]
            names += [f"{side}_blocks.{block}.{side}samplers.0.conv"] if block < last else []
    renamed = ldm.unet_ldm_names(names)
    assert len(set(renamed.values())) == len(names)
    # The original's lists of blocks have no gaps; block 0 of the inputs is conv_in.
    for place, first in (("input", 1), ("output", 0)):
        used = {int(name.split(".")[1]) for name in renamed.values() if name.startswith(place)}
        assert used == set(range(first, first + len(used)))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "encoder_hid_proj.weight"),
        ("unet", "down_blocks.0.motion_modules.0.proj_in.weight"),
        ("vae", "encoder.mid_block.attentions.0.spatial_norm.weight"),
        ("text_encoder_2", "encoder.layers.0.self_attn.rotary.weight"),
    ],
)
def test_a_name_without_a_place_is_said(part, name):
    with pytest.raises(UserError, match="has no place for"):
        ldm.sources(part, [name])


def test_a_part_is_found_by_its_weights_and_not_by_constants():
    early, current = "cond_stage_model.transformer.", "cond_stage_model.transformer.text_model."
    weights, constant = "final_layer_norm.weight", "embeddings.position_ids"
    file = numbered([early + weights, current + constant])
    assert ldm.part_of(file, "text_encoder")[weights] is file[early + weights]
    assert ldm.part_of(numbered([current + weights, early + constant]), "text_encoder").keys() == {weights}
    assert ldm.part_of(numbered([current + constant]), "text_encoder") == {}
    left = [ldm.VAE_PREFIX + name for name in ("quant_conv.weight", "extra", "loss.logvar", "model_ema.decay")]
    # A name that no trainer leaves is kept, so that it can be complained of.
    assert ldm.part_of(numbered(left), "vae").keys() == {"quant_conv.weight", "extra"}
