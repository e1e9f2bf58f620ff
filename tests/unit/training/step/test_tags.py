"""Tags of captions are shuffled and dropped as told, the same for any number of workers; all else stays."""

import pytest

from animatediff.training.settings import TextConfig
from animatediff.training.step.tags import BatchPlace, vary_captions

TAGS = tuple(f"tag {number}" for number in range(8))
JOINED = ", ".join(TAGS)


def vary(captions, tags, *, seed=3, step=5, first_index=0, **options):
    return vary_captions(captions, tags, TextConfig(**options), BatchPlace(seed, step, first_index))


def many(caption, tags, **options):
    """What a clip is trained on in 400 steps."""
    return [vary([caption], [tags], step=step, **options)[0] for step in range(400)]


def test_without_options_captions_are_as_they_are():
    assert vary([" a,b ", JOINED], [(), TAGS]) == [" a,b ", JOINED]


@pytest.mark.parametrize("template", ["{}", "style, {}, A girl walks, slowly.", "A girl walks. {}", "{} A girl walks."])
@pytest.mark.parametrize("number", [2, 5, 8])
def test_tags_are_shuffled_and_the_rest_of_the_caption_stays(template, number):
    caption = template.format(", ".join(TAGS[:number]))
    before, behind = template.split("{}")
    seen = many(caption, TAGS, shuffle_caption=True)
    inner = [text.removeprefix(before).removesuffix(behind).split(", ") for text in seen]
    assert all(text.startswith(before) and text.endswith(behind) for text in seen)
    assert all(sorted(tags) == sorted(TAGS[:number]) for tags in inner)
    assert len(set(map(tuple, inner))) == 2 if number == 2 else len(set(map(tuple, inner))) > 90


def test_the_first_tags_are_kept_where_they_are():
    for text in many(JOINED, TAGS, shuffle_caption=True, caption_tag_dropout_rate=0.5, keep_tokens=2):
        assert text.split(", ")[:2] == list(TAGS[:2])


def test_so_many_tags_are_dropped_as_told():
    left = [text.split(", ") for text in many(JOINED, TAGS, caption_tag_dropout_rate=0.25)]
    assert sum(map(len, left)) / (400 * 8) == pytest.approx(0.75, abs=0.03)
    assert all(tags == [tag for tag in TAGS if tag in tags] for tags in left)  # in their order
    gone = {"caption_tag_dropout_rate": 1.0}
    assert vary([f"style, {JOINED}, A girl."] * 1, [TAGS], **gone) == ["style, A girl."]
    assert vary([JOINED, f"A girl. {JOINED}", "cat"], [TAGS, TAGS, ("cat",)], **gone) == ["", "A girl.", ""]


def test_a_caption_without_its_tags_is_left_alone():
    tags = ("cat", "sofa")
    for caption in ("A cat sits on a sofa.", "cat", "concat, sofas"):
        assert set(many(caption, tags, shuffle_caption=True, caption_tag_dropout_rate=0.5)) == {caption}


def test_a_sentence_without_tags_is_left_alone():
    """Of a collection with tags, a shot of which the tagger was sure of nothing."""
    caption = "A girl runs along a beach, laughing, and waves break behind her."
    assert set(many(caption, (), shuffle_caption=True, caption_tag_dropout_rate=0.5)) == {caption}


def test_where_no_tags_are_known_they_are_what_stands_between_commas():
    seen = many("1girl,solo , blue sky,", (), shuffle_caption=True, keep_tokens=1)
    assert set(seen) == {"1girl, solo, blue sky", "1girl, blue sky, solo"}


def test_seed_step_and_place_decide_and_workers_do_not():
    captions, tags = [JOINED] * 6, [TAGS] * 6
    whole = vary(captions, tags, shuffle_caption=True)
    shares = [vary(captions[a:b], tags[a:b], first_index=a, shuffle_caption=True) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert [text for share in shares for text in share] == whole == vary(captions, tags, shuffle_caption=True)
    assert len(set(whole)) == 6
    for change in ({"seed": 4}, {"step": 6}):
        assert vary(captions, tags, shuffle_caption=True, **change) != whole


def test_tags_are_not_kept_from_nothing():
    with pytest.raises(ValueError, match="keep_tokens means nothing without shuffle_caption"):
        TextConfig(keep_tokens=2)
