"""The gallery page: every item once, nothing unescaped, nothing from elsewhere."""

from html.parser import HTMLParser

from animatediff.rendering.catalog import Result
from animatediff.rendering.gallery import gallery_html


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def result(**changes):
    values = {"digest": "d", "entry": "toon", "prompt": "a cat", "seed": 5, "status": "ok", "seconds": 1.25}
    return Result(**(values | {"mp4": "clips/d.mp4", "gif": "clips/d.gif"} | changes))


def test_a_card_shows_the_clip_and_what_made_it():
    page = Page(gallery_html([result()]))
    (video,) = page.all("video")
    assert video.keys() >= {"autoplay", "muted", "loop", "playsinline"}
    assert page.all("source")[0]["src"] == "clips/d.mp4"
    assert page.all("img")[0]["src"] == "clips/d.gif"
    for shown in ("toon", "a cat", "seed 5", "25 steps", "guidance 8", "16 frames", "1.2 s"):
        assert shown in page.text


def test_a_failed_item_shows_its_error():
    page = Page(gallery_html([result(), result(status="failed", error="no such file", mp4=None, gif=None)]))
    assert len(page.all("video")) == 1
    assert len(page.all("article")) == 2
    assert "no such file" in page.text
    assert "2 items of 1 entries, 1 failed" in page.text


def test_everything_is_escaped():
    evil = "\"'><script>alert(1)</script>&"
    rows = [
        result(entry=evil, prompt=evil, negative_prompt=evil),
        result(entry=evil, status="failed", error=evil, mp4=None),
    ]
    page = Page(gallery_html(rows, title=evil))
    assert len(page.all("script")) == 1
    assert [card["data-entry"] for card in page.all("article")] == [evil] * 2
    assert page.all("img")[0]["alt"] == evil
    assert page.text.count(evil) >= 6


def test_the_page_needs_nothing_from_elsewhere():
    text = gallery_html([result()])
    assert "//" not in text.replace("<!doctype", "")
    assert not Page(text).all("link")


def test_entries_are_offered_once_each_in_order():
    page = Page(gallery_html([result(entry="b"), result(entry="a"), result(entry="b")]))
    assert len(page.all("option")) == 3
    assert page.text.index("b") < page.text.rindex("a")


def test_scores_are_shown_with_their_clips_and_their_means_above():
    rows = [
        result(scores={"motion": 1.0, "jitter": 0.25}, scored_by="my:score"),
        result(scores={"motion": 0.0}, scored_by="my:score"),
        result(entry="plain", score_error="the clip is <gone>", scored_by="my:score"),
    ]
    page = Page(gallery_html(rows))
    assert len(page.all("table")) == 1
    assert [page.text.count(shown) for shown in ("motion 1.00", "jitter 0.25", "motion 0.00")] == [1, 1, 1]
    assert "0.50" in page.text  # toon's mean motion
    assert "by my:score" in page.text
    assert "no scores: the clip is <gone>" in page.text


def test_a_page_without_scores_has_no_table():
    assert not Page(gallery_html([result()])).all("table")
