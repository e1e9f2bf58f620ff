import pytest
from pydantic import ValidationError

from animatediff import config as configs
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.captioning.template import fill_template
from animatediff.errors import UserError
from animatediff.uris import with_secrets


def test_one_line_is_enough_and_what_is_usually_pasted_is_understood():
    config = CaptionConfig(url="http://gpu1:8000/v1/chat/completions/")
    assert (config.url, config.model, config.text) == ("http://gpu1:8000/v1", "auto", "{caption}")


def test_a_key_in_the_address_is_kept_and_not_told():
    config = CaptionConfig(url="https://host/v1/chat/completions?api_key=s3cr3t-key")
    assert with_secrets(config.url) == "https://host/v1?api_key=s3cr3t-key"
    assert "s3cr3t" not in configs.dump(config)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "who writes captions"),
        ({"url": "http://a/v1", "function": "a:b"}, "url and function both write"),
        ({"url": "gpu1:8000"}, "no web address"),
        ({"function": "a:b", "model": "x"}, "belong to a url"),
        ({"url": "http://a/v1", "template": "{tags}, {caption}"}, "nobody gives: name tags.folder"),
        ({"tags": {"folder": "wd"}, "template": "{caption}"}, "nobody writes"),
        ({"url": "http://a/v1", "template": "{title}"}, "{title}"),
        ({"url": "http://a/v1", "tags": {"folder": "wd"}, "template": "{tags}"}, "left out of template"),
        ({"url": "http://a/v1", "template": "{caption:5}"}, "{caption:5}"),
        ({"function": "a:b", "template": "{tags:0}"}, "{tags:0}"),
        ({"url": "http://a/v1", "template": "{caption} {"}, "lone brace"),
        ({"url": "http://a/v1", "template": "my style"}, "the same text"),
        ({"url": "http://a/v1", "frames": 0}, "frames"),
        ({"url": "http://a/v1", "extra_body": {"messages": []}}, "extra_body says messages"),
        ({"function": "a:b", "extra_body": {"top_k": 1}}, "belong to a url"),
    ],
)
def test_what_cannot_be_meant_is_told(fields, told):
    with pytest.raises((ValidationError, UserError)) as error:
        CaptionConfig.model_validate(fields)
    assert told in str(error.value)


def test_the_default_template_is_what_there_is():
    assert CaptionConfig(tags={"folder": "wd"}).text == "{tags}"
    assert CaptionConfig(url="http://a/v1", tags={"folder": "wd"}).text == "{caption}, {tags}"


def test_it_can_be_given_on_the_command_line():
    config = configs.parse(
        CaptionConfig, ["--function", "a:b", "--tags.folder", "wd", "--tags.exclude", "solo", "1girl"]
    )
    assert (config.function, config.tags.folder, config.tags.exclude) == ("a:b", "wd", ("solo", "1girl"))
    assert configs.parse(CaptionConfig, ["--url", "http://a/v1"]).model_fields_set == {"url"}


TAGS = ("1girl", "long hair", "running", "beach")


@pytest.mark.parametrize(
    ("template", "caption", "tags", "text"),
    [
        ("{caption}", "A girl runs.", TAGS, "A girl runs."),
        ("{tags}", "", TAGS, "1girl, long hair, running, beach"),
        ("{tags:2}, {caption}", "A girl runs.", TAGS, "1girl, long hair, A girl runs."),
        ("{tags:9}, {caption}", "A girl runs.", TAGS[:1], "1girl, A girl runs."),
        ("my style, {tags}, {caption}", "A girl runs.", (), "my style, A girl runs."),
        ("{caption}, {tags}", "A girl runs.", TAGS[:2], "A girl runs, 1girl, long hair"),
        ("{caption}, {tags}", "A girl runs.", (), "A girl runs."),
        ("{caption}, {tags}, mine", "A girl runs.", (), "A girl runs, mine"),
        ("{caption}, {tags}", "A girl, running,", TAGS[:1], "A girl, running, 1girl"),
        ("{caption} , {tags}", "A girl runs.", TAGS[:1], "A girl runs , 1girl"),
        ("{caption}. {tags}.", "A girl runs.", TAGS[:1], "A girl runs. 1girl."),
        ("{caption}. {tags}", "A girl runs.", (), "A girl runs."),
        ("{tags}. {caption}", "A girl runs.", (), "A girl runs."),
        ("{tags}, {caption}", "A girl runs.", ("", "1girl ", " "), "1girl, A girl runs."),
        ("my style, {tags}", "", (), ""),
        ("{caption} {tags}, mine", "A girl {runs}.", TAGS[:1], "A girl {runs}. 1girl, mine"),
        ("{tags}, {caption}", "", (), ""),
        ("({tags}) {caption}", "A girl runs.", (), "A girl runs."),
        ("{caption} [ {tags:3} ]", "A girl runs.", (), "A girl runs."),
        ("({tags}), {caption}, mine", "A girl runs.", TAGS[:2], "(1girl, long hair), A girl runs, mine"),
        ("mine ({caption}), {tags}", "", TAGS[:1], "mine 1girl"),
        ("{caption} ({tags:1}, {tags:2})", "A girl runs.", (), "A girl runs."),
        ("{caption} (({tags}))", "A girl runs.", (), "A girl runs."),
        ("({tags}:1.2), {caption}", "A girl runs.", (), "A girl runs."),
        ("photo({tags}) {caption}", "A girl runs.", (), "photo A girl runs."),
        ("({tags}:1.2), {caption}", "A girl runs.", TAGS[:1], "(1girl:1.2), A girl runs."),
    ],
)
def test_a_template_is_filled_and_what_is_missing_leaves_no_comma(template, caption, tags, text):
    assert fill_template(template, caption, tags) == text
