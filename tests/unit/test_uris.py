"""URIs as they are shown: whatever form a secret has, it is not in them, and what is no secret stays."""

import pytest

from animatediff.uris import printable_text, printable_uri


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
