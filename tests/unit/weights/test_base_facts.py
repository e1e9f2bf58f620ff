"""What a base is, read from its configs: the same for a driver that plans and a worker that computes."""

import json
import shutil

import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.errors import UsageError, UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.models.vae import encode_frames
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry, ModelFiles, RenderSettings
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.checks.models import ModelChecks
from animatediff.sprites.models.parts import make_vae
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.layouts.architectures import CONFIGS
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.dry_run import _clip_bytes
from pipelines.stages.ingest.plan import read_inputs
from tests.support_base import build_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("bases") / "base")


@pytest.fixture(scope="module", params=[4, 16])
def other(request, base, tmp_path_factory):
    """The factor of a VAE that is not Stable Diffusion's, and a base with it."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("bases") / "other")
    shutil.rmtree(folder / "vae")
    widths = [8] * request.param.bit_length()
    make_vae(widths, latent_channels=4, norm_num_groups=8).save_pretrained(folder / "vae")
    return request.param, str(folder)


def write_config(folder, part, config):
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")).write_text(json.dumps(config))
    (folder / "model_index.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(("kind", "width", "layers"), [("sd1", 768, 12), ("sdxl", 2048, 12)])
def test_published_bases_are_known(kind, width, layers, tmp_path):
    for part, config in CONFIGS[kind].items():
        base = write_config(tmp_path, part, config)
    facts = BaseFacts(base)
    assert (facts.published_base, facts.architecture, facts.text_width, facts.text_layers) == (
        kind,
        kind,
        width,
        layers,
    )
    assert (facts.latent_factor, facts.latent_channels, facts.unet_channels) == (8, 4, 4)
    assert facts.scaling_factor == {"sd1": 0.18215, "sdxl": 0.13025}[kind]
    is_xl = kind == "sdxl"
    assert (facts.upcasts_vae, facts.zeroes_empty_negative_prompt) == (is_xl, is_xl)
    assert facts.trained_side == {"sd1": 512, "sdxl": 1024}[kind]
    assert facts.latent_shape(16, height=512, width=768) == (16, 4, 64, 96)
    assert facts.prediction_type == "epsilon"


@pytest.mark.parametrize(
    ("unet", "kind"),
    [({"cross_attention_dim": 1024}, "sd2"), ({"cross_attention_dim": 32}, None), ({"cross_attention_dim": [8]}, None)],
)
def test_other_bases_are_known_by_the_width_of_their_text(unet, kind, tmp_path):
    facts = BaseFacts(write_config(tmp_path, "unet", unet))
    assert (facts.published_base, facts.architecture) == (kind, "sd1")


def test_a_vae_that_does_not_overflow_says_so(tmp_path):
    """As the one that was published beside SDXL's own, for half precision."""
    write_config(tmp_path, "unet", CONFIGS["sdxl"]["unet"])
    base = write_config(tmp_path, "vae", CONFIGS["sdxl"]["vae"] | {"force_upcast": False})
    assert not BaseFacts(base).upcasts_vae


def test_the_parts_say_what_a_base_is_and_its_index_nothing(base, tmp_path):
    """So that a driver, which reads configs, and a worker, which loads the text encoder, are of one mind."""
    folder = shutil.copytree(base, tmp_path / "base")
    for index in (b'{"text_encoder_2": ["transformers", "CLIPTextModel"]}', b"{nope"):
        (folder / "model_index.json").write_bytes(index)
        assert BaseFacts(str(folder)).architecture == "sd1"
        load_text_encoder(str(folder))


def test_an_old_config_has_the_factor_of_its_time(tmp_path):
    facts = BaseFacts(write_config(tmp_path, "vae", {"block_out_channels": [8, 8]}))
    assert (facts.latent_factor, facts.latent_channels, facts.scaling_factor) == (2, 4, 0.18215)


def test_a_vae_of_another_class_is_refused_by_name(tmp_path):
    facts = BaseFacts(write_config(tmp_path, "vae", {"_class_name": "AutoencoderTiny"}))
    with pytest.raises(UserError, match="has the class AutoencoderTiny, an AutoencoderKL is needed"):
        _ = facts.latent_factor


def test_each_config_is_read_once_and_when_it_is_asked_for(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    shutil.rmtree(folder / "unet")
    facts = BaseFacts(str(folder))
    assert facts.latent_factor == 8
    shutil.rmtree(folder / "vae")
    assert facts.latent_factor == 8


def test_clips_are_rendered_at_the_factor_of_their_vae(other, base, tmp_path):
    factor, folder = other
    motion = str(tmp_path / "motion.safetensors")
    motion_modules.write(motion, MotionModules.for_base(load_unet(str(base)), MotionConfig()))
    sizes = {"height": 2 * factor, "width": 3 * factor}
    checks, model = ModelChecks({}), ModelFiles(base=folder, motion_module=motion)
    assert checks.model(model) is None
    assert checks.settings(0, model, RenderSettings(**sizes).model_dump()) == ()
    (problem,) = checks.settings(0, model, RenderSettings(**sizes | {"height": 2 * factor + 1}).model_dump())
    assert problem == f"height {2 * factor + 1} is no multiple of {factor}, use {2 * factor}"
    animator = Animator(folder, motion, schedule=None, device="cpu")
    animator.load(Entry(name="x", prompts=("x",)))
    settings = {"num_frames": 2, "num_inference_steps": 1, "guidance_scale": 1, **sizes}
    (clip,) = animator.render_batch([Item(digest="", entry="", model="", prompt="x", seed=0, **settings)])
    assert clip.frames.shape == (2, 2 * factor, 3 * factor, 3)
    assert clip.latents.shape == (2, 4, 2, 3)


def test_clips_are_ingested_at_the_factor_of_their_vae(other, tmp_path):
    factor, folder = other
    (tmp_path / "a.mp4").write_bytes(b"no video is decoded")
    (tmp_path / "a.csv").write_text("video,caption\na.mp4,a cat\n")

    def inputs(**clips):
        fields = {"source": {"uri": str(tmp_path / "a.csv")}, "output_uri": str(tmp_path / "out"), "base": folder}
        config = IngestConfig.model_validate(fields | {"clips": {"num_frames": 2, **clips}})
        return config, read_inputs(config)

    config, found = inputs(height=3 * factor, width=2 * factor)
    encoded = encode_frames(load_vae(folder), np.zeros((2, 3 * factor, 2 * factor, 3), np.uint8))
    assert encoded.shape == found.base_facts.latent_shape(2, height=3 * factor, width=2 * factor) == (2, 4, 3, 2)
    assert _clip_bytes(config, found) == encoded.nbytes
    with pytest.raises(
        UsageError, match=rf"^clips\.height {3 * factor + 1} is no multiple of {factor}, use {3 * factor}"
    ):
        inputs(height=3 * factor + 1, width=2 * factor)
    with pytest.raises(UsageError, match=rf"^clips\.sizes\[0\] {2 * factor + 2} is no multiple of {factor}"):
        inputs(height=2 * factor, width=2 * factor, sizes=[[2 * factor, 2 * factor + 2]])


def test_the_shape_that_clip_configs_have_by_default_fits_stable_diffusion(base):
    facts = BaseFacts(str(base))
    assert facts.latent_shape(16, height=ClipConfig().height, width=ClipConfig().width) == (16, 4, 32, 32)
