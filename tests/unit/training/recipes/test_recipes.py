"""Each recipe trains what it says, every option does what it says, and a resumed run is the same run."""

import hashlib
import itertools
import math
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from animatediff.data import shards
from animatediff.data.clips.source_crop import SourceCrop
from animatediff.data.loading.loader import ClipLoader
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import read_manifest, write_manifest
from animatediff.errors import UserError
from animatediff.models.motion_unet import MotionModules
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes import table
from animatediff.training.recipes.motion_module import MotionModuleRecipe
from animatediff.training.recipes.recipe import SamplingWeights
from animatediff.training.settings import ModelConfig, RecipeConfig
from animatediff.training.trainer import Trainer
from animatediff.training.validation import validation_loss
from animatediff.weights import adapters, motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.identify import weights_file
from animatediff.weights.reading.tensors import open_tensors
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
SHAPE = (3, 4, 8, 8)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    return cache(lambda kind: make_world(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture
def world(worlds, request):
    """Of Stable Diffusion 1.x, or of SDXL where a test says so."""
    return worlds(getattr(request, "param", "sd1"))


BASES = pytest.mark.parametrize("world", ["sd1", "sdxl"], indirect=True)


def make_world(folder, kind):
    """A base, two datasets, a trained motion module and a domain adapter of some strength."""
    base = str(build_sdxl(folder / "base") if kind == "sdxl" else build_base(folder / "base"))
    write_dataset(folder / "data", shards=(8,), shapes=(SHAPE,), source_crops=(SourceCrop(72, 128, 0, 25),))
    write_dataset(folder / "other", shards=(8,), shapes=(SHAPE,), seed=9)
    unet = load_unet(base)
    torch.manual_seed(3)
    motion = MotionModules.for_base(unet, ModelConfig().motion_config(unet.config))
    for name, parameter in motion.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    adapter = adapters.LowRankAdapters.for_base(unet, 2)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    adapters.write(str(folder / "adapter.safetensors"), adapter, metadata={})
    return folder


@pytest.fixture
def make(world):
    def make_recipe(recipe="motion_module", **sections):
        sections = {name: dict(section) if isinstance(section, dict) else section for name, section in sections.items()}
        train = {"num_steps": 2, "batch_size": 4, "seed": 5} | sections.pop("train", {})
        optim = {"lr": 3e-3} | sections.pop("optim", {})
        model = sections.pop("model", {})
        if recipe in ("motion_lora", "finetune"):
            model = {"motion_module": str(world / "motion.safetensors")} | model
        if recipe != "motion_module":
            model = {"lora_rank": 2} | model
        data, base = str(world / "data"), str(world / "base")
        return TrainingConfig(
            recipe=recipe, dataset_uri=data, base=base, model=model, train=train, optim=optim, **sections
        )

    return make_recipe


def run(recipe, **options):
    trainer = Trainer(recipe, device=CPU, **options)
    return trainer, [result for _, result in trainer.steps(0)]


def learned(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.trainable.parameters()])


RECIPES = ["motion_module", "domain_adapter", "motion_lora", "finetune"]


@BASES
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_its_own_weights_and_leaves_a_file_of_their_kind(make, world, tmp_path, name):
    trainer, results = run(make(name))
    assert all(result.loss_sums.isfinite().all() for result in results)
    kinds = {"motion_module": "motion_module", "domain_adapter": "domain_adapter"}
    assert trainer.recipe.weights_file == f"{kinds.get(name, 'motion_lora')}.safetensors"
    uri = str(tmp_path / trainer.recipe.weights_file)
    trainer.write_weights(uri)
    assert weights_file.identify(open_tensors(uri)).family == kinds.get(name, "motion_lora")
    if name == "motion_module":
        assert motion_modules.open_file(uri).schedule == trainer.recipe.noise_schedule.model_dump()
    # Nothing else moved.
    base = trainer.model.unet if name == "domain_adapter" else trainer.model.unet.base
    for own, old in zip(base.state_dict().values(), load_unet(str(world / "base")).state_dict().values(), strict=True):
        assert torch.equal(own, old)
    if name != "motion_module":
        ups = [p for n, p in trainer.model.trainable.named_parameters() if n.endswith(".up.weight")]
        assert all(bool(up.any()) for up in ups)
    if name in ("motion_lora", "finetune"):
        given = motion_modules.read(str(world / "motion.safetensors")).state_dict()
        assert all(torch.equal(tensor, given[n]) for n, tensor in trainer.model.unet.motion.state_dict().items())


@BASES
def test_finetuning_without_a_rank_trains_the_whole_motion_module(make, world):
    trainer, _ = run(make("finetune", model={"lora_rank": None}))
    assert trainer.recipe.weights_file == "motion_module.safetensors"
    given = motion_modules.read(str(world / "motion.safetensors")).state_dict()
    assert not any(torch.equal(tensor, given[n]) for n, tensor in trainer.model.trainable.state_dict().items())


@BASES
@pytest.mark.parametrize(("name", "ema_decay"), [("motion_module", 0.9), ("motion_lora", 0.9), ("domain_adapter", 0.0)])
def test_half_a_run_and_a_resumed_half_equal_a_whole_one_bit_for_bit(make, tmp_path, name, ema_decay):
    recipe = make(name, train={"num_steps": 4, "ema_decay": ema_decay})
    whole, results = run(recipe)
    first = Trainer(recipe, device=CPU)
    for done, _ in itertools.islice(first.steps(0), 2):
        last = done
    first.save(tmp_path, step=last)
    second = Trainer(recipe, device=CPU)
    rest = [result for _, result in second.steps(second.load(tmp_path))]
    assert [r.loss_sums.tolist() for r in rest] == [r.loss_sums.tolist() for r in results[2:]]
    assert torch.equal(learned(second), learned(whole))
    if ema_decay:
        assert all(map(torch.equal, second.ema.averages, whole.ema.averages))
        assert not torch.equal(torch.cat([a.flatten() for a in whole.ema.averages]), learned(whole))
    states = zip(second.optimizer.state.values(), whole.optimizer.state.values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in states for key in a)


def test_the_result_is_the_averaged_weights_where_there_are_any(make, tmp_path):
    trainer, _ = run(make(train={"ema_decay": 0.9}))
    before = learned(trainer)
    uri = str(tmp_path / "averaged.safetensors")
    trainer.write_weights(uri)
    assert torch.equal(learned(trainer), before)
    read = motion_modules.read(uri)
    assert all(map(torch.equal, read.parameters(), trainer.ema.averages))


def gradients(trainer):
    """Of the one step that was taken, shortened to length 1: the first running mean is a tenth of it."""
    return torch.cat([state["exp_avg"].flatten() for state in trainer.optimizer.state.values()]) / 0.1


@pytest.mark.parametrize("name", ["motion_module", "domain_adapter"])
def test_accumulated_gradients_equal_those_of_the_whole_batch(make, name):
    whole, results = run(make(name, train={"num_steps": 1}))
    parts, accumulated = run(make(name, train={"num_steps": 1}, compute={"micro_batch_size": 1}))
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=0, atol=1e-6)
    torch.testing.assert_close(accumulated[0].loss_sums, results[0].loss_sums, rtol=0, atol=1e-6)


def kept_bytes(recipe):
    """What one pass keeps for its gradients, and the trained weights."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer, _ = run(recipe)
    return kept, learned(trainer)


@BASES
@pytest.mark.parametrize(
    ("name", "checkpointing"), [("motion_module", "motion"), ("motion_module", "all"), ("domain_adapter", "all")]
)
def test_activations_computed_again_change_no_bit_and_are_not_kept(make, name, checkpointing):
    plain_bytes, plain = kept_bytes(make(name))
    fewer_bytes, again = kept_bytes(make(name, compute={"activation_checkpointing": checkpointing}))
    assert torch.equal(again, plain)
    assert fewer_bytes < 0.9 * plain_bytes


def test_without_motion_modules_their_activations_cannot_be_spared(make):
    with pytest.raises(ValidationError, match="has no motion modules: compute.activation_checkpointing all"):
        make("domain_adapter", compute={"activation_checkpointing": "motion"})


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_trains_about_the_same(make, precision):
    exact, expected = run(make())
    trainer, results = run(make(compute={"precision": precision}))
    assert {parameter.dtype for parameter in trainer.model.unet.base.parameters()} == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in trainer.model.trainable.parameters()} == {torch.float32}
    assert trainer._scaler.is_enabled() == (precision == "float16")
    assert results[0].loss_sums[0].sum() == pytest.approx(expected[0].loss_sums[0].sum().item(), rel=2e-2)
    assert not torch.equal(learned(trainer), learned(exact))
    assert trainer.skipped_steps.number == 0


OPTIONS = {
    "min-SNR": {"objective": {"min_snr_gamma": 1.0}},
    "noise offset": {"objective": {"noise_offset": 0.1}},
    "shared noise": {"objective": {"shared_noise": 0.5}},
    "fading": {"objective": {"fade_from": 100}},
    "biased timesteps": {"objective": {"timestep_power": 3.0}},
    "v-prediction": {"schedule": {"prediction_type": "v_prediction"}},
    "zero terminal SNR": {"schedule": {"prediction_type": "v_prediction", "zero_terminal_snr": True}},
    "betas": {"schedule": {"beta_schedule": "scaled_linear"}},
    "dropout": {"train": {"caption_dropout": 1.0}},
    "holdout": {"train": {"holdout": 0.6}},
    "seed": {"train": {"seed": 6}},
    "learning rate": {"optim": {"lr": 1e-3}},
    "warm-up": {"optim": {"warmup_steps": 5}},
    "decay": {"optim": {"decay_steps": 2}},
    "cosine": {"optim": {"decay_steps": 3, "decay": "cosine"}},
    "betas of AdamW": {"optim": {"betas": (0.5, 0.9)}},
    "eps": {"optim": {"eps": 1e-3}},
    "weight decay": {"optim": {"weight_decay": 0.5}},
    "clipping": {"optim": {"max_grad_norm": 1e-6}},
    "positions": {"model": {"version": "v2"}},
    "captions": {"model": {"text_conditioned": True}},
    "where": {"where": "motion < 3"},
}


def outcome(trainer, results):
    return learned(trainer).sum().item(), [result.loss_sums.tolist() for result in results]


def test_every_option_has_an_effect(make):
    """Each alone changes the trained weights or the losses; of two that could be one, each differs from the other."""
    outcomes = {"none": outcome(*run(make()))}
    outcomes |= {name: outcome(*run(make(**option))) for name, option in OPTIONS.items()}
    alike = [(a, b) for a, b in itertools.combinations(outcomes, 2) if outcomes[a] == outcomes[b]]
    assert alike == []


def test_captions_reach_a_module_that_attends_to_them_and_its_file_says_so(make, world, tmp_path):
    recipe = make("finetune", model={"lora_rank": None, "text_conditioned": True})
    fresh = Trainer(recipe, device=CPU)
    without = Trainer(make("finetune", model={"lora_rank": None}), device=CPU)
    sample, told = torch.randn(1, 4, 3, 8, 8), fresh._caption_encoder(["caption 1"], height=8, width=8)
    with torch.no_grad():
        same = [t.model(sample, torch.tensor([500]), told) for t in (fresh, without)]
    assert torch.equal(*same)
    trainer, _ = run(recipe)
    uri = str(tmp_path / "text.safetensors")
    trainer.write_weights(uri)
    assert motion_modules.open_file(uri).config.text_width == told.text.shape[-1]
    with torch.no_grad():
        texts = [trainer._caption_encoder([caption], height=8, width=8) for caption in ("caption 1", "caption 2")]
        moved = [trainer.model(sample, torch.tensor([500]), text) for text in texts]
    assert not torch.equal(*moved)


def test_the_frozen_base_carries_its_adapter_and_its_personalised_weights_by_rank(make, world, tmp_path):
    plain = load_unet(str(world / "base")).state_dict()
    adapter = {"path": str(world / "adapter.safetensors"), "scale": 0.5}
    with_adapter = Trainer(make(model={"domain_adapter": adapter}), device=CPU).model.unet.base.state_dict()
    moved = {name for name in plain if not torch.equal(plain[name], with_adapter[name])}
    assert moved
    assert all(".attn" in name for name in moved)

    checkpoint = tmp_path / "personal"
    checkpoint.mkdir()
    other = load_unet(str(world / "base"))
    with torch.no_grad():
        other.conv_in.weight.mul_(2)
    other.save_pretrained(checkpoint / "unet")
    (checkpoint / "model_index.json").write_text("{}")
    recipe = make(base_checkpoints=("base", str(checkpoint)))
    bases = [Trainer(recipe, device=CPU, rank=r, world_size=1).model.unet.base for r in (0, 1, 2)]
    assert torch.equal(bases[1].conv_in.weight, 2 * bases[0].conv_in.weight)
    assert torch.equal(bases[2].conv_in.weight, bases[0].conv_in.weight)


def test_a_second_datasets_batches_come_among_the_first_ones(make, world):
    alone, _ = run(make())
    mixed, _ = run(make(mix={"dataset_uri": str(world / "other"), "share": 0.5}))
    assert not torch.equal(learned(mixed), learned(alone))
    batches = mixed.loader.batches(0)
    ids = [next(batches).latents for _ in range(4)]
    first = alone.loader.batches(0)
    assert torch.equal(ids[0], next(first).latents)
    assert torch.equal(ids[2], next(first).latents)


def poison(folder, clip_id, shape=SHAPE):
    """The dataset's latents of one clip become infinite, as if they had been sealed so."""
    uri = next(folder.rglob("shard-*.parquet"))
    table = pq.read_table(uri)
    rows = table.to_pylist()
    for row in rows:
        if row["clip_id"] == clip_id:
            row["latent"] = np.full(shape, np.inf, np.float16).tobytes()
    pq.write_table(type(table).from_pylist(rows, schema=shards.SCHEMA), uri)
    manifest, content = read_manifest(str(folder)), uri.read_bytes()
    told = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    changed = [s.model_copy(update=told) if s.path == str(uri.relative_to(folder)) else s for s in manifest.shards]
    write_manifest(str(folder), manifest.model_copy(update={"shards": changed}))


def test_a_bad_clip_costs_its_steps_and_is_named_and_too_many_stop_the_run(make, world, tmp_path):
    write_dataset(tmp_path / "data", shards=(8,), shapes=(SHAPE,))
    poison(tmp_path / "data", "clip-003")
    recipe = make(train={"num_steps": 4}).model_copy(update={"dataset_uri": str(tmp_path / "data")})
    trainer, results = run(recipe)
    assert learned(trainer).isfinite().all()
    assert trainer.skipped_steps.number == 2  # 16 places for 8 clips
    assert {tuple(skip.clip_ids) for skip in trainer.skipped_steps.unreported} == {("clip-003",)}
    assert all(result.loss_sums.isfinite().all() for result in results)

    strict = recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_skipped_steps": 0})})
    with pytest.raises(UserError, match=r"1 steps in a row.* clips: clip-003\."):
        run(strict)


def test_the_held_out_loss_is_always_the_same_and_falls_with_training(make, tmp_path):
    recipe = make(train={"num_steps": 12, "holdout": 0.5, "batch_size": 8})
    uris = [str(tmp_path / name) for name in ("fresh.safetensors", "trained.safetensors")]
    trainer = Trainer(recipe, device=CPU)
    trainer.write_weights(uris[0])
    for _ in trainer.steps(0):
        pass
    trainer.write_weights(uris[1])
    fresh, again, trained = (
        validation_loss(recipe, uri, device=CPU, num_clips=8) for uri in (uris[0], uris[0], uris[1])
    )
    assert fresh == again
    assert fresh.left_out == []
    assert trained.loss < fresh.loss


def test_held_out_clips_without_a_finite_loss_are_named_and_left_out(make, tmp_path):
    write_dataset(tmp_path / "data", shards=(8,), shapes=(SHAPE,))
    recipe = make(train={"num_steps": 1, "holdout": 0.5}).model_copy(update={"dataset_uri": str(tmp_path / "data")})
    uri = str(tmp_path / "fresh.safetensors")
    Trainer(recipe, device=CPU).write_weights(uri)
    whole = validation_loss(recipe, uri, device=CPU, num_clips=8)
    held = ClipLoader(
        recipe.dataset_uri,
        read_manifest(recipe.dataset_uri),
        Batching(batch_size=1, seed=0),
        ClipFilter(holdout=0.5, held_out=True),
    )
    clips = [held.load(i).clip_ids[0] for i in range(held.num_clips)]
    assert len(clips) > 1
    poison(tmp_path / "data", clips[0])
    found = validation_loss(recipe, uri, device=CPU, num_clips=8)
    assert found.left_out == clips[:1]
    assert math.isfinite(found.loss)
    assert found.loss != whole.loss
    for clip in clips[1:]:
        poison(tmp_path / "data", clip)
    nothing = validation_loss(recipe, uri, device=CPU, num_clips=8)
    assert nothing.left_out == clips
    assert math.isnan(nothing.loss)


@pytest.mark.parametrize(
    ("recipe", "fields", "message"),
    [
        ("motion_lora", {"motion_module": None}, "recipe motion_lora needs model.motion_module"),
        ("finetune", {"motion_module": None}, "recipe finetune needs model.motion_module"),
        ("motion_module", {"lora_rank": 4}, "leave out model.lora_rank, or choose recipe finetune or motion_lora"),
        ("domain_adapter", {"text_conditioned": True}, "single frames, without motion: leave out model.text_cond"),
        ("domain_adapter", {"motion_module": "x"}, "single frames, without motion: leave out model.motion_module"),
        ("motion_lora", {"text_conditioned": True}, "a LoRA does not train the attention to captions"),
    ],
)
def test_fields_that_do_not_suit_the_recipe_are_refused(make, recipe, fields, message):
    with pytest.raises(ValidationError, match=message):
        make(recipe, model=fields)


def test_a_config_that_nobody_has_checked_is_checked_before_a_model_is_built(world):
    fields = {"dataset_uri": "d", "base": str(world / "base")}
    with pytest.raises(UserError, match="recipe 'motion_modul' is none of domain_adapter, motion_module, "):
        table.recipe_of(RecipeConfig(recipe="motion_modul", **fields))
    with pytest.raises(UserError, match=r"model\.motion_module"):
        table.recipe_of(RecipeConfig(recipe="motion_lora", **fields)).build({}, seed=0)


def test_a_fade_that_begins_behind_the_last_timestep_is_refused(make):
    assert make("motion_module", objective={"fade_from": 999}).objective.fade_from == 999
    with pytest.raises(ValidationError, match="objective.fade_from 1000 is none of the 1000 timesteps"):
        make("motion_module", objective={"fade_from": 1000})


def test_training_and_validation_take_a_recipes_own_loss(make, tmp_path, monkeypatch):
    class Doubled(MotionModuleRecipe):
        """A recipe of one's own."""

        def loss(self, *args):
            return 2 * super().loss(*args)

    config = make(train={"num_steps": 1, "holdout": 0.5})
    plain, expected = run(config)
    uri = str(tmp_path / "motion_module.safetensors")
    plain.write_weights(uri)
    held_out = validation_loss(config, uri, device=CPU, num_clips=1).loss
    monkeypatch.setitem(table.RECIPES, "motion_module", Doubled)
    _, doubled = run(config)
    assert torch.equal(doubled[0].loss_sums[0], 2 * expected[0].loss_sums[0])
    assert validation_loss(config, uri, device=CPU, num_clips=1).loss == 2 * held_out


@pytest.mark.parametrize(
    ("name", "rank", "sampling_weights"),
    [
        ("motion_module", None, SamplingWeights(motion_module="w")),
        ("finetune", None, SamplingWeights(motion_module="w")),
        ("finetune", 2, SamplingWeights(motion_module="given", motion_loras=("w",))),
        ("motion_lora", 2, SamplingWeights(motion_module="given", motion_loras=("w",))),
        ("domain_adapter", 2, SamplingWeights(motion_module=None, domain_adapter="w", is_still=True)),
    ],
)
def test_a_result_is_sampled_beside_what_it_was_trained_on(make, name, rank, sampling_weights):
    model = {"lora_rank": rank} | ({"motion_module": "given"} if name in ("finetune", "motion_lora") else {})
    assert table.recipe_of(make(name, model=model)).sampling_weights("w") == sampling_weights


def test_each_recipe_is_told_in_the_configs_help():
    description = TrainingConfig.model_fields["recipe"].description
    assert all(f"{name}: " in description for name in table.RECIPES)
    assert all(recipe.__doc__.splitlines()[0] in description for recipe in table.RECIPES.values())


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(make):
    plain, expected = run(make())
    compiled, results = run(make(compute={"compile": True}))
    torch.testing.assert_close(
        torch.stack([r.loss_sums for r in results]), torch.stack([r.loss_sums for r in expected])
    )
    torch.testing.assert_close(gradients(compiled), gradients(plain), rtol=0, atol=1e-4)
