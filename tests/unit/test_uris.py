"""URIs as they are shown: whatever form a secret has, it is not in them, and what is no secret stays."""

import pytest

from animatediff import uris
from animatediff.uris import hide_secrets, joined, parent, printable_place, printable_text, printable_uri, with_secrets


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """No pieces of the secrets of other tests: they are looked for in every text of the process."""
    monkeypatch.setattr(uris, "_pieces", {})


@pytest.mark.parametrize(
    ("uri", "printable"),
    [
        ("/data/a.mp4?token=x", "/data/a.mp4?token=x"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
        ("https://me:pass@h:80/a.mp4", "https://h:80/a.mp4"),
        ("https://me:p@ss@h/a.mp4", "https://h/a.mp4"),
        ("https://me:p/a?s#s@h/a.mp4", "https://h/a.mp4"),
        ("https://h:8080/@user/a@2x.mp4", "https://h:8080/@user/a@2x.mp4"),
        ("https://[::1]:8080/a@2x.mp4", "https://[::1]:8080/a@2x.mp4"),
        ("https://h/a.mp4?X-Amz-Signature=s&v=1&X-Amz-Credential=c#t=3", "https://h/a.mp4?v=1#t=3"),
        ("https://h?access_token=s", "https://h"),
        ("https://h/a.tar?sig=s#offset=512&bytes=3", "https://h/a.tar#offset=512&bytes=3"),
        ("https://h/a.mp4?keyframe=1&author=2", "https://h/a.mp4?keyframe=1&author=2"),
        ("https://h/a.mp4;jsessionid=s;v=1?w=2", "https://h/a.mp4;v=1?w=2"),
        ("https://h/a.mp4#token=s", "https://h/a.mp4"),
        ("https://h/a.mp4#t=1&id_token=s", "https://h/a.mp4#t=1"),
        ("https://h/a.mp4?%74oken=s&p%61ss=s&a=1", "https://h/a.mp4?a=1"),
        ("https://h/a.mp4?pass=s&pwd=s&jwt=s&hmac=s&hdnts=s&passage=1", "https://h/a.mp4?passage=1"),
        ("zip://a.csv::https://me:pass@h/a.zip?token=s", "zip://a.csv::https://h/a.zip"),
        ("simplecache::s3://key:pass@bucket/a", "simplecache::s3://bucket/a"),
        ("postgresql+psycopg2://me:pa:ss@h/mlflow", "postgresql+psycopg2://h/mlflow"),
        ("https://h/hdnts=exp~hmac/a.mp4", "https://h/.../a.mp4"),
        ("s3://bucket/key=1/token=2/a.mp4", "s3://bucket/key=1/token=2/a.mp4"),
        ("https://h/key=1/a.mp4", "https://h/key=1/a.mp4"),
        ("https://h/?url=https://me:pass@x/a&v=1", "https://h/?url=https://x/a&v=1"),
        ("https://h/?url=https%3A%2F%2Fx%2Fa%3Ftoken%3Ds", "https://h/?url=https%3A%2F%2Fx%2Fa"),
        ("https://h/a.mp4?", "https://h/a.mp4"),
        ("https://h/a?OSSAccessKeyId=s&x-oss-token=s&PHPSESSID=s&sign=s&q-sign-algorithm=s&v=1", "https://h/a?v=1"),
        ("https://h/a?passphrase=s&otp=s&sas=s&oauth_nonce=s&cred=s&ticket=s&cookie=s&cast=1", "https://h/a?cast=1"),
        ("https://me:a::b@h/a.mp4", "https://h/a.mp4"),
        ("https://me:pass@[fe80::1]:80/a", "https://[fe80::1]:80/a"),
        ("zip://a::simplecache::https://me:pass@[::1]/a.zip", "zip://a::simplecache::https://[::1]/a.zip"),
        ("abfs://videos@account.dfs.core.windows.net/a", "abfs://videos@account.dfs.core.windows.net/a"),
        ("abfs://videos:pass@account/a", "abfs://account/a"),
        ("github://owner:repository@main/a", "github://owner:repository@main/a"),
    ],
)
def test_printable_uris_hold_no_secrets(uri, printable):
    assert printable_uri(uri) == printable
    assert printable_uri(printable) == printable


@pytest.mark.parametrize(
    ("text", "printable"),
    [
        ("cannot reach 'https://me:pass@h/a?token=s': 403", "cannot reach 'https://h/a': 403"),
        ("Max retries exceeded with url: /a.mp4?v=1&token=s (Caused by x)", None),
        ("GET /a;jsessionid=s HTTP/1.1", "GET /a;jsessionid=... HTTP/1.1"),
        ("x = 1; token=s", "x = 1; token=s"),
        ("no secret & nothing=hidden", "no secret & nothing=hidden"),
    ],
)
def test_texts_hold_no_secrets_of_addresses(text, printable):
    expected = printable or "Max retries exceeded with url: /a.mp4?v=1&token=... (Caused by x)"
    assert printable_text(text) == expected


@pytest.mark.parametrize(
    ("uri", "secrets", "others"),
    [
        ("https://animator:pass word 1@h/a", ["pass word 1", "pass%20word%201"], ["animator"]),
        ("https://token-1234@h/a", ["token-1234"], []),
        ("https://me:first/second@h/a", ["'second'"[1:-1]], ["'first'"]),
        ("s3://bucket/out?token=abcdef1234", ["abcdef1234"], ["manifest.json"]),
        (
            "https://h/a;jsessionid=abcdef1234?sig=ghijkl5678#id_token=mnopqr9012",
            ["abcdef1234", "ghijkl5678", "mnopqr9012"],
            [],
        ),
        ("https://h/hdnts=exp~abcdef/a.mp4", ["exp~abcdef"], ["a.mp4"]),
        ("https://h/get?url=https%3A%2F%2Fme%3Aabcdef12%40x%2Fa", ["abcdef12"], []),
    ],
)
def test_pieces_of_known_secrets_are_in_no_text(uri, secrets, others):
    joined(hide_secrets(uri), "manifest.json")
    for secret in secrets:
        assert printable_text(f"no port: '{secret}'") == "no port: '...'"
    assert all(printable_text(f"no port: {other}") == f"no port: {other}" for other in others)


@pytest.mark.parametrize(
    ("uri", "below", "above"),
    [
        ("https://me:secret@h", "https://me:secret@h/a/b", None),
        ("https://me:secret@h/x/y.csv", "https://me:secret@h/x/y.csv/a/b", "https://me:secret@h/x"),
        ("https://h/x/y.csv?v=1&token=s/t", "https://h/x/y.csv/a/b?v=1&token=s/t", "https://h/x?v=1&token=s/t"),
        ("https://h/x/y.csv#token=s", "https://h/x/y.csv/a/b#token=s", "https://h/x#token=s"),
        ("ftp://me:secret@h/x", "ftp://me:secret@h/x/a/b", "ftp://me:secret@h/"),
        ("https://me:secret@[fe80::1]/x", "https://me:secret@[fe80::1]/x/a/b", None),
        ("zip://x::https://me:secret@h/a.zip", "zip://x/a/b::https://me:secret@h/a.zip", None),
    ],
)
def test_what_lies_below_and_beside_is_opened_with_the_same_secrets(uri, below, above):
    assert with_secrets(joined(hide_secrets(uri), "a", "b")) == below
    assert joined(uri, "a", "b") == below
    assert joined(hide_secrets(uri), "a", "b") == hide_secrets(below) != printable_uri(below)
    if above:
        assert with_secrets(parent(hide_secrets(uri))) == above


def test_uris_that_differ_in_their_secrets_are_different():
    one, other = hide_secrets("https://h/get?key=1"), hide_secrets("https://h/get?key=2")
    assert (f"{one}", f"{other}") == ("https://h/get", "https://h/get")
    assert len({one: 1, other: 2, hide_secrets("https://h/get?key=1"): 3}) == 2
    assert one != other != "https://h/get"
    assert hide_secrets("s3://bucket/a") == "s3://bucket/a"
    assert type(hide_secrets("s3://bucket/a")) is str


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("abfs://videos@account.dfs.core.windows.net/a@b", "abfs://account.dfs.core.windows.net/a@b"),
        ("github://owner:repository@main/a", "github://main/a"),
        ("https://me:pass@h:80/@a/b?token=s&v=1", "https://h:80/@a/b?v=1"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
        ("zip://a::https://me:pass@h/a.zip", "zip://a::https://h/a.zip"),
        ("videos/a@b.mp4", "videos/a@b.mp4"),
    ],
)
def test_ids_are_told_from_the_host_on(uri, place):
    assert printable_place(uri) == place
