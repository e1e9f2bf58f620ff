"""Motion modules for SDXL train as those for Stable Diffusion 1.x do, conditioned as in diffusers' own pipeline."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.manifest import read_manifest, write_manifest
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.schedule import velocity
from animatediff.errors import UserError
from animatediff.models.motion_unet import MotionModules
from animatediff.models.prompt_encoders import PromptEncoders
from animatediff.models.vae import fingerprint
from animatediff.sprites import shipped
from animatediff.training.config import TrainingConfig
from animatediff.training.dataset_fit import check_dataset_fits
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import ModelConfig
from animatediff.training.step import denoising_loss
from animatediff.training.text import CaptionEncoder
from animatediff.training.trainer import Trainer
from animatediff.training.validation import validation_loss
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoders, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.identify.weights_file import identify_uri
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
CROP = SourceCrop(72, 128, 0, 25)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_sdxl(tmp_path_factory.mktemp("sdxl") / "base"))


@pytest.fixture(scope="module")
def pipeline(base):
    return StableDiffusionXLPipeline.from_pretrained(base)


def test_captions_condition_as_in_diffusers(pipeline, base):
    captions = ["a large red star moving left", ""]
    found = CaptionEncoder(BaseFacts(base), load_text_encoders(base), CPU, torch.float32)(captions, height=8, width=8)
    text, no_text, pooled, no_pooled = pipeline.encode_prompt(captions[:1], device=CPU)
    torch.testing.assert_close(found.text, torch.cat([text, no_text]))
    torch.testing.assert_close(found.pooled_text, torch.cat([pooled, no_pooled]))
    assert not found.text[1].any()


def test_captions_of_several_chunks_are_pooled_from_the_first(base):
    facts, encoders = BaseFacts(base), load_text_encoders(base)
    short = "a large red star moving left on a dark blue background,"
    captions = [f"{short} {short}", short]
    once, several = (CaptionEncoder(facts, encoders, CPU, torch.float32, chunks=number) for number in (1, 2))
    found = several(captions, height=8, width=8)
    first, empty = once([short], height=8, width=8), PromptEncoders(encoders).encode("")
    assert torch.equal(found.text[0], torch.cat([first.text, first.text], dim=1)[0])
    assert torch.equal(found.text[1], torch.cat([first.text, empty.text], dim=1)[0])
    assert torch.equal(found.pooled_text, first.pooled_text.repeat(2, 1))


@pytest.fixture
def make(base, tmp_path):
    """A run on three frames; of the first shard's clips it is known what they were cropped from."""
    data = write_dataset(tmp_path / "data", shards=(3, 2), shapes=((3, 4, 8, 8),), source_crops=(CROP,))

    def make_config(**fields):
        train = {"num_steps": 2, "batch_size": 5} | fields.pop("train", {})
        return TrainingConfig(**{"dataset_uri": data, "base": base, "train": train} | fields)

    return make_config


def schedule_of(config):
    return recipe_of(config).noise_schedule


def told_to(unet):
    """What the UNet is told of sizes from now on, six numbers a clip."""
    told = []
    unet.get_aug_embed = lambda **kwargs: (
        told.extend(kwargs["added_cond_kwargs"]["time_ids"].tolist()),
        type(unet).get_aug_embed(unet, **kwargs),
    )[1]
    return told


def test_a_clip_is_trained_on_with_the_sizes_that_its_shard_recorded(make):
    trainer = Trainer(make(compute={"micro_batch_size": 2}), device=CPU)
    told, batch = told_to(trainer.model.unet.base), trainer.loader.load(0)
    next(trainer.steps(0))
    wanted = [[*(crop or (64, 64, 0, 0)), 64, 64] for crop in batch.source_crops]
    assert told == wanted
    assert sorted(wanted) == [[64, 64, 0, 0, 64, 64]] * 2 + [[*CROP, 64, 64]] * 3


def test_the_held_out_loss_is_measured_with_them_too(make, tmp_path, monkeypatch):
    config, uri = make(train={"holdout": 0.5}), str(tmp_path / "motion_module.safetensors")
    Trainer(config, device=CPU).write_weights(uri)
    told = []
    monkeypatch.setattr(
        UNet2DConditionModel,
        "get_aug_embed",
        lambda unet, emb, **kwargs: told.extend(kwargs["added_cond_kwargs"]["time_ids"].tolist()),
    )
    validation_loss(config, uri, device=CPU, num_clips=5)
    assert {tuple(row) for row in told} == {(64, 64, 0, 0, 64, 64), (*CROP, 64, 64)}


@pytest.mark.parametrize(
    ("version", "beta_end", "scope"),
    [(None, 0.020, ("clip", "frame")), ("sdxl", 0.020, ("clip", "frame")), ("hotshotxl", 0.012, ("frame", "clip"))],
)
def test_a_fresh_module_has_the_shape_and_the_schedule_of_its_version(make, tmp_path, version, beta_end, scope):
    trainer = Trainer(make(model={"version": version}), device=CPU)
    assert all(result.loss_sums.isfinite().all() for _, result in trainer.steps(0))
    uri = str(tmp_path / "motion_module.safetensors")
    trainer.write_weights(uri)
    file, schedule = motion_modules.open_file(uri), NoiseSchedule(beta_schedule="scaled_linear", beta_end=beta_end)
    assert (file.layout, file.version) == ("official", version or "sdxl")
    assert (file.config.norm_scope, file.config.resnet_norm_scope) == scope
    assert file.schedule == schedule.model_dump()
    assert identify_uri(uri).version == (version or "sdxl")
    assert schedule_of(make(recipe="finetune", model={"motion_module": uri})) == schedule
    assert schedule_of(make(model={"version": version}, schedule={"beta_end": 0.03})).beta_end == 0.03


@pytest.mark.parametrize(
    ("version", "of_base", "message"),
    [
        ("v3", "sdxl", "version v3 is a motion module for Stable Diffusion 1.x, and the base is of SDXL: .* sdxl, hot"),
        ("hotshotxl", "sd1", "version hotshotxl is a motion module for SDXL, .* of Stable Diffusion 1.x: .* v3, v1, "),
    ],
)
def test_a_version_for_another_base_is_refused(make, version, of_base, message):
    config = make(model={"version": version}, **({"base": str(shipped.BASE)} if of_base == "sd1" else {}))
    with pytest.raises(UserError, match=message):
        schedule_of(config)
    with pytest.raises(UserError, match=message):
        recipe_of(config).check_fit((3, BaseFacts(config.base).unet_channels, 8, 8))


def test_a_sparse_control_is_refused_by_name(make, tmp_path):
    uri = str(tmp_path / "motion_module.safetensors")
    Trainer(make(), device=CPU).write_weights(uri)
    with pytest.raises(UserError, match="recipe sparse_control trains encoders for Stable Diffusion 1.x, .* an SDXL"):
        recipe_of(make(recipe="sparse_control", model={"motion_module": uri})).check_fit((3, 4, 8, 8))


@pytest.mark.parametrize("kind", ["sdxl", "sd1"])
@pytest.mark.parametrize("from_file", [False, True])
def test_on_a_base_that_predicts_v_the_velocity_is_learned(make, base, tmp_path, monkeypatch, kind, from_file):
    folder = shutil.copytree(base if kind == "sdxl" else build_base(tmp_path / "sd1"), tmp_path / "base")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(folder / "scheduler")
    fields = {"base": str(folder), "train": {"num_steps": 1}}
    if from_file:  # as they are published, without a schedule
        uri = str(tmp_path / "published.safetensors")
        unet = load_unet(str(folder))
        motion_modules.write(uri, MotionModules.for_base(unet, ModelConfig().motion_config(unet.config)))
        fields |= {"recipe": "finetune", "model": {"motion_module": uri}}
    trainer = Trainer(make(**fields), device=CPU)
    targets = []
    monkeypatch.setattr(
        denoising_loss, "velocity", lambda x, noise, *_: targets.append(noise) or velocity(x, noise, *_)
    )
    next(trainer.steps(0))
    assert len(targets) == 1
    trainer.write_weights(str(tmp_path / "trained.safetensors"))
    assert motion_modules.open_file(str(tmp_path / "trained.safetensors")).schedule["prediction_type"] == "v_prediction"
    trainer.recipe.check_fit((3, 4, 8, 8))
    with pytest.raises(UserError, match="predicts v_prediction, and the noise schedule that is set is for models that"):
        recipe_of(make(**fields, schedule={"prediction_type": "epsilon"})).check_fit((3, 4, 8, 8))


def test_a_base_that_predicts_something_else_is_refused(make, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    DDIMScheduler(prediction_type="sample").save_pretrained(folder / "scheduler")
    with pytest.raises(
        UserError, match="predicts sample, as its scheduler says: take one that predicts epsilon or v_pr"
    ):
        schedule_of(make(base=str(folder)))


@pytest.mark.parametrize(("width", "name"), [(1024, "a Stable Diffusion 2 model"), (1280, "an SDXL refiner model")])
def test_a_base_that_no_job_renders_with_is_refused_by_name(make, base, tmp_path, width, name):
    folder = shutil.copytree(base if width == 1280 else shipped.BASE, tmp_path / "base")
    config = json.loads((folder / "unet" / "config.json").read_text()) | {"cross_attention_dim": width}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"is {name}: take a Stable Diffusion 1.x or SDXL base"):
        recipe_of(make(base=str(folder))).check_fit((3, 4, 8, 8))


@pytest.mark.parametrize(("factor", "of_base"), [(0.18215, "sdxl"), (0.13025, "sd1")])
def test_latents_of_the_other_vae_are_refused(base, tmp_path, factor, of_base):
    told = read_manifest(write_dataset(tmp_path / "data")).model_copy(update={"scaling_factor": factor})
    if of_base == "sd1":
        base = shutil.copytree(shipped.BASE, tmp_path / "base")
        config = json.loads((base / "vae" / "config.json").read_text()) | {"scaling_factor": 0.18215}
        (base / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="latents are those of .*'s VAE .*: ingest with this base"):
        check_dataset_fits(str(base), told)
    own = BaseFacts(str(base)).scaling_factor
    check_dataset_fits(str(base), told.model_copy(update={"scaling_factor": own}))
    check_dataset_fits(str(base), told.model_copy(update={"scaling_factor": 0.7}))  # of somebody's own VAE


def test_latents_of_another_vae_of_the_same_scale_are_warned_of(base, tmp_path, caplog):
    told = read_manifest(write_dataset(tmp_path / "data")).model_copy(update={"scaling_factor": 0.13025})
    vae = load_vae(base)
    for dtype in ("float32", "float16", "bfloat16"):
        check_dataset_fits(base, told.model_copy(update={"encoder_fp": fingerprint(vae, dtype)}))
    folder = shutil.copytree(base, tmp_path / "base")
    vae.decoder.conv_in.weight.data += 1
    vae.save_pretrained(folder / "vae")  # of which the decoder alone was fine-tuned
    own = fingerprint(vae, "float16")
    check_dataset_fits(str(folder), told.model_copy(update={"encoder_fp": own}))
    assert not caplog.records
    vae.encoder.conv_in.weight.data += 1
    vae.save_pretrained(folder / "vae")
    check_dataset_fits(str(folder), told.model_copy(update={"encoder_fp": own}))
    (line,) = caplog.messages
    assert f"another VAE (fingerprint {own[:12]}, scaling factor 0.13025) than base {folder} has (" in line
    assert f"({fingerprint(vae, 'float32')[:12]} in float32, 0.13025): " in line
    shutil.rmtree(folder / "vae")
    check_dataset_fits(str(folder), told.model_copy(update={"latent_factor": 8}))
    assert len(caplog.records) == 1


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
