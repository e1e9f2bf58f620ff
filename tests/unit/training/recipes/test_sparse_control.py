"""A SparseCtrl encoder is trained beside a base and a motion module that stay as they are, and read back exactly."""

import itertools
from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from animatediff.diffusion.conditioning import Conditioning
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.recipe import SamplingWeights
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import ObjectiveConfig, PicturesConfig
from animatediff.training.step.draws import RandomSource, select_clips
from animatediff.training.trainer import Trainer
from animatediff.training.validation import validation_loss
from animatediff.weights import adapters, motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.controls import sparse_control_file
from animatediff.weights.identify.weights_file import identify_uri
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
SHAPE = (4, 4, 4, 4)
ALL_PATTERNS = PicturesConfig()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, a data set, a motion module and a domain adapter that do something."""
    folder = tmp_path_factory.mktemp("world")
    unet = load_unet(str(build_base(folder / "base")))
    write_dataset(folder / "data", shards=(8,), shapes=(SHAPE,))
    torch.manual_seed(3)
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))
    adapter = adapters.LowRankAdapters.for_base(unet, 2)
    changed = [parameter for name, parameter in motion.named_parameters() if "proj_out" in name]
    for parameter in (*changed, *adapter.parameters()):
        torch.nn.init.normal_(parameter, std=0.05)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    adapters.write(str(folder / "adapter.safetensors"), adapter, metadata={})
    return folder


@pytest.fixture
def make(world):
    def make_config(**sections):
        return TrainingConfig(
            recipe="sparse_control",
            dataset_uri=str(world / "data"),
            base=str(world / "base"),
            model={"motion_module": str(world / "motion.safetensors")} | sections.pop("model", {}),
            train={"num_steps": 2, "batch_size": 4, "seed": 5} | sections.pop("train", {}),
            optim={"lr": 3e-3} | sections.pop("optim", {}),
            **sections,
        )

    return make_config


def run(config):
    trainer = Trainer(config, device=CPU)
    return trainer, [result for _, result in trainer.steps(0)]


def learned(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.trainable.parameters()])


def written(trainer, folder, name="sparse_control.safetensors"):
    uri = str(folder / name)
    trainer.write_weights(uri)
    return uri


@pytest.fixture
def trained(make, tmp_path):
    trainer, _ = run(make())
    return written(trainer, tmp_path)


def test_the_encoder_is_trained_and_nothing_else_moves(make, world, tmp_path):
    trainer, results = run(make())
    assert all(result.loss_sums.isfinite().all() and result.grad_norm > 0 for result in results)
    fresh = Trainer(make(), device=CPU).model.trainable
    still = [
        name
        for (name, new), old in zip(trainer.model.trainable.named_parameters(), fresh.parameters(), strict=True)
        if torch.equal(new, old)
    ]
    # The convolution of the noisy clips, which are not looked at.
    assert still == ["conv_in.weight"]
    base, motion = load_unet(str(world / "base")), motion_modules.read(str(world / "motion.safetensors"))
    for own, old in ((trainer.model.unet.base, base), (trainer.model.unet.motion, motion)):
        assert all(map(torch.equal, own.state_dict().values(), old.state_dict().values()))
    uri = written(trainer, tmp_path)
    assert trainer.recipe.weights_file == "sparse_control.safetensors"
    assert (identify_uri(uri).family, identify_uri(uri).version) == ("sparse_control", "rgb")
    file = sparse_control_file.open_file(uri)
    assert file.schedule == trainer.recipe.noise_schedule.model_dump()
    read, wanted = file.build(base.config).state_dict(), trainer.model.trainable.state_dict()
    assert list(read) == list(wanted)
    assert all(map(torch.equal, read.values(), wanted.values()))


def test_a_fresh_encoder_is_the_base_and_the_motion_module_and_changes_nothing(make, world):
    model = Trainer(make(model={"domain_adapter": {"path": str(world / "adapter.safetensors")}}), device=CPU).model
    network, base = model.trainable, load_unet(str(world / "base"))
    assert network.motion_config.num_layers == 1
    for own, old in ((network.mid_block, base.mid_block), (network.time_embedding, base.time_embedding)):
        assert all(map(torch.equal, own.state_dict().values(), old.state_dict().values()))
    for name, tensor in base.down_blocks.state_dict().items():
        assert torch.equal(network.down_blocks.state_dict()[name], tensor)
    given = motion_modules.read(str(world / "motion.safetensors")).state_dict()
    motion = {name: tensor for name, tensor in network.state_dict().items() if "motion_modules" in name}
    assert all(torch.equal(tensor, given[name]) for name, tensor in motion.items())
    # The domain adapter is in the frozen base alone.
    assert not torch.equal(
        *(unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight for unet in (network, model.unet.base))
    )
    clips, text = torch.randn(1, 4, 4, 4, 4), Conditioning(torch.randn(1, 5, base.config.cross_attention_dim))
    pictures, timestep = torch.randn(1, 5, 4, 4, 4), torch.tensor([500])
    with torch.no_grad():
        assert torch.equal(model(clips, timestep, text, pictures), model.unet(clips, timestep, text))


def fixed_loss(trainer, pictures=ALL_PATTERNS):
    """The same clips' loss, with draws that are always the same."""
    random = RandomSource(98, 1000, 0.0, ObjectiveConfig(), pictures)
    batch = trainer.loader.load(0)
    draws = random.draw(tuple(batch.latents.shape), step=0, first_index=0)
    height, width = batch.latents.shape[-2:]
    told = trainer._caption_encoder(batch.captions, height=height, width=width)
    with torch.no_grad():
        return trainer.recipe.loss(trainer.model, batch.latents, told, draws, trainer._alphas_cumprod).mean().item()


def test_the_loss_falls(make):
    trainer = Trainer(make(train={"num_steps": 12}, optim={"lr": 1e-2}), device=CPU)
    before = fixed_loss(trainer)
    for _ in trainer.steps(0):
        pass
    assert fixed_loss(trainer) < 0.97 * before


def test_half_a_run_and_a_resumed_half_equal_a_whole_one_bit_for_bit(make, tmp_path):
    config = make(train={"num_steps": 4, "ema_decay": 0.9})
    whole, results = run(config)
    first = Trainer(config, device=CPU)
    for _ in itertools.islice(first.steps(0), 2):
        pass
    first.save(tmp_path, step=2)
    second = Trainer(config, device=CPU)
    rest = [result for _, result in second.steps(second.load(tmp_path))]
    assert [r.loss_sums.tolist() for r in rest] == [r.loss_sums.tolist() for r in results[2:]]
    assert torch.equal(learned(second), learned(whole))
    assert all(map(torch.equal, second.ema.averages, whole.ema.averages))
    assert not torch.equal(torch.cat([average.flatten() for average in whole.ema.averages]), learned(whole))


def test_finetuning_begins_with_the_file(make, trained):
    config = make(model={"sparse_control": trained})
    begun = Trainer(config, device=CPU).model.trainable.state_dict()
    file = sparse_control_file.open_file(trained).state
    assert all(torch.equal(tensor, file[name]) for name, tensor in begun.items())
    trainer, _ = run(config)
    assert not torch.equal(trainer.model.trainable.controlnet_mid_block.weight, file["controlnet_mid_block.weight"])


def test_gradients_are_the_same_however_a_batch_is_passed(make):
    """Each clip's pictures are its own, whatever it is computed beside."""
    outcomes = [run(make(train={"num_steps": 1}, compute=each)) for each in ({}, {"micro_batch_size": 1})]
    moments = [torch.cat([state["exp_avg"].flatten() for state in t.optimizer.state.values()]) for t, _ in outcomes]
    torch.testing.assert_close(*moments, rtol=0, atol=1e-7)


def kept_bytes(config):
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer, _ = run(config)
    return kept, learned(trainer)


def test_activations_computed_again_change_no_bit_and_are_not_kept(make):
    config = {"train": {"num_steps": 1}}
    plain_bytes, plain = kept_bytes(make(**config))
    some_bytes, some = kept_bytes(make(**config, compute={"activation_checkpointing": "motion"}))
    fewest_bytes, fewest = kept_bytes(make(**config, compute={"activation_checkpointing": "all"}))
    assert torch.equal(some, plain)
    assert torch.equal(fewest, plain)
    assert fewest_bytes < 0.9 * some_bytes < 0.81 * plain_bytes


def test_lower_precision_trains_about_the_same(make):
    _, expected = run(make())
    trainer, results = run(make(compute={"precision": "bfloat16"}))
    assert {parameter.dtype for parameter in trainer.model.unet.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.trainable.parameters()} == {torch.float32}
    assert results[0].loss_sums[0].sum() == pytest.approx(expected[0].loss_sums[0].sum().item(), rel=2e-2)


def test_the_patterns_weights_have_an_effect(make):
    trainer, _ = run(make(pictures={"first": 7}))
    assert trainer._random.pictures == PicturesConfig(first=7)
    losses = [fixed_loss(trainer, only(name)) for name in PicturesConfig.model_fields]
    assert len(set(losses)) == len(losses)


def test_the_loss_on_held_out_clips_is_always_of_the_same_frames(make, tmp_path):
    config = make(train={"num_steps": 3, "holdout": 0.5}, optim={"lr": 1e-2})
    trainer, _ = run(config)
    uri = written(trainer, tmp_path)
    first, second = (validation_loss(config, uri, device=CPU, num_clips=2).loss for _ in range(2))
    assert first == second
    all_shown = config.model_copy(
        update={"pictures": PicturesConfig(first=0, first_and_last=1, random=0, prediction=0)}
    )
    assert validation_loss(all_shown, uri, device=CPU, num_clips=2).loss != first


def frames_of(pictures, *, num_frames=9, num_clips=400, first_index=0, step=3):
    source = RandomSource(1, 1000, 0.1, ObjectiveConfig(), pictures)
    return source.draw((num_clips, 1, num_frames, 1, 1), step=step, first_index=first_index).picture_frames


def only(name):
    return PicturesConfig(**(dict.fromkeys(PicturesConfig.model_fields, 0.0) | {name: 1.0}))


def test_each_pattern_shows_its_frames():
    assert {tuple(frames) for frames in frames_of(only("first"))} == {(0,)}
    assert {tuple(frames) for frames in frames_of(only("first_and_last"))} == {(0, 8)}
    assert {tuple(frames) for frames in frames_of(only("prediction"))} == {tuple(range(k)) for k in range(1, 5)}
    found = frames_of(only("random"))
    assert {len(frames) for frames in found} == {1, 2, 3, 4}
    assert all(sorted(set(frames)) == frames for frames in found)
    assert {frame for frames in found for frame in frames} == set(range(9))
    assert all(frames_of(only(name), num_frames=1, num_clips=3) == [[0]] * 3 for name in PicturesConfig.model_fields)


def test_patterns_come_as_often_as_they_weigh():
    counts = Counter(map(tuple, frames_of(PicturesConfig(first=3, first_and_last=1, random=0, prediction=0))))
    assert counts[0,] == pytest.approx(300, abs=45)
    assert counts[0,] + counts[0, 8] == 400


def test_the_frames_shown_are_the_same_for_any_number_of_workers():
    whole = frames_of(PicturesConfig(), num_clips=12)
    shares = [frames_of(PicturesConfig(), num_clips=4, first_index=first) for first in (0, 4, 8)]
    assert list(itertools.chain(*shares)) == whole
    assert frames_of(PicturesConfig(), num_clips=12, step=4) != whole


def test_chosen_clips_keep_their_frames():
    source = RandomSource(1, 1000, 0.1, ObjectiveConfig(), PicturesConfig())
    draws = source.draw((5, 1, 9, 1, 1), step=0, first_index=0)
    assert select_clips(draws, torch.tensor([3, 1])).picture_frames == [draws.picture_frames[i] for i in (3, 1)]


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        ("sparse_control", {"model": {}}, "recipe sparse_control needs model.motion_module"),
        ("sparse_control", {"model": {"motion_module": "m", "lora_rank": 4}}, "leave out model.text_conditioned and"),
        ("sparse_control", {"model": {"motion_module": "m", "text_conditioned": True}}, "stays as it is: leave out"),
        ("motion_module", {"pictures": {"first": 2}}, "shows no pictures: leave out pictures and model.sparse_control"),
        ("motion_lora", {"model": {"motion_module": "m", "sparse_control": "s"}}, "shows no pictures: leave out"),
        ("sparse_control", {"pictures": dict.fromkeys(PicturesConfig.model_fields, 0)}, "must be above 0"),
    ],
)
def test_fields_that_do_not_suit_the_recipe_are_refused(recipe, fields, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig(recipe=recipe, dataset_uri="d", base="b", **fields)


def test_a_file_that_cannot_be_begun_with_is_refused_before_any_worker_starts(make, world, trained, tmp_path):
    recipe_of(make(model={"sparse_control": trained})).check_fit(SHAPE)
    with pytest.raises(UserError, match="40 frames, the motion module's position table has 32"):
        recipe_of(make()).check_fit((40, *SHAPE[1:]))
    with pytest.raises(UserError, match=r"model.sparse_control: .* motion module .*, not a SparseCtrl encoder"):
        recipe_of(make(model={"sparse_control": str(world / "motion.safetensors")})).check_fit(SHAPE)
    shorter = sparse_control_file.open_file(trained).build(load_unet(str(world / "base")).config)
    shorter.motion_config = shorter.motion_config.model_copy(update={"max_frames": 3})
    sparse_control_file.write(str(tmp_path / "short.safetensors"), shorter)
    with pytest.raises(UserError, match=r"4 frames, the position table of model.sparse_control .*short.* has 3"):
        recipe_of(make(model={"sparse_control": str(tmp_path / "short.safetensors")})).check_fit(SHAPE)


def test_parameters_are_counted_without_weights(make):
    trainer = Trainer(make(), device=CPU)
    frozen, learning = recipe_of(make()).count_parameters()
    assert learning == sum(parameter.numel() for parameter in trainer.model.trainable.parameters())
    assert frozen == sum(parameter.numel() for parameter in trainer.model.unet.parameters())


def test_it_is_sampled_beside_its_motion_module(make, world):
    wanted = SamplingWeights(motion_module=str(world / "motion.safetensors"), sparse_control="w")
    assert recipe_of(make()).sampling_weights("w") == wanted
