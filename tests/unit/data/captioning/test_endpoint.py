import random
import socket
import threading
from collections import Counter

import numpy as np
import pytest

from animatediff.data.captioning import endpoint, server
from animatediff.data.captioning.captioner import load_captioner
from animatediff.data.captioning.captions import CaptionReason, CaptionRequest
from animatediff.data.captioning.config import PROMPT, CaptionConfig
from animatediff.errors import UserError
from animatediff.uris import hide_secrets
from tests.unit.data.captioning.chat_server import CAPTION, MODEL, error, http_date, pictures_of, serving


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(server, "_FIRST_WAIT_S", 0.001)


def config(url, **fields):
    return CaptionConfig(**{"url": url, "timeout_s": 20} | fields)


def shots(n, start=0, num_frames=2):
    """Frames of one level each, by which the server knows them."""
    frames = (np.full((num_frames, 16, 24, 3), number, np.uint8) for number in range(start, start + n))
    return [CaptionRequest(str(start + i), each) for i, each in enumerate(frames)]


def captions(url, n=1, **fields):
    results = list(load_captioner(config(url, **fields)).caption_all(shots(n)))
    assert sorted(int(result.shot_id) for result in results) == list(range(n))
    return sorted(results, key=lambda result: int(result.shot_id))


def test_each_shot_is_asked_once_with_its_frames_and_the_model_that_is_served():
    with serving() as served:
        results = captions(served.url, 40)
    assert [result.caption for result in results] == [CAPTION.format(number) for number in range(40)]
    assert set(served.asked.values()) == {1}
    assert served.models_asked == 1
    assert {result.model for result in results} == {MODEL} == {body["model"] for body in served.bodies}
    assert {result.usage.prompt_tokens for result in results} == {900}
    assert {result.usage.num_tries for result in results} == {1}
    body = served.bodies[0]
    assert body["messages"][0]["content"][-1]["text"] == PROMPT
    assert [picture.shape for picture in pictures_of(body)] == [(16, 24, 3)] * 2
    assert (body["temperature"], body["max_tokens"]) == (0, 512)


def test_so_many_requests_are_read_and_waiting_as_allowed_and_no_more():
    read, together = [], threading.Barrier(4)
    with serving() as served:
        served.before_answer = lambda number: together.wait(20) if number < 4 else None
        requests = (read.append(each.shot_id) or each for each in shots(30))
        results = load_captioner(config(served.url, concurrency=4)).caption_all(requests)
        next(results)
        assert len(read) == 4
        assert len(list(results)) == 29
    assert served.most_at_once == 4


BUSY = (error(429, "slow down"), error(429, "slow down", Retry_After="0.01"), error(503, "full", Retry_After="0"))
FAILURES = (
    "hang",
    "reset",
    "cut body",
    "no json",
    "no choices",
    "abort",
    error(500, "CUDA error"),
    error(502, "bad gateway"),
)
ANSWERS = {
    "refusal": CaptionReason.REFUSED,
    "refusal field": CaptionReason.REFUSED,
    "content_filter": CaptionReason.REFUSED,
    "empty": CaptionReason.EMPTY,
    "null": CaptionReason.EMPTY,
    "cut answer": None,
    "cut at once": CaptionReason.CUT,
    "think": None,
    "only thinking": CaptionReason.CUT,
    "parts": None,
    "thinking parts": None,
    "thinking beside": None,
    "thinking alone": CaptionReason.EMPTY,
    "cut thinking": CaptionReason.CUT,
    "repeats": CaptionReason.REPEATS,
}


HANGING = range(6)  # which cost the test its time, side by side


def test_of_a_server_that_often_fails_every_shot_has_a_caption_or_a_reason():
    faults, said = {}, {}

    def fault(number, before):
        draw = random.Random(1000 * number + before)
        if draw.random() < 0.3 or (number in HANGING and before == 0):
            faults[number, before] = True
            is_hanging = number in HANGING and before == 0
            return (
                "hang" if is_hanging else draw.choice([*BUSY, *FAILURES[1:], error(429, "", Retry_After=http_date(0))])
            )
        said[number] = draw.choice([None, None, *ANSWERS])
        return said[number]

    with serving(fault) as served:
        results = captions(served.url, 150, timeout_s=3)
    assert len(faults) > 40
    for result in results:
        number = int(result.shot_id)
        reason = ANSWERS[said[number]] if said.get(number) else None
        assert result.reason == (reason if number in said else CaptionReason.FAILED)
        assert result.caption == ("" if result.reason else CAPTION.format(number))
        assert bool(result.detail) == bool(result.reason)
        assert result.usage.num_tries == served.asked[number]
    # None that was answered is asked again.
    assert dict.fromkeys(said, 1) == dict(served.answered)


@pytest.mark.parametrize(
    "fault",
    [
        *FAILURES[1:],
        error(500, "no\x00body", Retry_After="soon"),
        (200, {"error": {"code": 503}}),
        (200, {"object": "error", "message": "out of memory", "code": "500"}),
    ],
)
def test_a_shot_that_always_fails_is_given_up_and_costs_itself(fault):
    with serving(lambda number, before: fault if number == 1 else None) as served:
        results = captions(served.url, 3, tries=2)
        assert served.asked == {0: 1, 1: 2, 2: 1}
    assert [result.reason for result in results] == [None, CaptionReason.FAILED, None]
    assert "(2 tries)" in results[1].detail
    assert served.url in results[1].detail


def test_a_server_that_does_not_answer_is_not_waited_for_without_end():
    with serving(lambda number, before: "hang") as served:
        (result,) = captions(served.url, model="mine", tries=2, timeout_s=0.2)
    assert result.reason is CaptionReason.FAILED
    assert "no answer within 0.2 s (captions.timeout_s) (2 tries)" in result.detail


def test_errors_that_claim_success_are_those_that_they_say():
    """SGLang's and older vLLM's own kind, a gateway's, and one that stands in the answer."""
    busy = {"object": "error", "message": "queue full", "code": 429}
    broken = {"choices": [{"finish_reason": "error", "error": {"code": "429", "message": "queue full"}}]}
    faults = [(200, busy), (200, {"error": {"code": 429, "message": "queue full"}}), (200, broken)]
    with serving(lambda number, before: faults[before] if before < 3 else None) as served:
        (result,) = captions(served.url, tries=1)
    assert (result.reason, result.usage.num_tries) == (None, 4)
    refused = (200, {"object": "error", "message": "the picture is no JPEG", "code": 400})
    with serving(lambda number, before: refused) as served:
        (result,) = captions(served.url)
    assert served.asked == {0: 1}
    assert "HTTP 400: the picture is no JPEG" in result.detail


def test_what_a_server_took_for_thinking_is_told_with_the_remedy():
    with serving(lambda number, before: "thinking alone") as served:
        (result,) = captions(served.url)
    assert "without a reasoning parser" in result.detail
    assert served.bodies[0]["stream"] is False


def test_to_be_early_is_no_failure():
    with serving(lambda number, before: error(429, "slow down", Retry_After="0") if before < 9 else None) as served:
        (result,) = captions(served.url, tries=2)
    assert (result.reason, result.usage.num_tries) == (None, 10)


def test_who_asks_to_wait_longer_than_a_shot_may_take_is_not_waited_for():
    busy = error(429, "quota", Retry_After="3600")
    with serving(lambda number, before: busy if number == 0 else None) as served:
        results = captions(served.url, 2)
    assert [result.reason for result in results] == [CaptionReason.FAILED, None]
    assert "quota" in results[0].detail


@pytest.mark.parametrize(
    ("text", "seconds"), [("7", 7), (" 1.5 ", 1.5), ("", None), ("soon", None), ("-1", None), ("inf", None)]
)
def test_retry_after_in_seconds(text, seconds):
    assert server._retry_after(text) == seconds


def test_retry_after_as_a_date():
    assert 18 <= server._retry_after(http_date(20)) <= 20
    assert server._retry_after(http_date(-20)) == 0
    assert server._retry_after("Wed, 99 Foo 2026 07:28:00 GMT") is None


def test_a_server_that_fails_for_everything_ends_the_job_with_a_line():
    with serving(lambda number, before: error(500, "CUDA error: device-side assert")) as served:
        with pytest.raises(UserError, match="CUDA error: device-side assert .*8 shots one after another"):
            captions(served.url, 20, tries=2)
        assert sum(served.asked.values()) <= 2 * (16 + 8)


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("model", ["auto", MODEL])
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_not_there_is_told_of_at_once(host, model):
    url = hide_secrets(f"http://user:passw0rd@{host}:{closed_port()}/v1")
    with pytest.raises(UserError) as told:
        captions(url, 20, model=model)
    assert f"captions.url http://{host}:" in str(told.value)
    assert "start the server, or mend the address" in str(told.value)
    assert "passw0rd" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (error(401, "no key"), "wants a key (HTTP 401: no key): put one into an environment variable"),
        (error(403, "not for you"), "wants a key (HTTP 403: not for you)"),
        (error(404, "The model does not exist"), f"name one of its own in captions.model: {MODEL}, other"),
        (error(400, "Invalid model name passed in model=mine"), "has no model mine (HTTP 400: Invalid model name"),
        (error(400, "The model `mine` does not exist."), f"name one of its own in captions.model: {MODEL}, other"),
        (
            (307, b"", {"Location": "https://elsewhere/v1?token=abcdefgh"}),
            "redirects to https://elsewhere/v1: name the",
        ),
    ],
)
def test_what_the_config_has_wrong_is_told_with_the_remedy(fault, told):
    with serving(lambda number, before: fault) as served:
        with pytest.raises(UserError) as error_told:
            captions(served.url, 20, model="mine")
        assert sum(served.asked.values()) <= 16
    assert told in str(error_told.value)
    assert str(error_told.value).startswith(f"captions.url {served.url} ")


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([], "serves no model"),
        (404, "lists no models .*usually ends with /v1"),
        (401, "wants a key"),
        (500, "does not answer"),
    ],
)
def test_a_server_without_a_list_of_models(models, told):
    with serving() as served:
        served.models = models
        with pytest.raises(UserError, match=told):
            captions(served.url, tries=2)
        assert not served.asked


def test_an_address_that_is_no_chat_server():
    with serving(lambda number, before: error(404, "Not Found")) as served:
        served.models = 404
        with pytest.raises(UserError, match="its address usually ends with /v1"):
            captions(served.url, model="mine")


def test_a_driver_finds_the_model_before_anything_is_done(caplog):
    with serving() as served:
        assert endpoint.find_model(config(served.url)) == MODEL
        assert endpoint.find_model(config(served.url, model="other")) == "other"
        assert not caplog.records
        assert endpoint.find_model(config(served.url, model="mine")) == "mine"
        assert f"lists no model mine; it has {MODEL}, other" in caplog.text
        served.models = 404
        assert endpoint.find_model(config(served.url, model="mine")) == "mine"
    with pytest.raises(UserError, match="start the server"):
        endpoint.find_model(config(f"http://127.0.0.1:{closed_port()}/v1", model="mine"))


def test_the_key_is_sent_and_never_told(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-abcdef123456")
    with serving() as served:
        captions(served.url, api_key_env="MY_KEY")
        assert {headers["Authorization"] for headers in served.headers} == {"Bearer sk-abcdef123456"}
    told = r"refuses the key in \$MY_KEY \(HTTP 401: wrong key \.\.\.\)"
    wrong = error(401, "wrong key sk-abcdef123456")
    with serving(lambda number, before: wrong) as served, pytest.raises(UserError, match=told):
        captions(served.url, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", " ")
    with pytest.raises(UserError, match="variable MY_KEY is not set"):
        load_captioner(config(served.url, api_key_env="MY_KEY"))


def test_what_was_answered_before_the_server_died_is_kept():
    results = []
    with serving(lambda number, before: error(401, "expired") if number >= 24 else None) as served:
        answers = load_captioner(config(served.url, concurrency=6)).caption_all(shots(60))
        with pytest.raises(UserError, match="expired"):
            results.extend(iter(answers.__next__, None))
    assert served.answered == Counter(range(24))
    assert sorted(int(result.shot_id) for result in results) == list(range(24))


def test_a_server_that_stops_is_waited_for_and_then_told_of():
    with serving() as served:
        captioner = load_captioner(config(served.url, tries=3))
        assert len(list(captioner.caption_all(shots(5)))) == 5
    with pytest.raises(UserError, match="is not there any more: .*start it again, then rerun"):
        list(captioner.caption_all(shots(5)))


def test_options_that_a_server_does_not_know_are_left_out():
    def fault(number, before):
        body = served.bodies[-1]
        if "max_tokens" in body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if "seed" in body:
            return 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 0}]}
        return None

    with serving(fault) as served:
        results = captions(served.url, 12, concurrency=3)
    assert {result.reason for result in results} == {None}
    assert served.bodies[-1]["max_completion_tokens"] == 512
    assert {"seed", "max_tokens"}.isdisjoint(served.bodies[-1])
    assert sum(served.asked.values()) <= 12 + 2 * 3


@pytest.mark.parametrize(
    ("refusal", "sizes"),
    [
        (error(400, "At most 3 image(s) may be provided in one prompt."), {8, 3}),
        ((413, b"<html>Request Entity Too Large</html>"), {8, 4, 2}),
        (error(400, "This model's maximum context length is 4096 tokens, your request has 9000"), {8, 4, 2}),
    ],
)
def test_of_too_many_frames_fewer_are_sent(refusal, sizes):
    with serving(lambda number, before: refusal if len(pictures_of(served.bodies[-1])) > 3 else None) as served:
        model = load_captioner(config(served.url, concurrency=1))
        results = list(model.caption_all(shots(2, num_frames=8)))
    assert {result.reason for result in results} == {None}
    assert {len(pictures_of(body)) for body in served.bodies} == sizes


def test_a_frame_that_is_too_large_alone_is_a_reason():
    with serving(lambda number, before: error(413, "") if number == 0 else None) as served:
        results = captions(served.url, 2)
    assert [result.reason for result in results] == [CaptionReason.FAILED, None]
    assert served.asked == {0: 2, 1: 1}


def test_pictures_that_a_server_moderates_are_a_refusal():
    moderated = error(400, "The response was filtered due to the content management policy")
    with serving(lambda number, before: moderated) as served:
        assert {result.reason for result in captions(served.url, 12)} == {CaptionReason.REFUSED}
    assert set(served.asked.values()) == {1}


def test_who_stops_reading_leaves_nothing_waiting():
    with serving() as served:
        results = load_captioner(config(served.url, concurrency=2)).caption_all(shots(50))
        next(results)
        results.close()
        assert sum(served.asked.values()) <= 4


def test_before_an_error_of_the_requests_is_told_those_that_were_read_are_answered():
    def broken():
        yield from shots(5)
        raise ValueError("cannot decode")

    results = []
    with serving() as served:
        answers = load_captioner(config(served.url)).caption_all(broken())
        with pytest.raises(ValueError, match="cannot decode"):
            results.extend(iter(answers.__next__, None))
    assert sorted(int(result.shot_id) for result in results) == list(range(5))


def test_a_request_says_what_the_config_adds():
    extra = {"temperature": 0.7, "chat_template_kwargs": {"enable_thinking": False}}
    with serving() as served:
        captions(served.url, extra_body=extra)
    assert served.bodies[0].items() >= (extra | {"seed": 0, "max_tokens": 512}).items()


def test_the_environments_proxy_is_used_and_its_passwords_are_not(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password of-another-server\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("MY_KEY", "sk-abcdef123456")
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "gpu1,gpu2:8000")
        (result,) = captions("http://gpu3.invalid:8000/v1", api_key_env="MY_KEY")
        assert result.caption == CAPTION.format(0)
        assert {headers["Authorization"] for headers in proxy.headers} == {"Bearer sk-abcdef123456"}
        assert {headers["Host"] for headers in proxy.headers} == {"gpu3.invalid:8000"}
    assert server._proxy("http://gpu1:8000/v1") is None
    assert server._proxy("http://gpu2:8000/v1") is None
