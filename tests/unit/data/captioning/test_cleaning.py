import pytest

from animatediff.data.captioning.captions import CaptionReason
from animatediff.data.captioning.cleaning import clean_answer, clean_text
from animatediff.data.captioning.config import PROMPT


def cleaned(text, *, is_cut=False, prompt=PROMPT, is_english=True):
    return clean_answer(text, is_cut=is_cut, prompt=prompt, is_english=is_english)


@pytest.mark.parametrize(
    "text",
    [
        "A girl with long hair runs along the beach, and waves break behind her.",
        "I-beams swing from a crane over a harbour.",
        "Sorry-looking dogs sit in the rain while a tram passes.",
        "A nurse says “I'm sorry” to a man in a bed.",
        "A man pushes a cart (slowly) past a sign that reads '東京カフェ', and the camera pans left.",
        "The video game controller lies on a table; a hand reaches for it.",
        "This is London: a video of a cat plays on a wall.",
        "In the scenery, a cat; over the shoulder of a man, a bird.",
        "A row of clips hangs on a line; a shot glass falls.",
        "Two men, Mr. Bean and Dr. No, play chess.",
        "Red, red, red, red and blue balloons rise.",
        "3 * 4 * 5 is written on a board, and snake_case_names scroll by.",
    ],
)
def test_a_good_caption_is_left_as_it_is(text):
    assert cleaned(text) == (text, None, "")


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("The video shows a cat jumping.", "A cat jumping."),
        ("In this short clip, a cat jumps.", "A cat jumps."),
        ("this video depicts a cat", "a cat"),
        ("These frames show a cat jumping.", "A cat jumping."),
        ("The sequence of images shows a cat.", "A cat."),
        ("The video frames appear to show a cat.", "A cat."),
        ("This is a short animated clip of a cat.", "A cat."),
        ("Throughout the clip, a cat jumps.", "A cat jumps."),
        ("In the video, we can see a cat.", "A cat."),
        ("We see a cat.", "A cat."),
        ("Sure! Here is a one-sentence caption: A cat jumps.", "A cat jumps."),
        ("Certainly! A cat jumps.", "A cat jumps."),
        ("**Caption:** A *black* cat jumps.", "A black cat jumps."),
        ("Caption: “A cat jumps.”", "A cat jumps."),
        ("## Scene\n- A cat jumps.\n- It lands.", "Scene A cat jumps. It lands."),
        ("1. A cat jumps.\n2. It lands.", "A cat jumps. It lands."),
        ('```json\n{"caption": "A cat jumps."}\n```', "A cat jumps."),
        ('{"scene": "A cat jumps."}', "A cat jumps."),
        ("{not json} A cat jumps.", "{not json} A cat jumps."),
        ("<think>\nIs it a dog? I cannot say.\n</think>\n\nA cat jumps.", "A cat jumps."),
        ("It may be a dog.\n</think>A cat jumps.", "A cat jumps."),
        ("<think></think>A cat jumps.<|im_end|>", "A cat jumps."),
        ("A cat&nbsp;jumps\u200b.</s>", "A cat jumps."),
        (PROMPT + "\nassistant\nA cat jumps.", "A cat jumps."),
        ("The video shows", "The video shows"),
    ],
)
def test_what_is_wrong_in_form_alone_is_mended(text, caption):
    assert cleaned(text) == (caption, None, "")
    assert cleaned(caption) == (caption, None, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "caption_empty"),
        (" \n", "caption_empty"),
        ("...", "caption_empty"),
        ("```\n```", "caption_empty"),
        ("<think>What is it?</think>", "caption_empty"),
        (PROMPT, "caption_empty"),
        (PROMPT[60:300], "caption_empty"),
        ("I'm sorry, but I can't help with that.", "caption_refused"),
        ("I\u2019m unable to identify people.", "caption_refused"),
        ("As an AI language model, I cannot see videos.", "caption_refused"),
        ("I cannot describe this.", "caption_refused"),
        ("Sorry, this is not possible.", "caption_refused"),
        ("Unfortunately, there is no video.", "caption_refused"),
        ("No images were provided.", "caption_refused"),
        ("Could you please upload the video frames you mean?", "caption_refused"),
        ("抱歉,我无法描述。", "caption_refused"),
        ("A cat sits on a mat, a cat sits on a mat, a cat sits on a mat, a cat sits on a mat", "caption_repeats"),
        ("A cat!!!!!!!!!!!!!!!!", "caption_repeats"),
        ("A " + "very " * 30 + "small cat", "caption_repeats"),
        ("e" + "\u0301" * 100, "caption_repeats"),
        ("一只黑猫从桌子上跳下来。", "caption_language"),
        ("Пёс лежит.", "caption_language"),
    ],
)
def test_an_answer_without_a_caption_is_rejected(text, reason):
    result = cleaned(text)
    assert (result.caption, result.reason) == ("", reason)
    assert result.detail


def test_other_languages_are_taken_where_english_was_not_asked_for():
    assert cleaned("一只黑猫从桌子上跳下来。", prompt="用中文描述。", is_english=False).caption


@pytest.mark.parametrize(
    ("text", "caption", "reason"),
    [
        ("A cat jumps. It lands on the", "A cat jumps.", None),
        ("A cat jumps.", "A cat jumps.", None),
        ("A man named Mr. Bean walks", "", CaptionReason.CUT),
        ("A cat jumps and lands on the", "", CaptionReason.CUT),
        ("<think>Let me see, a cat. Or a dog. So", "", CaptionReason.CUT),
        ("", "", CaptionReason.CUT),
    ],
)
def test_of_a_cut_answer_whole_sentences_are_left(text, caption, reason):
    assert cleaned(text, is_cut=True)[:2] == (caption, reason)


def test_a_persons_words_are_not_judged():
    assert clean_text('"I cannot, I cannot,\n I cannot"').caption == "I cannot, I cannot, I cannot"
    assert clean_text(" - ").reason == "caption_empty"


def test_an_answer_of_any_length_is_read_soon():
    for text in ("<think>" * 3000, "*a " * 9000, "the video " * 2000, "{" * 30_000, "a" * 10**6, "\n- " * 7000):
        cleaned(text)
