"""A text encoder's end tokens come to tell every word of a caption."""

import pytest
import torch
from torch import nn

from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.models.parts import make_text_encoder
from animatediff.sprites.models.text_encoder import Captions, WordReader, teach_words
from animatediff.sprites.models.text_to_image import MAX_LENGTH, make_tokenizer, tokenize
from animatediff.sprites.scenes.world import caption_words

LEFT, RIGHT = (f"a large red star moving {side} on a black background" for side in ("left", "right"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


class Counting(nn.Module):
    """Says at each token where it stands."""

    def forward(self, token_ids):
        return (torch.arange(token_ids.shape[1]).float().expand(token_ids.shape)[..., None],)


def test_any_end_token_is_read_and_no_other(tokenizer):
    reader, read = WordReader(tokenizer, 1), []
    reader.read.register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0].flatten().tolist()))
    token_ids = tokenize(tokenizer, [LEFT] * 500)
    reader.loss(Counting(), token_ids, torch.linspace(0, 1, 501)[:500])
    num_said = len(LEFT.split()) + 1  # the words, after the start token
    assert set(read) == set(range(num_said, MAX_LENGTH))


def test_a_reader_that_knows_the_words_has_no_loss(tokenizer):
    reader = WordReader(tokenizer, 1)
    said = torch.tensor([word in LEFT.split() for word in caption_words()])
    with torch.no_grad():
        reader.read.weight.zero_()
        reader.read.bias.copy_(torch.where(said, 50.0, -50.0))
    places = torch.zeros(1)
    assert reader.loss(Counting(), tokenize(tokenizer, [LEFT]), places) < 1e-6
    # Two words differ, each by 50 nats.
    assert reader.loss(Counting(), tokenize(tokenizer, [RIGHT]), places).item() == pytest.approx(100)


def test_batches_are_those_of_their_step(tokenizer):
    captions, again = (Captions(tokenizer, seed=1, num=100) for _ in range(2))
    assert all(map(torch.equal, captions.draw(3), again.draw(3)))
    assert not torch.equal(captions.draw(3)[0], captions.draw(4)[0])
    assert captions.draw(0)[1].min() >= 0
    assert captions.draw(0)[1].max() < 1


def test_a_lesson_teaches_left_from_right_and_goes_on_after_a_kill(tokenizer, tmp_path):
    def teach(num_steps, checkpoint=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = make_text_encoder(tokenizer, width=32)
        captions = Captions(tokenizer, seed=1, num=500)
        # No decay of the rate: a shorter plan is then the first part of a longer one.
        plan = Fit(num_steps=num_steps, lr=1e-2, warmup=5, decay=0.0, ema_decay=0.9)
        reader, _ = teach_words(encoder, captions, tokenizer, plan=plan, checkpoint=checkpoint)
        with torch.no_grad():
            ends = encoder(tokenize(tokenizer, [LEFT, RIGHT]))[0][:, -1]
            return encoder, reader, (ends[0] - ends[1]).norm().item(), reader.loss(encoder, *captions.draw(999)).item()

    *_, apart_at_first, loss_at_first = teach(0)
    encoder, reader, apart, loss = teach(150)
    assert apart > 5 * apart_at_first
    assert loss < loss_at_first / 3
    assert not any(p.requires_grad for p in reader.parameters())
    teach(70, tmp_path / "words.pt")
    continued, continued_reader, *_ = teach(150, tmp_path / "words.pt")
    for one, other in ((encoder, continued), (reader, continued_reader)):
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
