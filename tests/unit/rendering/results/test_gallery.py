"""The gallery page: every item with all that is known of it, nothing that breaks out, nothing from elsewhere."""

import hashlib
import json
from collections import defaultdict
from html.parser import HTMLParser

import pytest

from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.results.gallery import gallery_html
from animatediff.rendering.results.result import Result


class Page(HTMLParser):
    """Tags with their attributes, the text that is shown, and the embedded items put together again."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._json = [], "", ""
        self.feed(text)
        self.close()
        self.data = json.loads(self._json)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if attributes.get("id") == "data":
            self._json += data
        elif tag not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def items(self):
        columns, shared = self.data["items"], self.data["shared"]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row in rows:
            row |= {name: shared[name][row[name]] for name in shared}
            row["files"] = {kind: row["stem"] + suffix for kind, suffix in row["kinds"].items()}
            stages = zip(self.data["stages"], row["seconds"], strict=True)
            row["seconds"] = {stage: value for stage, value in stages if value is not None}
            scores = defaultdict(dict)
            for score, value in zip(self.data["scores"], row["scores"], strict=True):
                if value is not None:
                    scores[score["scorer"]][score["name"]] = value
            row["scores"] = scores
        return rows


def result(**changes):
    values = {
        "digest": "d" * 64,
        "entry": "toon",
        "model": "m",
        "prompt": "a cat",
        "seed": 5,
        "status": "ok",
        "attempts": 2,
        "seconds": {"unet": 1.25, "vae": 0.5},
        "files": {"mp4": "clips/d.mp4", "poster": "clips/d.poster.webp", "png": "clips/d"},
        "sha256": {"mp4": "1" * 64},
        "model_hashes": {"s3://b/x.safetensors": "2" * 64},
        "versions": {"torch": "2"},
    }
    return Result(**(values | changes))


def failed(**changes):
    return result(**({"status": "failed", "error": "no such file", "files": {}, "sha256": {}, "seconds": {}} | changes))


def test_all_that_is_known_of_an_item_is_there():
    rendered = result(warning="cut off", scores={"my:score": {"motion": 0.5}}, negative_prompt="dogs")
    (item,) = Page(gallery_html([rendered])).items()
    for name in ("digest", "entry", "prompt", "status", "attempts", "seconds", "files", "scores"):
        assert item[name] == getattr(rendered, name)
    assert item["settings"].keys() == RenderSettings.model_fields.keys() - {"strength"}
    assert item["settings"]["negative_prompt"] == "dogs"
    assert item["sha256"] == ["1" * 64, "", ""]
    assert item["note"] == {"warning": "cut off"}
    assert item["origin"] == {"weights": rendered.model_hashes, "versions": rendered.versions}


def test_the_page_says_the_size_of_the_files_and_what_a_clip_begins_from():
    rendered = result(width=64, height=32, second_pass=SecondPass(scale=2.0), init_image="a.png", strength=0.5)
    (item,) = Page(gallery_html([rendered])).items()
    assert (item["settings"]["width"], item["settings"]["height"]) == (128, 64)
    assert (item["settings"]["init_image"], item["settings"]["strength"]) == ("a.png", 0.5)


def test_what_led_a_clip_is_there_and_old_results_without_it_stay_as_they_are():
    controls = [{"net": "nets/canny.pth", "video": "walk.mp4", "preprocess": "canny", "scale": {0: 1.0, 15: 0.2}}]
    files = {"mp4": "clips/d.mp4", "condition": "clips/d.condition.webp", "poster": "clips/d.poster.webp"}
    led, before = Page(gallery_html([result(controls=controls, files=files), result()])).items()
    assert led["files"] == files
    assert led["settings"]["controls"][0]["scale"] == {"0": 1.0, "15": 0.2}
    assert "condition" not in before["files"]
    assert before["settings"]["controls"] == []


def test_items_keep_their_order_and_their_own_values():
    rows = [
        result(digest="1", seed=2**63 - 1, scores={"my:score": {"motion": 1.0}, "other:score": {"motion": 0.5}}),
        failed(digest="2", entry="plain", seconds={"load": 3.0}),
        result(
            digest="3",
            status="invalid",
            error="wrong shape",
            scores={"other:score": {"jitter": 0.25}},
            score_errors={"my:score": "gone"},
        ),
    ]
    items = Page(gallery_html(rows)).items()
    assert [item["digest"] for item in items] == ["1", "2", "3"]
    assert [item["entry"] for item in items] == ["toon", "plain", "toon"]
    assert items[0]["seed"] == "9223372036854775807"  # a number would lose its end in a browser
    assert items[1]["note"] == {"error": "no such file"}
    assert items[2]["note"] == {"error": "wrong shape", "scores": "No scores by my:score: gone"}
    assert [item["scores"] for item in items] == [
        {"my:score": {"motion": 1.0}, "other:score": {"motion": 0.5}},
        {},
        {"other:score": {"jitter": 0.25}},
    ]
    assert [item["seconds"] for item in items] == [
        {"unet": 1.25, "vae": 0.5},
        {"load": 3.0},
        {"unet": 1.25, "vae": 0.5},
    ]


NAN, INF = float("nan"), float("inf")
# name of the row: fields of a result as a model that was not validated may have them
NOT_FINITE = {
    "a score": {"scores": {"my:s": {"motion": NAN, "jitter": 0.5}}},
    "an infinite score": {"scores": {"my:s": {"motion": -INF, "jitter": 0.5}}},
    "seconds": {"seconds": {"unet": NAN, "vae": 0.5}},
    "infinite seconds": {"seconds": {"unet": INF}},
    "frames a second": {"fps": NAN},
    "guidance": {"guidance_scale": INF},
    "all of them": {"fps": -INF, "guidance_rescale": NAN, "scores": {"my:s": {"a": NAN}}, "seconds": {"b": INF}},
}


@pytest.mark.parametrize("row", NOT_FINITE)
def test_a_number_that_is_none_leaves_the_page_and_its_neighbours_whole(row):
    fields = {name: getattr(result(), name) for name in Result.model_fields} | NOT_FINITE[row]
    built = Result.model_construct(**fields)
    page = gallery_html([built, result(digest="9")])
    text = page[page.index('id="data"') :]
    json.loads(text[text.index(">") + 1 : text.index("</script>")], parse_constant=pytest.fail)  # as a browser reads it
    assert [item["digest"] for item in Page(page).items()] == [built.digest, "9"]


@pytest.mark.parametrize("field", ["scores", "seconds"])
@pytest.mark.parametrize("number", [NAN, INF, -INF])
def test_a_measure_that_is_none_is_left_out_wherever_a_result_goes(field, number):
    given, finite = {"a": number, "b": 0.5}, {"b": 0.5}
    if field == "scores":
        given, finite = {"my:s": given}, {"my:s": finite}
    built = Result.model_construct(**{name: getattr(result(), name) for name in Result.model_fields} | {field: given})
    assert built.model_dump()[field] == built.model_dump(mode="json")[field] == finite
    assert getattr(Result.model_validate_json(built.model_dump_json()), field) == finite
    assert getattr(result(**{field: given}), field) == finite


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "{{script}} {{data}}",
    "\"'>&amp;\\ \u2028\u2029\n{{title}}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_texts(text):
    rows = [result(entry=text, prompt=text, negative_prompt=text, warning=text), failed(error=text)]
    page = Page(gallery_html(rows, title=text))
    plain = Page(gallery_html([result(), failed()]))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    first, second = page.items()
    assert first["entry"] == first["prompt"] == first["settings"]["negative_prompt"] == first["note"]["warning"] == text
    assert second["note"] == {"error": text}
    assert page.text.count(text) == 2  # the title and the heading


def test_links_are_quoted():
    (item,) = Page(gallery_html([result(files={"mp4": "my clips/50% #1?.mp4", "gif": "my clips/ü:&.gif"})])).items()
    assert item["files"] == {"mp4": "my%20clips/50%25%20%231%3F.mp4", "gif": "my%20clips/%C3%BC%3A%26.gif"}


def test_the_page_needs_nothing_from_elsewhere():
    text = gallery_html([result(model_hashes={})])
    page = Page(text)
    assert not [attributes for _, attributes in page.tags if "src" in attributes]
    assert [attributes["href"] for _, attributes in page.tags if "href" in attributes] == ["data:,"]
    for word in ("http:", "https:", "@import", "url(", "fetch(", "XMLHttpRequest", "innerHTML"):
        assert word not in text
    assert "{{" not in text


def test_a_page_without_items_is_a_page():
    assert Page(gallery_html([], title="Nothing yet")).text.count("Nothing yet") == 2


def test_ten_thousand_items_are_few_bytes_each():
    prompts = [f"prompt {number}: " + "a long description of it, " * 20 for number in range(250)]
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(10_000)]
    rows = [
        result(
            digest=digest,
            prompt=prompts[number % 250],
            entry=f"model {number % 20}",
            files={"mp4": f"clips/{digest}.mp4", "poster": f"clips/{digest}.poster.webp"},
            sha256={"mp4": digest, "poster": digest},
        )
        for number, digest in enumerate(digests)
    ]
    assert len(gallery_html(rows)) < 5_000_000
