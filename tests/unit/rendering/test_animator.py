"""The animator: frames depend on the item and its entry's weights, and on nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.steps.deep_cache import DeepCache
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.diffusion.travel import Travel
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.entries import Entry, RenderSettings
from animatediff.rendering.catalog.item import Item
from animatediff.weights import checkpoints, motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS
from tests.support import mp4
from tests.support_base import build_base

ZERO_SNR = {"prediction_type": "v_prediction", "zero_terminal_snr": True}
BARE = Entry(name="bare", prompts=("x",))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module that moves, one that does not, a checkpoint, a LoRA of UNet and text encoder."""
    folder = tmp_path_factory.mktemp("weights")
    build_base(folder / "other", seed=1)
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig())
    motion_modules.write(str(folder / "still.safetensors"), motion)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    lora = {}
    for name in (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "lora_te_text_model_encoder_layers_0_self_attn_v_proj",
    ):
        lora[f"{name}.lora_down.weight"] = torch.randn(2, 32, generator=generator)
        lora[f"{name}.lora_up.weight"] = torch.randn(32, 2, generator=generator)
    save_file(lora, folder / "lora.safetensors")
    motion_lora, adapter = {}, {}
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    for name, file in ((block, motion_lora), (attention, adapter)):
        file[f"{name}.processor.to_q_lora.down.weight"] = torch.randn(2, 32, generator=generator)
        file[f"{name}.processor.to_q_lora.up.weight"] = torch.randn(32, 2, generator=generator)
    save_file(motion_lora, folder / "motion_lora.safetensors")
    save_file(adapter, folder / "adapter.safetensors")
    save_file({"emb_params": torch.randn(2, 32, generator=generator)}, folder / "red.safetensors")
    save_file({"lora_unet_nowhere.lora_down.weight": torch.ones(1)}, folder / "broken.safetensors")
    Image.effect_noise((32, 16), 80).save(folder / "picture.png")
    (folder / "video.mp4").write_bytes(mp4(20, height=16, width=32, fps=8))
    return folder


def make(files, motion="motion"):
    path = str(files / f"{motion}.safetensors")
    return Animator(str(files / "base"), path, schedule=NoiseSchedule(), device="cpu")


@pytest.fixture(scope="module")
def animator(files):
    return make(files)


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 2}
    size = {"width": 32, "height": 16, "num_frames": 3}
    return Item(digest="0", entry="x", model="", **(settings | size | changes))


def rendered(animator, entry, **changes):
    animator.load(entry)
    return animator.render(item(**changes))


def digest(files, **changes):
    """The digest of the item that a catalog with the settings of `item` gives."""
    settings = item(**changes).model_dump(include=RenderSettings.model_fields.keys() | {"prompt", "seed"})
    prompt = {"seeds": [settings.pop("seed")], **settings}
    weights = {"base": str(files / "base"), "motion_module": str(files / "motion.safetensors")}
    catalog = Catalog.model_validate({**weights, "entries": [{"name": "x", "prompts": [prompt]}]})
    (found,) = expand(catalog, content_hash=str).items
    return found.digest


def test_frames_have_the_items_shape_and_move(animator):
    frames = rendered(animator, BARE, num_frames=10)
    assert frames.shape == (10, 16, 32, 3)
    assert frames.dtype == np.uint8
    assert (frames[0] != frames[1]).any()


CHANGES = {
    "prompt": "a blue square",
    "prompt_syntax": "a1111",
    "travel": Travel(dwell=1),
    "seed": 4,
    "negative_prompt": "",
    "sampler": "euler_a",
    "timestep_spacing": "trailing",
    "num_inference_steps": 3,
    "guidance_scale": 2.0,
    "guidance_rescale": 0.7,
    "guidance_interval": GuidanceInterval(end=0.5),
    "guidance_after_every": 2,
    "guidance_every": 2,
    "deep_cache": DeepCache(every=2, layers=1),
    "clip_skip": 1,
    "width": 24,
    "height": 24,
    "num_frames": 4,
    "context": Context(length=2, overlap=1),
    "loop": True,
    "init_image": "picture.png",
    "init_video": "video.mp4",
    "strength": 1.0,
    "free_init": FreeInit(iterations=2),
    "second_pass": SecondPass(scale=2.0),
}
# What some settings say nothing without.
BESIDE = {
    "guidance_after_every": {"guidance_interval": GuidanceInterval(end=0.3)},
    "prompt_syntax": {"prompt": "a (red:0.1) circle"},
    "travel": {"prompt": {0: "a red circle", 2: "a blue square"}},
}


# `pia` needs a motion module of its own: `conditions/test_pia.py`; a `preset` is the settings that it names.
DECIDING = ["prompt", "seed", *sorted(RenderSettings.model_fields.keys() - {"fps", "pia", "preset", *WEIGHTS_SLOTS})]


@pytest.mark.parametrize("name", DECIDING)
def test_each_setting_of_an_item_counts_in_its_digest_and_its_pictures(animator, files, name):
    change = {name: str(files / CHANGES[name]) if name.startswith("init_") else CHANGES[name]}
    beside = {"init_image": str(files / "picture.png")} if name == "strength" else BESIDE.get(name, {})
    assert not np.array_equal(rendered(animator, BARE, **beside, **change), rendered(animator, BARE, **beside))
    assert digest(files, **beside, **change) != digest(files, **beside)


def test_without_a_schedule_the_motion_modules_own_is_used(files, tmp_path):
    uri = str(tmp_path / "motion.safetensors")
    motion_modules.write(uri, motion_modules.read(str(files / "motion.safetensors")), schedule={"beta_end": 0.05})
    schedules = (None, NoiseSchedule(beta_end=0.05), NoiseSchedule())
    own, same, other = (
        rendered(Animator(str(files / "base"), uri, schedule=schedule, device="cpu"), BARE) for schedule in schedules
    )
    assert np.array_equal(own, same)
    assert not np.array_equal(own, other)


@pytest.mark.parametrize(
    "kinds",
    [
        ["checkpoint"],
        ["loras"],
        ["domain_adapter"],
        ["motion_loras"],
        ["embeddings"],
        ["checkpoint", "loras", "embeddings"],
    ],
    ids="+".join,
)
def test_a_b_a_gives_the_same_frames_for_both_a(animator, files, kinds):
    def file(name):
        return {"path": str(files / f"{name}.safetensors")}

    weights = {
        "checkpoint": str(files / "other"),
        "loras": [file("lora")],
        "domain_adapter": file("adapter"),
        "motion_loras": [file("motion_lora")],
        "embeddings": [file("red")],  # the prompt's own word
    }
    b = Entry(name="b", prompts=("x",), **{kind: weights[kind] for kind in kinds})
    first, between = rendered(animator, BARE), rendered(animator, b)
    assert (between != first).any()
    np.testing.assert_array_equal(rendered(animator, BARE), first)
    np.testing.assert_array_equal(rendered(animator, b), between)


def test_an_entry_after_others_equals_the_entry_alone(files, animator):
    lora = Entry(name="l", prompts=("x",), loras=({"path": str(files / "lora.safetensors"), "scale": 0.5},))
    rendered(animator, Entry(name="o", prompts=("x",), checkpoint=str(files / "other")))
    np.testing.assert_array_equal(rendered(animator, lora), rendered(make(files), lora))


def test_a_broken_entry_leaves_nothing_behind(animator, files):
    first = rendered(animator, BARE)
    broken = Entry(
        name="z", prompts=("x",), checkpoint=str(files / "other"), loras=({"path": str(files / "broken.safetensors")},)
    )
    with pytest.raises(UserError, match="match nothing"):
        animator.load(broken)
    np.testing.assert_array_equal(rendered(animator, BARE), first)


def wait_for_prefetch(animator):
    animator._reader.submit(lambda: None).result()  # it has one thread


def test_what_is_prefetched_is_not_read_again(files, animator, tmp_path):
    folder = shutil.copytree(files / "other", tmp_path / "b")
    b = Entry(name="b", prompts=("x",), checkpoint=str(folder), loras=({"path": str(files / "lora.safetensors")},))
    first, wanted = rendered(animator, BARE), rendered(animator, b)
    animator.load(BARE)
    animator.prefetch(b)
    wait_for_prefetch(animator)
    np.testing.assert_array_equal(animator.render(item()), first)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with weights.open("r+b") as file:  # in place: a mapped file would give these bytes
        file.write(bytes(weights.stat().st_size))
    np.testing.assert_array_equal(rendered(animator, b), wanted)


def test_a_base_that_is_out_of_reach_later_is_not_read_again(files, tmp_path):
    folder = shutil.copytree(files / "base", tmp_path / "base")
    animator = Animator(str(folder), str(files / "motion.safetensors"), schedule=NoiseSchedule(), device="cpu")
    shutil.rmtree(folder)
    learned = BARE.model_copy(update={"loras": ({"path": str(files / "lora.safetensors")},)})
    assert rendered(animator, Entry.model_validate(learned.model_dump())).shape == (3, 16, 32, 3)


def test_prefetching_what_is_loaded_or_being_read_reads_nothing(files, animator, monkeypatch):
    load, opened = checkpoints.load, []
    monkeypatch.setattr(
        checkpoints, "load", lambda uri, *rest, **options: opened.append(uri) or load(uri, *rest, **options)
    )
    b = Entry(name="b", prompts=("x",), checkpoint=str(files / "other"))
    animator.load(BARE)
    for _ in range(2):
        animator.prefetch(b)
    animator.load(b)
    animator.prefetch(b)
    wait_for_prefetch(animator)
    assert opened == [b.checkpoint]


def test_another_entry_than_the_prefetched_one_may_be_loaded(files, animator):
    b = Entry(name="b", prompts=("x",), checkpoint=str(files / "other"))
    c = Entry(name="c", prompts=("x",), loras=({"path": str(files / "lora.safetensors")},))
    wanted = [rendered(animator, entry) for entry in (c, b)]
    animator.prefetch(BARE)
    for entry, frames in zip((c, b), wanted, strict=True):
        np.testing.assert_array_equal(rendered(animator, entry), frames)


def test_what_is_wrong_with_prefetched_files_is_told_when_they_are_loaded(files, animator):
    first = rendered(animator, BARE)
    broken = Entry(name="z", prompts=("x",), loras=({"path": str(files / "broken.safetensors")},))
    animator.prefetch(broken)
    wait_for_prefetch(animator)
    np.testing.assert_array_equal(animator.render(item()), first)
    for _ in range(2):
        with pytest.raises(UserError, match="match nothing"):
            animator.load(broken)
    np.testing.assert_array_equal(rendered(animator, BARE), first)


def test_each_checkpoint_is_sampled_as_what_it_predicts(files, animator, tmp_path):
    """Between models that predict noise, in one animator, as by an animator of that noise schedule alone."""
    folder = shutil.copytree(files / "other", tmp_path / "v")
    config = folder / "scheduler" / "scheduler_config.json"
    says_v = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps(json.loads(config.read_text()) | says_v))
    of_files = Animator(str(files / "base"), str(files / "motion.safetensors"), schedule=None, device="cpu")
    says_itself = Entry(name="v", checkpoint=str(folder))
    noise = Entry(name="noise", checkpoint=str(files / "other"))
    told = noise.model_copy(update={"noise_schedule": NoiseScheduleOverrides(**ZERO_SNR)})
    found = [rendered(of_files, entry) for entry in (noise, says_itself, told, noise, BARE)]
    schedule = NoiseSchedule(**ZERO_SNR)
    of_v = Animator(str(files / "base"), str(files / "motion.safetensors"), schedule=schedule, device="cpu")
    expected = [rendered(animator, noise), *[rendered(of_v, noise)] * 2, rendered(animator, noise)]
    for clip, other in zip(found, [*expected, rendered(animator, BARE)], strict=True):
        np.testing.assert_array_equal(clip, other)
    assert not np.array_equal(found[0], found[1])
    with pytest.raises(UserError, match="trained to predict v, as it says, and the noise schedule that is set is for"):
        animator.load(says_itself)  # which has a whole schedule
    np.testing.assert_array_equal(rendered(animator, BARE), found[-1])


def test_without_motion_each_frame_is_stable_diffusions_own(files):
    """An independent implementation of the whole chain: text, guidance, DDIM, VAE."""
    animator = make(files, "still")
    wanted = item(num_inference_steps=4, guidance_scale=7.5)
    frames = animator.render(wanted)
    scheduler = SAMPLERS["ddim"](NoiseSchedule()).scheduler
    pipeline = StableDiffusionPipeline.from_pretrained(files / "base", scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 3, 2, 4, generator=torch.Generator().manual_seed(wanted.seed))
    pictures = pipeline(
        [wanted.prompt] * 3,
        negative_prompt=[wanted.negative_prompt] * 3,
        latents=noise[0].transpose(0, 1),
        height=16,
        width=32,
        num_inference_steps=4,
        guidance_scale=7.5,
        output_type="np",
    ).images
    assert np.abs(frames - pictures * 255).max() <= 1.01


@pytest.mark.parametrize(
    ("layer", "blamed"),
    [
        (lambda animator: animator._vae.post_quant_conv, "the VAE gave NaN"),
        (lambda animator: animator._unet.base.conv_out, "the UNet gave NaN"),
    ],
    ids=["vae", "unet"],
)
def test_broken_weights_are_an_error_not_a_black_clip(files, layer, blamed):
    animator = make(files)
    with torch.no_grad():
        layer(animator).bias.fill_(float("nan"))
    with pytest.raises(UserError, match=blamed):
        animator.render(item())


def test_a_vae_that_overflows_in_half_precision_decodes_in_single(files):
    """As on a GPU, where it is in half precision; what it computes is too large for that, not what it gives."""
    animator = make(files)
    with torch.no_grad():
        animator._vae.decoder.conv_in.weight.mul_(1e5)
    animator._vae.half()
    resident = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in animator._vae.state_dict().items()}
    frames = animator.render(item(num_frames=10))
    for name, tensor in animator._vae.state_dict().items():
        assert tensor.data_ptr() == resident[name][0]
        assert torch.equal(tensor, resident[name][1])
    animator._vae.float()
    # Where the numbers happen to be small enough, half precision rounds some pixels the other way.
    single = animator.render(item(num_frames=10)).astype(int)
    assert np.abs(frames - single).max() <= 1


def test_other_programs_syntax_in_a_prompt_is_a_warning_of_its_clip(animator):
    animator.load(BARE)
    plain, weighted = animator.render_batch([item(prompt=text) for text in ("a (red) ball", "a (red:1.5) ball")])
    assert plain.warning is None
    assert "'(red:1.5)' is another program's syntax" in weighted.warning


BUNDLES = {
    "A1111's": ("bundle_emb.catword.string_to_param.*", "catword"),
    "kohya's": ("bundle_emb.cat word.emb_params", "cat word"),
    "OneTrainer's": ("bundle_emb.<cat.v2>.clip_l", "<cat.v2>"),
}


@pytest.fixture
def bundle(files, tmp_path):
    """A LoRA's file with `red.safetensors`' vectors in it, under the name that is given."""

    def make(name, scale=1.0):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        vectors = load_file(files / "red.safetensors")["emb_params"]
        save_file(load_file(files / "lora.safetensors") | {name: scale * vectors}, path)
        return str(path)

    return make


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_loras_bundled_embedding_is_as_one_of_its_own(files, animator, bundle, kind):
    name, word = BUNDLES[kind]
    own = [{"path": str(files / "red.safetensors"), "token": word}]
    animator.load(Entry(name="apart", loras=(str(files / "lora.safetensors"),), embeddings=own))
    expected = animator.render(item(prompt=f"a {word} here"))
    animator.load(Entry(name="without", loras=(str(files / "lora.safetensors"),)))
    without = animator.render(item(prompt=f"a {word} here"))
    animator.load(Entry(name="bundle", loras=(bundle(name),)))
    np.testing.assert_array_equal(animator.render(item(prompt=f"a {word} here")), expected)
    assert (expected != without).any()
    animator.load(Entry(name="off", loras=({"path": bundle(name), "scale": 0.0},)))
    animator.load(Entry(name="without", loras=(str(files / "lora.safetensors"),)))
    np.testing.assert_array_equal(animator.render(item(prompt=f"a {word} here")), without)


def test_an_embedding_that_is_named_comes_before_a_bundled_one(files, animator, bundle):
    named = [{"path": str(files / "red.safetensors"), "token": "CatWord"}]
    other = bundle("bundle_emb.catword.emb_params", scale=-3.0)
    animator.load(Entry(name="apart", loras=(str(files / "lora.safetensors"),), embeddings=named))
    expected = animator.render(item(prompt="a catword"))
    animator.load(Entry(name="both", loras=(other,), embeddings=named))
    np.testing.assert_array_equal(animator.render(item(prompt="a catword")), expected)


def test_bundled_tensors_that_are_not_used_are_told(animator, bundle, caplog):
    animator.load(Entry(name="bundle", loras=(bundle("bundle_emb.cat.clip_l_out"),)))
    assert "1 tensors of its bundled embeddings are not used, such as bundle_emb.cat.clip_l_out" in caplog.text
