"""A VAE of an entry's own decides its frames, and those of no other entry."""

import numpy as np
import pytest

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from tests.support_base import build_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return [str(build_base(folder / str(seed), seed=seed)) for seed in range(3)]


def render(animator, **weights):
    animator.load(Entry(name="x", prompts=("x",), **weights))
    settings = {"width": 16, "height": 16, "num_frames": 1, "num_inference_steps": 2, "guidance_scale": 1}
    return animator.render(Item(digest="", entry="", model="", prompt="x", seed=0, **settings))


def test_an_entry_s_own_vae_is_used_in_place_of_the_checkpoints(bases):
    base, checkpoint, vae = bases
    animator = Animator(base, None, schedule=NoiseSchedule(), device="cpu")
    bare, whole = render(animator), render(animator, checkpoint=checkpoint)
    own = render(animator, checkpoint=checkpoint, vae=vae)
    assert (own != whole).any()
    assert (own != bare).any()
    np.testing.assert_array_equal(render(animator, checkpoint=checkpoint, vae=checkpoint), whole)
    np.testing.assert_array_equal(render(animator, vae=base), bare)
    np.testing.assert_array_equal(render(animator), bare)
