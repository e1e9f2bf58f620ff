import json
import shutil

import pytest
import torch

from animatediff.diffusion.noise_schedule import NoiseScheduleOverrides
from animatediff.errors import UserError
from animatediff.models.computing import processor
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.training import trainer as trainer_module
from animatediff.training.compute_settings import ComputeConfig
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import ModelConfig, OptimConfig, TextConfig
from animatediff.training.trained_model import place_on_device
from animatediff.training.trainer import Trainer
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoders, load_unet
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
MOTION_MODULE = "motion_module.safetensors"


def build(recipe, **options):
    return recipe_of(recipe).build(load_text_encoders(recipe.base), **options)


def learned(trainer):
    return [parameter.detach().clone() for parameter in trainer.model.trainable.parameters()]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("world") / "base"))


@pytest.fixture(scope="module")
def recipe(base, tmp_path_factory):
    dataset = write_dataset(tmp_path_factory.mktemp("data"), shards=(5,), shapes=((3, 4, 8, 8),))
    return TrainingConfig(
        dataset_uri=dataset, base=base, train={"num_steps": 4, "batch_size": 2, "seed": 5}, optim={"lr": 3e-3}
    )


@pytest.fixture(scope="module")
def trained(recipe):
    trainer = Trainer(recipe, device=CPU)
    return trainer, [result for _, result in trainer.steps(0)]


def test_training_moves_every_motion_parameter_and_no_other(trained, recipe):
    trainer, results = trained
    fresh = build(recipe, seed=5)
    for name, tensor in load_unet(recipe.base).state_dict().items():
        kept = trainer.model.unet.base.state_dict()[name]
        assert torch.equal(kept, tensor.to(kept.dtype))  # which is the processor's
    still = [
        name
        for (name, new), old in zip(
            trainer.model.trainable.named_parameters(), fresh.trainable.parameters(), strict=True
        )
        if torch.equal(new, old)
    ]
    assert still == []
    assert len(results) == 4
    assert all(result.loss_sums.isfinite().all() and result.grad_norm > 0 for result in results)


def test_half_a_run_and_a_resumed_half_equal_a_whole_one_bit_for_bit(trained, recipe, tmp_path):
    whole, results = trained
    first = Trainer(recipe, device=CPU)
    for done, _ in first.steps(0):
        if done == 2:
            first.save(tmp_path, step=2)
            break
    second = Trainer(recipe, device=CPU)
    start = second.load(tmp_path)
    rest = [result for _, result in second.steps(start)]
    assert start == 2
    assert [r.loss_sums.tolist() for r in rest] == [r.loss_sums.tolist() for r in results[2:]]
    for new, old in zip(learned(second), learned(whole), strict=True):
        assert torch.equal(new, old)


def test_a_clip_whose_tags_are_all_left_out_trains_as_one_whose_caption_is(trained, recipe):
    def first_loss(**changes):
        _, result = next(Trainer(recipe.model_copy(update=changes), device=CPU).steps(0))
        return result.loss_sums.tolist()

    without_caption = first_loss(train=recipe.train.model_copy(update={"caption_dropout": 1.0}))
    assert first_loss(text=TextConfig(caption_tag_dropout_rate=1.0)) == without_caption
    assert trained[1][0].loss_sums.tolist() != without_caption


def with_compute(recipe, **compute):
    return recipe.model_copy(update={"compute": ComputeConfig(**compute)})


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "float32"), ("float16", "float16")])
def test_a_run_goes_on_in_another_precision(recipe, tmp_path, before, after):
    first = Trainer(with_compute(recipe, precision=before), device=CPU)
    next(first.steps(0))
    first.save(tmp_path, step=1)
    second = Trainer(with_compute(recipe, precision=after), device=CPU)
    assert second.load(tmp_path) == 1
    for new, old in zip(learned(second), learned(first), strict=True):
        assert torch.equal(new, old)
    assert [done for done, _ in second.steps(1)] == [2, 3, 4]


def test_the_optimizers_settings_are_the_configs_and_its_moments_the_checkpoints(recipe, tmp_path):
    first = Trainer(recipe, device=CPU)
    next(first.steps(0))
    first.save(tmp_path, step=1)
    optim = OptimConfig(lr=3e-3, weight_decay=0.5, betas=(0.8, 0.9), eps=1e-6)
    second = Trainer(recipe.model_copy(update={"optim": optim}), device=CPU)
    second.load(tmp_path)
    group = second.optimizer.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-6)
    for new, old in zip(second.model.trainable.parameters(), first.model.trainable.parameters(), strict=True):
        assert torch.equal(second.optimizer.state[new]["exp_avg"], first.optimizer.state[old]["exp_avg"])


def test_skipped_steps_are_counted_over_restarts(recipe, tmp_path):
    first = Trainer(recipe, device=CPU)
    first.skipped_steps.number = 3
    first.save(tmp_path, step=1)
    second = Trainer(recipe, device=CPU)
    second.load(tmp_path)
    assert second.skipped_steps.number == 3


@pytest.mark.parametrize("name", ["motion_module", "motion_lora", "domain_adapter"])
def test_what_is_frozen_is_cast_and_what_is_trained_keeps_its_bits(recipe, trained, tmp_path, name):
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, trained[0].model.trainable)
    model = ModelConfig() if name == "domain_adapter" else ModelConfig(motion_module=uri)
    placed, kept = (build(recipe.model_copy(update={"recipe": name, "model": model}), seed=5) for _ in range(2))
    place_on_device(placed, CPU, torch.bfloat16)
    tensors = {**dict(placed.trainable.named_parameters()), **dict(placed.trainable.named_buffers())}
    for name, tensor in (*kept.trainable.named_parameters(), *kept.trainable.named_buffers()):
        assert torch.equal(tensors[name], tensor)
    own = {id(tensor) for tensor in tensors.values()}
    frozen = [p for p in placed.unet.parameters() if id(p) not in own]
    assert frozen
    assert {p.dtype for p in frozen} == {torch.bfloat16}


@pytest.mark.parametrize(("others", "dtype"), [("True", torch.bfloat16), ("False", torch.float32)])
def test_auto_is_bfloat16_where_the_processors_of_all_workers_multiply_it(recipe, monkeypatch, others, dtype):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(trainer_module, "all_gather_lists", lambda own, number: [*own, others])
    monkeypatch.setattr(Trainer, "_wrap_model", lambda self: self.model)  # there is no process group
    model = Trainer(recipe, device=CPU, world_size=2).model
    trained = {id(parameter) for parameter in model.trainable.parameters()}
    assert {p.dtype for p in model.unet.parameters() if id(p) not in trained} == {dtype}
    assert {p.dtype for p in model.trainable.parameters()} == {torch.float32}


def test_every_step_has_its_own_learning_rate(recipe):
    optim = OptimConfig(lr=1e-3, warmup_steps=2, decay_steps=2)
    trainer = Trainer(recipe.model_copy(update={"optim": optim}), device=CPU)
    rates = [trainer.optimizer.param_groups[0]["lr"] for _ in trainer.steps(0)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])


def test_a_state_is_a_motion_module_file_and_a_record(trained, recipe, tmp_path):
    trainer, _ = trained
    trainer.save(tmp_path, step=4)
    motion = motion_modules.read(str(tmp_path / MOTION_MODULE))
    assert motion.config == trainer.model.unet.config
    record = {"step": 4, "skipped_steps": 0, "config": recipe_of(recipe).resolved_config.model_dump(mode="json")}
    assert json.loads((tmp_path / "state.json").read_text()) == record


def test_training_starts_from_a_given_motion_module(trained, recipe, tmp_path):
    trainer, _ = trained
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, trainer.model.trainable)
    started = build(recipe.model_copy(update={"model": ModelConfig(motion_module=uri)}), seed=0)
    for new, old in zip(started.trainable.parameters(), trainer.model.trainable.parameters(), strict=True):
        assert torch.equal(new, old)
        assert new.requires_grad


def test_a_checkpoint_that_predicts_v_is_trained_on_so(recipe, base, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = shutil.copytree(base, tmp_path / "v")
    config = folder / "scheduler" / "scheduler_config.json"
    says_v = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | says_v))
    recipe = recipe.model_copy(update={"base_checkpoints": (str(folder),)})
    schedule = recipe_of(recipe).noise_schedule
    assert (schedule.prediction_type, schedule.zero_terminal_snr) == ("v_prediction", True)
    assert f"checkpoint {folder} predicts v_prediction with zero_terminal_snr, as it says" in caplog.text
    build(recipe, seed=0)
    with pytest.raises(UserError, match="trained to predict v, as it says, and the noise schedule that is set is for"):
        build(recipe.model_copy(update={"schedule": NoiseScheduleOverrides(prediction_type="epsilon")}), seed=0)


def test_checkpoints_that_predict_different_things_are_not_trained_on_together(recipe, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "v")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    recipe = recipe.model_copy(update={"base_checkpoints": ("base", str(folder))})
    with pytest.raises(
        UserError, match="base_checkpoints: base is trained on as .* predicts epsilon, and .*: train on"
    ):
        build(recipe, seed=0)


def test_fresh_weights_come_from_the_seed_alone(recipe):
    torch.manual_seed(0)
    first = build(recipe, seed=5)
    torch.manual_seed(1)
    second = build(recipe, seed=5)
    pairs = zip(first.trainable.parameters(), second.trainable.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_fresh_motion_modules_shape_follows_version_base_and_overrides():
    config = ModelConfig(version="v2", num_heads=4).motion_config({"norm_num_groups": 16, "cross_attention_dim": 8})
    assert (config.use_mid_block, config.num_heads, config.norm_num_groups, config.max_frames) == (True, 4, 16, 32)
    assert (
        ModelConfig(norm_num_groups=8).motion_config({"norm_num_groups": 16, "cross_attention_dim": 8}).norm_num_groups
        == 8
    )
    assert ModelConfig().motion_config({"cross_attention_dim": 8}).norm_num_groups == 32


def test_a_file_with_a_shape_of_its_own_takes_no_other():
    with pytest.raises(ValueError, match=r"leave out model\.version, model\.num_heads"):
        ModelConfig(motion_module="x.safetensors", version="v2", num_heads=4)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ({}, (16, 8, 8, 8), "latents have 8 channels, the UNet of base .* takes 4"),
        ({}, (33, 4, 8, 8), "33 frames, the motion module's position table has 32: raise model.max_frames"),
        ({"num_heads": 5}, (16, 4, 8, 8), "does not divide by num_heads 5"),
        ({"motion_module": "/nowhere/motion.safetensors"}, (16, 4, 8, 8), "no file or folder /nowhere"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(base, model, shape, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe_of(TrainingConfig(dataset_uri="", base=base, model=model)).check_fit(shape)
    assert "\n" not in str(caught.value)


def test_what_fits_passes(base):
    recipe_of(TrainingConfig(dataset_uri="", base=base)).check_fit((16, 4, 8, 8))


def test_a_base_without_a_unet_is_told(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="config of the unet of base"):
        recipe_of(TrainingConfig(dataset_uri="", base=str(tmp_path))).check_fit((16, 4, 8, 8))


def test_a_motion_module_of_another_base_is_refused(base, tmp_path):
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, MotionModules(MotionConfig(), down=[[32, 32]] * 4, mid=32, up=[[32] * 3] * 4))
    with pytest.raises(UserError, match="was made for another architecture"):
        recipe_of(TrainingConfig(dataset_uri="", base=base, model={"motion_module": uri})).check_fit((16, 4, 8, 8))
