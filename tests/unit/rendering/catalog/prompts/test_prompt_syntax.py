"""Other programs' prompt syntax is told, ordinary language is not."""

import re

import pytest

from animatediff.models.prompts.a1111_syntax import escaped
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.prompts.prompt_syntax import find, refusal, report, warning


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a (red:1.5) circle", ["(red:1.5)"]),
        ("a (red circle: 2) on white", ["(red circle: 2)"]),
        ("(a red (circle):.8)", ["(a red (circle):.8)"]),
        ("(the year 2020:1.3)", ["(the year 2020:1.3)"]),
        ("(blurry:-1)", ["(blurry:-1)"]),
        ("((masterpiece)), a cat", ["((masterpiece))"]),
        ("(((best quality))), (cat:1.1)", ["(((best quality)))", "(cat:1.1)"]),
        ("((red hair), blue eyes)", ["((red hair), blue eyes)"]),
        ("(a (cat))", ["(a (cat))"]),
        ("a [red] circle", ["[red]"]),
        ("a [cat:dog:0.5] runs", ["[cat:dog:0.5]"]),
        ("a [cow|horse] in a field", ["[cow|horse]"]),
        ("{{masterpiece}}", ["{{masterpiece}}"]),
        ("a {red|blue} car", ["{red|blue}"]),
        ("a photo of {subject}", ["{subject}"]),
        ("a __color__ car, __animals/cat*__", ["__color__", "__animals/cat*__"]),
        ("a cat BREAK a dog", ["BREAK"]),
        ("a cat AND a dog", ["AND"]),
        ("a cat <lora:ink_v2:0.8>", ["<lora:ink_v2:0.8>"]),
        ("<lyco:x> <HYPERNET:y:1>", ["<lyco:x>", "<HYPERNET:y:1>"]),
        ("embedding:easynegative, blurry", ["embedding:easynegative"]),
        ("(embedding:bad-hands:1.2)", ["(embedding:bad-hands:1.2)"]),
        ("a (red)1.5 circle, ball++", [")1.5", "ball++"]),
        ("a cat --ar 16:9", ["--ar"]),
        ("hot::2 dog::1", ["t::2", "g::1"]),
        (r"saber \(fate\), (smile:1.2)", ["(smile:1.2)"]),
        ("(красный:1.2) шар", ["(красный:1.2)"]),
    ],
)
def test_syntax_is_found(text, found):
    assert find(text) == found
    assert all(repr(place) in warning(text) for place in found)
    assert "\n" not in warning(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a cat (sitting) on a chair (wooden)",
        "a film in 4:3 (not 16:9)",
        "a clock (10:30) on a wall (size 1:100)",
        r"saber \(fate\), \[x\], \(red:1.5\)",
        "a photo of <cat-toy> and <sks>",
        "a [V] dog, a [V*] cat, an [S1] ball",
        "a sad man :( and a happy one :-) :)",
        "rock and roll, breakfast, a break, Android, SANDAL",
        "LUCKY BREAK AND OUT",
        "snake_case, __init, a_b__c, ____",
        "the book: 3 chapters, part one",
        "a programmer of C++ -- at night",
        "a dash--like this, 3 + 4",
        "text embedding: a picture of numbers",
        "1 < 2 > 0, a <b> tag",
        "( ), [ ], {}",
        "f/2.8, 35mm, 1:1.5 macro",
    ],
)
def test_ordinary_language_is_not(text):
    assert find(text) == []
    assert warning(text) is None


def test_remedies_follow_what_was_found():
    assert warning("<lora:x:1>").endswith("write plain words; name LoRAs in `loras`")
    assert "`embeddings`" in warning("embedding:x")
    assert warning("(x:2)").endswith("write plain words")


def test_a_catalog_is_one_line_over_its_different_prompts():
    catalog = Catalog.model_validate(
        {
            "base": "owner/base",
            "motion_module": "mm.safetensors",
            "negative_prompt": "(blurry:1.4)",
            "prompts": ["a cat (sitting)", "a (red:1.5) cat", {"prompt": "[x] <lora:y:1>", "seeds": [0, 1]}],
            "entries": [{"name": "one"}, {"name": "two"}],
        }
    )
    items = expand(catalog, content_hash=lambda uri: uri).items
    line = report(text for item in items for text in item.texts)
    assert line.startswith("3 of 4 prompts, such as '(blurry:1.4)': '(blurry:1.4)', '(red:1.5)', '[x]' and 1 more is ")
    assert "\n" not in line
    assert report(["a cat (sitting)"]) is None


def test_a_negative_prompt_that_is_not_used_is_not_told():
    item = Item(digest="", entry="", model="", prompt="a cat", negative_prompt="(blurry:2)", seed=0, guidance_scale=1.0)
    assert item.texts == ("a cat",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a cat <lora:ink_v2:0.8>",
            r"'<lora:ink_v2:0.8>': name the file in `loras`, as {path: ink_v2.safetensors, scale: 0.8}",
        ),
        ("<lyco:x> a cat", "as {path: x.safetensors, scale: 1}"),
        ("<HYPERNET:y:1>", "no hypernetworks here"),
        ("a [cat:dog:0.5] runs", r"'\[cat:dog:0.5\]' changes the prompt between"),
        ("[dog: 12 ]", "changes the prompt"),
        ("[dog::0.5]", "changes the prompt"),
        ("[(a:1.3):b (c) [d]:.5]", "changes the prompt"),
        ("([a|b]:1.3)", r"'\[a\|b\]' changes the prompt"),
        ("a [[x|y]:z:3]", r"'\[x\|y\]' .*; '\[\[x\|y\]:z:3\]'"),
        ("a cat AND a dog", "'AND' composes several prompts: write 'and'"),
        ("ROCK AND ROLL", "'AND'"),
    ],
)
def test_what_a1111s_syntax_has_beside_weights_is_refused_with_what_to_write(text, says):
    assert re.search(says, refusal(text))
    assert "\n" not in refusal(text)
    assert refusal(escaped(text)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(red:1.5) ((best)) [worse] [[far worse]] BREAK (a [b:c]:2)",
        r"\[a|b\], \[a:b:0.5\], \<lora:x:1>".replace(r"\<", "< "),
        "a|b, (a|b), a:0.5, (a:b:0.5), [a (b:0.5)]",
        "[unclosed|here, <cat-toy>, <sks:x>, SANDAL, and",
        "1:1.5 macro",
    ],
)
def test_weights_and_characters_are_not_refused(text):
    assert refusal(text) is None


def test_in_a1111s_syntax_only_what_it_does_not_know_is_told():
    assert warning("(red:1.5) [x] ((y)) BREAK z AND q", "a1111") is None
    assert find("embedding:bad, {a|b}, (ball)++, (red:1.5) --ar 16:9", "a1111") == [
        *("embedding:bad", "{a|b}", ")++", "--ar"),
    ]
    assert report(["(red:1.5)", "__colour__"], "a1111").startswith("1 of 2 prompts, such as '__colour__'")
