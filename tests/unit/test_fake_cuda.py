"""On a GPU every tensor is where it belongs, and nothing waits for the GPU but what must: seen with fake tensors."""

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.initial_noise import initial_noise
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS, Sampler
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.size_conditioning import uncropped_time_ids
from animatediff.models.config import MotionConfig
from animatediff.models.embedding import Embedding
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.text_encoder import PromptEncoder
from animatediff.models.vae import encode_frames
from animatediff.rendering import animator as animator_module
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.training import trainer as trainer_module
from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.text import CaptionEncoder
from animatediff.training.trainer import Trainer
from animatediff.weights.base import load_text_encoders, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.resident import ResidentWeights, ScaledLora
from tests.fake_cuda import CUDA, fake_cuda, is_possible, real
from tests.support_base import build_base
from tests.support_lora import good, write
from tests.support_weights import tiny_sdxl
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = [
    pytest.mark.skipif(not is_possible(), reason="this PyTorch has no place for fake CUDA tensors"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]

HALF = torch.float16
SHAPE = (2, 4, 3, 8, 8)  # b c f h w
TINY = {
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
SMALL = {"width": 16, "height": 24, "num_frames": 3, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """With a UNet of few layers, as each operation on a fake tensor takes its time."""
    folder = build_base(tmp_path_factory.mktemp("world") / "base")
    UNet2DConditionModel(**TINY).save_pretrained(folder / "unet")
    return str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), shards=(5,), shapes=((3, 4, 8, 8),))


def half(*shape):
    return torch.randn(shape, device=CUDA, dtype=HALF)


def is_half_on_cuda(tensor):
    return (tensor.device, tensor.dtype) == (CUDA, HALF)


def test_a_fake_gpu_finds_what_a_gpu_would():
    with fake_cuda() as waits:
        tensor, own = half(2), torch.ones(2)
        with pytest.raises(Exception, match="same device"):
            tensor + own
        with pytest.raises(RuntimeError, match="dtype"):
            half(2, 2) @ torch.ones(2, 2, device=CUDA)
        waits.clear()
        own.to(CUDA, non_blocking=True)
        assert waits == []
        own.to(CUDA)
        tensor.cpu()
        bool(tensor.isfinite().all())
    assert [wait.partition(",")[0] for wait in waits] == ["a copy to cuda", "a copy to cpu", "a number of a tensor"]


@pytest.mark.parametrize("version", ["v1", "v2", "v3", "sdxl"])
def test_a_motion_unet_computes_in_half_precision_and_waits_for_nothing(version):
    unet = tiny_sdxl()["unet"] if version == "sdxl" else UNet2DConditionModel(**TINY)
    config = MotionConfig.for_version(version).model_copy(update={"norm_num_groups": 8, "num_heads": 2})
    model = MotionUNet(unet, config)
    with fake_cuda() as waits:
        model.to(CUDA, HALF)
        told = Conditioning(half(2, 7, unet.config.cross_attention_dim))
        if version == "sdxl":
            told = replace(told, pooled_text=half(2, 32))
            told = replace(told, time_ids=uncropped_time_ids(2, height=64, width=64, device=CUDA))
        timesteps = torch.randint(1000, (2,), device=CUDA)
        waits.clear()
        predicted = model(half(*SHAPE), timesteps, told)
        assert is_half_on_cuda(predicted)
        assert predicted.shape == SHAPE
        assert waits == []


def predictor(sample, timestep, conditioning):
    assert timestep.device == CUDA
    return sample * conditioning.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("settings", [{}, {"loop": True}, {"context": Context(length=2, overlap=1), "max_batch": 3}])
def test_a_denoising_loop_waits_before_its_first_step_alone(name, settings):
    sampler, numbers = SAMPLERS[name](NoiseSchedule()), []
    for steps in (2, 5):
        generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
        with fake_cuda() as waits, patch.object(Sampler, "begin", real(Sampler.begin)):
            told = Conditioning(half(2, 7, 8), negative=Conditioning(half(2, 7, 8)))
            noise = initial_noise(SHAPE, generators[0]).to(CUDA)
            waits.clear()
            latents = sample(
                predictor,
                sampler,
                told,
                noise,
                num_inference_steps=steps,
                guidance_scale=7.5,
                guidance_rescale=0.7,
                generators=generators,
                **settings,
            )
            assert (latents.device, latents.dtype, latents.shape) == (CUDA, torch.float32, SHAPE)
            numbers.append(len(waits))
    # Each clip's own noise is drawn on the CPU and goes to the GPU at every step but the last.
    assert numbers[1] - numbers[0] == (3 if sampler.adds_noise else 0), waits


def steps(config):
    """The results of a run's steps, and what waited for the GPU at each."""
    read = [
        patch.object(trainer_module, "load_text_encoders", real(load_text_encoders)),
        patch.object(trainer_module, "read_manifest", real(trainer_module.read_manifest)),
        patch.object(trainer_module.ClipLoader, "load", real(trainer_module.ClipLoader.load)),
        patch.object(Recipe, "build", real(Recipe.build)),
    ]
    with fake_cuda() as waits:
        for one in read:
            one.start()
        try:
            trainer = Trainer(config, device=CUDA)
            found = []
            waits.clear()
            for _, result in trainer.steps(0):
                found.append((result, list(waits)))
                waits.clear()
        finally:
            for one in read:
                one.stop()
    return trainer, found


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [("motion_module", "float16"), ("domain_adapter", "bfloat16")],
)
def test_a_training_step_waits_for_the_step_before_alone(base, dataset, recipe, precision):
    config = TrainingConfig(
        recipe=recipe,
        dataset_uri=dataset,
        base=base,
        train={"num_steps": 2, "batch_size": 2, "ema_decay": 0.9},
        compute={"precision": precision},
        objective={"min_snr_gamma": 5.0, "fade_from": 700},
    )
    trainer, (_, (result, waits)) = steps(config)
    assert {(p.device, p.dtype) for p in trainer.model.trainable.parameters()} == {(CUDA, torch.float32)}
    assert {str(p.dtype) for p in trainer.model.parameters()} == {"torch.float32", f"torch.{precision}"}
    assert (result.loss_sums.device, result.grad_norm.dtype) == (CUDA, torch.float32)
    assert waits == ["a number of a tensor, skipped_steps.py:check_last_step"]


def test_learned_words_are_put_into_prompts_on_the_gpu(base):
    (tokenizer, encoder) = load_text_encoders(base)["text_encoder"]
    prompts = PromptEncoder(tokenizer, encoder)
    prompts.set_embeddings([Embedding("red", {"text_encoder": torch.randn(2, 32)})])
    with fake_cuda():
        encoder.to(CUDA, HALF)
        assert is_half_on_cuda(prompts.encode(["a red circle", ""]))
        assert is_half_on_cuda(prompts.encode(["a red circle"], clip_skip=1))


def test_sdxls_captions_are_encoded_on_the_gpu_and_kept(base):
    (tokenizer, _), parts = load_text_encoders(base)["text_encoder"], tiny_sdxl()
    encoders = {part: (tokenizer, parts[part]) for part in ("text_encoder", "text_encoder_2")}
    with fake_cuda() as waits:
        encode = CaptionEncoder(BaseFacts(base), encoders, CUDA, HALF, latent_factor=8)
        for _ in range(2):
            waits.clear()
            told = encode(["a red circle", ""], height=8, width=8)
        assert waits == []
        assert is_half_on_cuda(told.text)
        assert is_half_on_cuda(told.pooled_text)
        assert (told.time_ids.device, told.time_ids.shape) == (CUDA, (2, 6))


def test_weights_files_are_added_where_the_models_are(base, tmp_path):
    modules = {"unet": load_unet(base), "vae": load_vae(base)}
    lora = write(tmp_path / "lora.safetensors", good())
    with fake_cuda():
        for module in modules.values():
            module.to(CUDA, HALF)
        weights = ResidentWeights(modules)
        weights.apply(real(weights.read)(base, [ScaledLora(lora, 0.5)]))
        assert all(is_half_on_cuda(weights._resident_tensor(target)) for target in weights._changed)
        assert {part for part, _ in weights._changed} == {"unet", "vae"}
        weights.restore()


def test_frames_are_encoded_on_the_gpu(base):
    vae = load_vae(base)
    with fake_cuda(), patch("torch.from_numpy", real(torch.from_numpy)), patch("torch.Tensor.numpy", lambda t: t):
        vae.to(CUDA, HALF)
        latents = encode_frames(vae, np.zeros((3, 16, 24, 3), np.uint8))
        assert (latents.shape, latents.dtype, latents.device.type) == ((3, 4, 2, 3), HALF, "cpu")


def test_an_animator_swaps_weights_renders_and_decodes_again_on_the_gpu(base, tmp_path):
    adapted = Entry(name="x", prompts=("x",), loras=({"path": write(tmp_path / "lora.safetensors", good())},))
    item = Item(digest="", entry="", model="", prompt="a red circle", seed=0, **SMALL)
    are_finite = [True, False]  # of the latents, and of the pixels in half precision
    with fake_cuda(are_finite) as waits, ExitStack() as stack:
        for name in ("load_vae", "load_text_encoders", "_motion_unet"):
            stack.enter_context(patch.object(animator_module, name, real(getattr(animator_module, name))))
        for owner, name in ((Sampler, "begin"), (ResidentWeights, "read")):
            stack.enter_context(patch.object(owner, name, real(getattr(owner, name))))
        stack.enter_context(patch("torch.Tensor.numpy", lambda tensor: np.zeros(tensor.shape, np.uint8)))
        animator = Animator(base, None, schedule=NoiseSchedule(), device=str(CUDA))
        animator.load(adapted)
        waits.clear()
        (clip,) = animator.render_batch([item])
        assert clip.frames.shape == (3, 24, 16, 3)
        assert (clip.latents.device.type, clip.latents.dtype) == ("cpu", HALF)
        assert is_half_on_cuda(next(animator._vae.parameters()))
    during = {"a copy to cuda, text_encoder.py:_run", "a copy to cuda, clip_sampler.py:_noise"}
    during |= {"a copy to cuda, sampling.py:sample", "a copy to cuda, windowed_prediction.py:windows_on_device"}
    after = {"a number of a tensor, frame_codec.py:decode"}
    after |= {"a number of a tensor, frame_codec.py:_chunks_of"}
    after |= {"a copy to cpu, frame_codec.py:_as_bytes", "a copy to cpu, animator.py:_clip"}
    assert set(waits) == during | after
