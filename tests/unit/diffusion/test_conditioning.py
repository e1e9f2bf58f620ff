"""Conditioning keeps together what belongs to a clip, whatever it is made of."""

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.size_conditioning import uncropped_time_ids

NUM_CLIPS, NUM_FRAMES = 3, 10
POOLED = torch.arange(NUM_CLIPS * 2.0).reshape(NUM_CLIPS, 2)
SIZES = uncropped_time_ids(NUM_CLIPS, height=64, width=48, device=torch.device("cpu"))


def numbered(start, *, per_frame):
    """Texts whose number says whose they are: the clip, and the frame in its hundreds."""
    clips = start + torch.arange(float(NUM_CLIPS))
    frames = 100 * torch.arange(float(NUM_FRAMES))
    return (clips[:, None] + frames)[..., None, None] if per_frame else clips[:, None, None]


def make(*, per_frame=False):
    negative = Conditioning(numbered(50, per_frame=per_frame), -POOLED, SIZES)
    return Conditioning(numbered(0, per_frame=per_frame), POOLED, SIZES, negative)


def test_rows_are_those_clips_of_every_field_and_of_the_negative_half():
    found = make().rows([2, 0])
    assert len(found) == 2
    assert found.text.flatten().tolist() == [2, 0]
    assert torch.equal(found.pooled_text, POOLED[[2, 0]])
    assert found.negative.text.flatten().tolist() == [52, 50]
    assert torch.equal(found.negative.pooled_text, -POOLED[[2, 0]])


def test_frames_are_taken_of_what_has_frames():
    assert torch.equal(make().frames([7, 1]).text, make().text)
    found = make(per_frame=True).frames([7, 1])
    assert found.text[1].flatten().tolist() == [701, 101]
    assert found.negative.text[1].flatten().tolist() == [751, 151]
    assert torch.equal(found.pooled_text, POOLED)


def test_what_is_taken_apart_is_joined_again():
    whole, joined = make(), Conditioning.cat([make().rows([clip]) for clip in range(NUM_CLIPS)])
    for one, other in ((joined, whole), (joined.negative, whole.negative)):
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.pooled_text, other.pooled_text)
        assert torch.equal(one.time_ids, other.time_ids)
    assert Conditioning.cat([Conditioning(POOLED), Conditioning(POOLED)]).pooled_text is None


def test_guidance_needs_a_negative_half():
    negative, positive = make().guidance_branches(is_guided=True)
    assert (negative.text[0].item(), positive.text[0].item()) == (50, 0)
    assert positive.negative is None
    (alone,) = make().guidance_branches(is_guided=False)
    assert alone.negative is None
    with pytest.raises(ValueError, match="guidance needs a negative conditioning"):
        Conditioning(POOLED).guidance_branches(is_guided=True)


def test_an_uncropped_clips_time_ids_are_its_size():
    assert SIZES.tolist() == [[64, 48, 0, 0, 64, 48]] * NUM_CLIPS
    assert SIZES.dtype == torch.float32


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("loop", [False, True])
def test_each_window_of_each_clip_is_told_its_own(per_frame, loop):
    """Frames hold their own numbers, so that the predictor can see whether what it is told is theirs."""
    seen = []
    frames = 100 * torch.arange(float(NUM_FRAMES)) if per_frame else torch.zeros(NUM_FRAMES)
    numbers = torch.arange(float(NUM_CLIPS))[:, None] + frames
    noise = numbers[:, None, :, None, None]

    def predict(latents, timestep, told):
        text = told.text if per_frame else told.text[:, None].expand(-1, latents.shape[2], -1, -1)
        seen.append((latents[:, 0, :, 0, 0], text[..., 0, 0], told.pooled_text))
        return torch.zeros_like(latents)

    sampler = SAMPLERS["ddim"](NoiseSchedule())
    settings = {"num_inference_steps": 1, "guidance_scale": 2.0, "context": Context(length=4, overlap=2), "loop": loop}
    sample(predict, sampler, make(per_frame=per_frame), noise, max_batch=3, **settings)
    for latents, texts, pooled in seen:
        half = len(latents) // 2
        assert torch.equal(texts[half:], latents[half:])
        assert torch.equal(texts[:half], latents[:half] + 50)
        clips = (latents[:, 0] % 100).long()
        assert torch.equal(pooled[half:], POOLED[clips[half:]])
        assert torch.equal(pooled[:half], -POOLED[clips[:half]])
    assert {clip for latents, _, _ in seen for clip in (latents[:, 0] % 100).tolist()} == {0, 1, 2}
