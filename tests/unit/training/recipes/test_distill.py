"""A motion module learns from itself with guidance, and its file says what it is sampled with."""

import pytest
import torch
from pydantic import ValidationError

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.models.operations import count_operations
from animatediff.training import trainer as trainer_module
from animatediff.training.config import TrainingConfig
from animatediff.training.frozen_base import unet_on_meta
from animatediff.training.recipes.recipe import SamplingWeights
from animatediff.training.recipes.table import recipe_of
from animatediff.training.step_operations import clip_operations
from animatediff.training.trainer import Trainer
from animatediff.training.validation import validation_loss
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.identify.weights_file import identify_uri
from animatediff.weights.layouts.few_step import FewStepSampling, of_lora
from animatediff.weights.reading.tensors import open_tensors
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
SHAPE = (3, 4, 4, 4)
LORA = {"lora_rank": 2}
BY_EULER = FewStepSampling(sampler="euler", timestep_spacing="trailing", num_inference_steps=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, a data set, and a motion module that does something."""
    folder = tmp_path_factory.mktemp("world")
    unet = load_unet(str(build_base(folder / "base", layers_per_block=2)))
    write_dataset(folder / "data", shards=(8,), shapes=(SHAPE,))
    torch.manual_seed(3)
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))
    for name, parameter in motion.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    return folder


@pytest.fixture
def make(world):
    def make_config(**sections):
        return TrainingConfig(
            recipe="distill",
            dataset_uri=str(world / "data"),
            base=str(world / "base"),
            model={"motion_module": str(world / "motion.safetensors")} | sections.pop("model", {}),
            distill={"num_inference_steps": 4, "teacher_steps": 20} | sections.pop("distill", {}),
            train={"num_steps": 2, "batch_size": 4, "seed": 5} | sections.pop("train", {}),
            optim={"lr": 3e-3} | sections.pop("optim", {}),
            **sections,
        )

    return make_config


def run(config, **options):
    trainer = Trainer(config, device=CPU, **options)
    return trainer, [result for _, result in trainer.steps(0)]


def learned(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.trainable.parameters()])


def prediction(trainer, weights):
    batch = trainer.loader.load(0)
    told = trainer._caption_encoder(batch.captions, height=4, width=4)
    with torch.no_grad():
        return trainer.model(batch.latents, torch.full((len(batch.latents),), 500), told, weights)


@pytest.mark.parametrize("model", [{}, LORA], ids=["whole", "LoRA"])
def test_the_teacher_stays_as_it_was_and_the_target_is_the_average(make, world, model):
    trainer = Trainer(make(model=model, train={"ema_decay": 0.9}), device=CPU)
    given = prediction(trainer, "student")
    for _ in trainer.steps(0):
        pass
    student, teacher, target = (prediction(trainer, weights) for weights in ("student", "teacher", "target"))
    assert torch.equal(teacher, given)
    assert not torch.isclose(student, teacher).all()
    with trainer.ema.averages_swapped_in():
        assert torch.equal(prediction(trainer, "student"), target)
    assert not torch.equal(student, target)
    assert torch.equal(prediction(trainer, "student"), student)
    base = load_unet(str(world / "base")).state_dict().values()
    assert all(map(torch.equal, trainer.model.unet.base.state_dict().values(), base))


def test_bfloat16_is_taken_only_where_the_config_says_so(make, monkeypatch):
    monkeypatch.setattr(trainer_module, "has_native_bfloat16", lambda device: True)
    for precision, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        trainer = Trainer(make(compute={"precision": precision}), device=CPU)
        assert {parameter.dtype for parameter in trainer.model.unet.base.parameters()} == {dtype}


def test_without_an_average_the_target_is_the_student(make):
    trainer, _ = run(make())
    assert torch.equal(prediction(trainer, "target"), prediction(trainer, "student"))


@pytest.mark.parametrize(
    ("model", "family", "sampling"),
    [
        ({}, "motion_module", {"distill": {}}),
        (LORA, "motion_lora", {"distill": {}}),
        ({}, "motion_module", {"distill": {"sampler": "lcm"}}),
        ({}, "motion_module", {"distill": {"sampled_guidance": {"start": 0.75, "guidance_scale": 2.5}}}),
        (LORA, "motion_lora", {"distill": {"sampled_guidance": {}}}),
    ],
)
def test_the_file_says_what_it_is_sampled_with(make, world, tmp_path, model, family, sampling):
    trainer, results = run(make(model=model, train={"num_steps": 1}, **sampling))
    assert all(result.loss_sums.isfinite().all() for result in results)
    uri = str(tmp_path / trainer.recipe.weights_file)
    trainer.write_weights(uri)
    assert identify_uri(uri).family == family
    note = identify_uri(uri).note
    assert "it is for few steps: sampler" in note
    expected = FewStepSampling(sampler="lcm", num_inference_steps=4) if "sampler" in sampling["distill"] else BY_EULER
    if (guidance := trainer.recipe.distill.sampled_guidance) is not None:
        interval, scale = GuidanceInterval(start=guidance.start), guidance.guidance_scale
        expected = BY_EULER.model_copy(update={"guidance_scale": scale, "guidance_interval": interval})
        assert f"guidance_scale {scale}, guidance_interval {{start: {guidance.start}, end: 1.0}}" in note
    if family == "motion_lora":
        assert of_lora(open_tensors(uri).metadata) == expected
        used = SamplingWeights(motion_module=str(world / "motion.safetensors"), motion_loras=(uri,))
    else:
        file = motion_modules.open_file(uri)
        assert file.few_step == expected
        assert file.schedule == trainer.recipe.noise_schedule.model_dump()
        used = SamplingWeights(motion_module=uri)
        copy = str(tmp_path / "diffusers")
        motion_modules.convert(uri, copy, to="diffusers")
        assert motion_modules.open_file(copy).few_step == expected
    assert trainer.recipe.sampling_weights(uri) == used
    assert trainer.recipe.few_step == expected


@pytest.mark.parametrize("model", [{}, LORA], ids=["whole", "LoRA"])
def test_half_a_run_and_a_resumed_half_equal_a_whole_one_bit_for_bit(make, tmp_path, model):
    config = make(model=model, train={"num_steps": 2, "ema_decay": 0.9}, distill={"guidance_scale": (2.0, 6.0)})
    whole, results = run(config)
    first = Trainer(config, device=CPU)
    next(first.steps(0))
    first.save(tmp_path, step=1)
    second = Trainer(config, device=CPU)
    rest = [result for _, result in second.steps(second.load(tmp_path))]
    assert [r.loss_sums.tolist() for r in rest] == [r.loss_sums.tolist() for r in results[1:]]
    assert torch.equal(learned(second), learned(whole))
    assert all(map(torch.equal, second.ema.averages, whole.ema.averages))


def test_gradients_are_the_same_however_a_batch_is_passed_and_computed(make):
    outcomes = [
        run(make(train={"num_steps": 1}, compute=each))[0]
        for each in ({}, {"micro_batch_size": 2, "activation_checkpointing": "all"})
    ]
    moments = [torch.cat([state["exp_avg"].flatten() for state in t.optimizer.state.values()]) for t in outcomes]
    torch.testing.assert_close(*moments, rtol=0, atol=1e-7)


def test_workers_with_other_bases_have_other_teachers(make, world, tmp_path):
    checkpoint = tmp_path / "other"
    unet = load_unet(str(world / "base"))
    with torch.no_grad():
        unet.conv_in.weight.mul_(1.5)
    unet.save_pretrained(checkpoint / "unet")
    config = make(base_checkpoints=["base", str(checkpoint)])
    first, second = (Trainer(config, device=CPU, rank=rank) for rank in (0, 1))
    second.loader = first.loader
    assert torch.equal(learned(first), learned(second))
    assert not torch.isclose(prediction(first, "teacher"), prediction(second, "teacher")).all()


def test_the_loss_on_held_out_clips_falls(make, tmp_path):
    config = make(train={"num_steps": 4, "holdout": 0.5}, optim={"lr": 1e-3})
    uri = str(tmp_path / "after.safetensors")
    run(config)[0].write_weights(uri)
    files = (config.model.motion_module, uri)
    before, after = (validation_loss(config, file, device=CPU, num_clips=1).loss for file in files)
    assert after < 0.9 * before


def forward_operations(config):
    model = recipe_of(config).attach(unet_on_meta(config.base), with_weights=False)
    clip, text = torch.zeros(1, 4, 3, 4, 4, device="meta"), torch.zeros(1, 5, 32, device="meta")
    with torch.no_grad():
        return count_operations(lambda: model(clip, torch.zeros(1, device="meta"), Conditioning(text)))


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        ("distill", {"model": {}}, "recipe distill needs model.motion_module"),
        ("distill", {"distill": {"num_inference_steps": 7}}, "teacher_steps 48 must be a multiple of .* 7"),
        ("distill", {"distill": {"sampler": "lcm", "teacher_steps": 2}}, "must not be fewer than the result's 8"),
        ("distill", {"distill": {"guidance_scale": (6.0, 2.0)}}, "the lowest first"),
        ("distill", {"distill": {"sampler": "lcm", "sampled_guidance": {}}}, "is for sampler euler"),
        ("distill", {"distill": {"sampled_guidance": {"start": 0.95}}}, "none would be guided: set at most 0.875"),
        ("distill", {"distill": {"num_inference_steps": 1, "sampled_guidance": {}}}, "needs 2 steps or more"),
        (
            "distill",
            {"distill": {"sampled_guidance": {}}, "train": {"caption_dropout": 0}},
            "needs train.caption_dropout",
        ),
        ("distill", {"objective": {"min_snr_gamma": 5.0}}, "a loss of its own: leave out objective.min_snr_gamma"),
        ("distill", {"model": {"motion_module": "m", "text_conditioned": True, **LORA}}, "a LoRA does not train"),
        ("motion_module", {"distill": {}}, "recipe motion_module distils nothing: leave out distill"),
    ],
)
def test_fields_that_do_not_suit_the_recipe_are_refused(recipe, fields, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(recipe=recipe, dataset_uri="d", base="b", **({"model": {"motion_module": "m"}} | fields))


def test_parameters_and_operations_are_counted_without_weights(make):
    config = make()
    # A pass and its gradients, two of the teacher's, and the target's.
    assert 4.5 < clip_operations(recipe_of(config), SHAPE, 5) / forward_operations(config) < 6.5
    trainer = Trainer(config, device=CPU)
    assert recipe_of(config).count_parameters()[1] == learned(trainer).numel()
    with pytest.raises(UserError, match="40 frames"):
        recipe_of(config).check_fit((40, *SHAPE[1:]))
