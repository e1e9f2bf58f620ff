import numpy as np
import pytest

from animatediff.data.captioning.captioner import load_captioner
from animatediff.data.captioning.captions import CaptionReason, CaptionRequest
from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import UserError
from tests.unit.data.captioning import own_functions


def captioner(name, **fields):
    return load_captioner(CaptionConfig(function=f"{own_functions.__name__}:{name}", **fields))


def requests(n, **facts):
    return [CaptionRequest(f"s{i}", np.full((2, 4, 4, 3), i, np.uint8), {"uri": f"{i}.mkv", **facts}) for i in range(n)]


def test_a_function_writes_captions_and_tags():
    result, other = captioner("brightness", template="mine, {tags}, {caption}").caption_all(requests(2))
    assert result.caption == "mine, level 0, a picture of level 0"
    assert (other.shot_id, other.tags, other.reason) == ("s1", ("level 1",), None)
    assert other.model == f"{own_functions.__name__}:brightness"


def test_no_caption_is_a_reason():
    (result,) = captioner("nothing").caption_all(requests(1))
    assert (result.caption, result.reason) == ("", CaptionReason.EMPTY)


def test_requests_are_read_as_they_are_worked_on():
    read = []
    results = captioner("brightness").caption_all(read.append(each.shot_id) or each for each in requests(5))
    next(results)
    assert read == ["s0"]


def test_a_shot_that_it_cannot_do_costs_itself():
    shots = [requests(4)[0], requests(4, broken=True)[1], *requests(4)[2:]]
    results = list(captioner("brightness").caption_all(shots))
    assert [result.reason for result in results] == [None, CaptionReason.FAILED, None, None]
    assert "no light" in results[1].detail


def test_a_function_that_never_works_ends_the_job():
    captioned = captioner("always_broken")
    assert {result.reason for result in captioned.caption_all(requests(7))} == {CaptionReason.FAILED}
    with pytest.raises(UserError, match="always_broken: .*no light at all"):
        list(captioned.caption_all(requests(8)))


def test_batches_and_the_shot_among_them_that_it_cannot_do():
    own_functions.batched.sizes.clear()
    captioned = captioner("batched", batch_size=3)
    assert [result.caption for result in captioned.caption_all(requests(4))] == [
        f"2 frames of {i}.mkv" for i in range(4)
    ]
    assert own_functions.batched.sizes == [3, 1]
    shots = [*requests(2), requests(3, broken=True)[2]]
    assert [result.reason for result in captioned.caption_all(shots)] == [None, None, CaptionReason.FAILED]


@pytest.mark.parametrize(
    ("name", "told"), [("no_text", "returned 7"), ("one_for_all", "a list of 2"), ("missing", "no attribute")]
)
def test_what_is_no_caption_ends_the_job(name, told):
    with pytest.raises(UserError, match=told):
        list(captioner(name, batch_size=2).caption_all(requests(2)))


def test_tokens_are_counted_of_what_is_trained_on():
    config = CaptionConfig(function=f"{own_functions.__name__}:brightness", template="mine, {caption}")
    (result,) = load_captioner(config, count_tokens=lambda text: len(text.split())).caption_all(requests(1))
    assert result.num_tokens == 6
