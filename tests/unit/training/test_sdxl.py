"""Motion modules for SDXL train as those for Stable Diffusion 1.x do, conditioned as in diffusers' own pipeline."""

import shutil
from dataclasses import replace

import pytest
import torch

from animatediff.data.manifest import read_manifest, write_manifest
from animatediff.training.config import TrainingConfig
from animatediff.training.text import CaptionEncoder
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoders
from animatediff.weights.base_facts import BaseFacts
from tests.support_sdxl import build_sdxl_pipeline
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return build_sdxl_pipeline(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def base(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl") / "base"
    pipeline.save_pretrained(folder)
    return str(folder)


def test_captions_condition_as_in_diffusers(pipeline, base):
    captions = ["a large red star moving left", ""]
    found = CaptionEncoder(BaseFacts(base), load_text_encoders(base), CPU, torch.float32)(captions, height=8, width=8)
    text, _, pooled, _ = pipeline.encode_prompt(captions, device=CPU, do_classifier_free_guidance=False)
    torch.testing.assert_close(found.text, text)
    torch.testing.assert_close(found.pooled_text, pooled)


def test_captions_of_several_chunks_are_pooled_from_the_first(base):
    facts, encoders = BaseFacts(base), load_text_encoders(base)
    short = "a large red star moving left on a dark blue background,"
    captions = [f"{short} {short}", short]
    once, several = (CaptionEncoder(facts, encoders, CPU, torch.float32, chunks=number) for number in (1, 2))
    found = several(captions, height=8, width=8)
    first, empty = (once([text], height=8, width=8) for text in (short, ""))
    assert torch.equal(found.text[0], torch.cat([first.text, first.text], dim=1)[0])
    assert torch.equal(found.text[1], torch.cat([first.text, empty.text], dim=1)[0])
    assert torch.equal(found.pooled_text, first.pooled_text.repeat(2, 1))


@pytest.mark.parametrize("recipe", ["motion_module", "domain_adapter"])
def test_a_recipe_trains_on_an_sdxl_base(base, tmp_path, recipe):
    data = write_dataset(tmp_path / "data", shards=(4,), shapes=((3, 4, 8, 8),))
    trainer = Trainer(
        TrainingConfig(
            recipe=recipe,
            dataset_uri=data,
            base=base,
            model={"version": "sdxl"} if recipe == "motion_module" else {"lora_rank": 2},
            optim={"lr": 3e-3},
            train={"num_steps": 3, "batch_size": 2},
        ),
        device=CPU,
    )
    before = [parameter.detach().clone() for parameter in trainer.model.trainable.parameters()]
    results = [result for _, result in trainer.steps(0)]
    assert all(result.loss_sums.isfinite().all() for result in results)
    # Of a fresh module's or adapter's parameters the last layer's learn first, the others from the next step on.
    after = trainer.model.trainable.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if recipe == "motion_module":
        trainer.write_weights(str(tmp_path / "motion_module.safetensors"))
        assert motion_modules.open_file(str(tmp_path / "motion_module.safetensors")).version == "sdxl"


def test_a_base_without_a_vae_trains_on_a_dataset_that_says_its_factor(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    shutil.rmtree(folder / "vae")
    data = write_dataset(tmp_path / "data", shards=(4,), shapes=((3, 4, 8, 8),))
    told = read_manifest(data).model_copy(update={"latent_factor": 16})
    write_manifest(data, told)
    fields = {"dataset_uri": data, "model": {"version": "sdxl"}, "train": {"num_steps": 1, "batch_size": 2}}
    trainer = Trainer(TrainingConfig(base=str(folder), **fields), device=CPU)
    assert trainer._caption_encoder(["a red star"], height=8, width=8).time_ids.tolist() == [[128, 128, 0, 0, 128, 128]]
    assert [step for step, _ in trainer.steps(0)] == [1]


def test_the_pooled_caption_and_the_pictures_size_reach_the_unet(base, tmp_path):
    data = write_dataset(tmp_path / "data", shards=(4,), shapes=((3, 4, 8, 8),))
    trainer = Trainer(TrainingConfig(dataset_uri=data, base=base, model={"version": "sdxl"}), device=CPU)
    sample, told = torch.randn(1, 4, 3, 8, 8), trainer._caption_encoder(["a red star"], height=8, width=8)
    seen = []
    trainer.model.unet.base.add_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        one = trainer.model(sample, torch.tensor([500]), told)
        other = trainer.model(sample, torch.tensor([500]), replace(told, pooled_text=told.pooled_text + 1))
    assert not torch.equal(one, other)
    times = trainer.model.unet.base.add_time_proj(torch.tensor([64.0, 64, 0, 0, 64, 64])).flatten()
    torch.testing.assert_close(seen[0][0], torch.cat([told.pooled_text[0], times]))
