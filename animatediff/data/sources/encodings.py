"""Bytes of captions and tables to text: byte order mark, then UTF-8, then the setting of the source. Never a guess.

A wrong guess would put rubbish into shards without a word: Shift-JIS, for one, is always readable as cp1252.
"""

import codecs
import re
from functools import lru_cache

# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# No text has a NUL, which UTF-16 is full of, or an ESC, by which ISO-2022 changes its character set.
_NO_TEXT = re.compile("[\0\x1b]")

MARKING = "animatediff.marking"
"""Name of the error handler by which a stream's lines with damage hold a NUL, and the others are read."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\0", error.end


codecs.register_error(MARKING, _mark)


def decode(content: bytes, encoding: str | None = None) -> str:
    """Return the text of a caption file, a cell or a line, without its byte order mark.

    Args:
        content: the bytes.
        encoding: name of a codec for what is neither marked nor UTF-8, see `SourceConfig.encoding`.

    Raises:
        ValueError: it is neither; the message says what is wrong, and what to do.
    """
    codec = wide_codec(content)
    if codec is not None:
        try:
            return content.decode(codec)
        except UnicodeDecodeError as error:
            raise ValueError(f"it begins as {codec.upper()} and is damaged: {error}") from error
    return decode_line(content, encoding)


def decode_line(content: bytes, encoding: str | None = None) -> str:
    """As `decode`, for a line of a file whose beginning is not wide: what looks so in it is damage.

    Raises:
        ValueError: see `decode`.
    """
    text, reason = _try(content.removeprefix(codecs.BOM_UTF8).rstrip(b"\0"), "utf-8")
    if encoding is None or (text is not None and extends_ascii(encoding)):
        if text is None:
            raise ValueError(f"{reason}: save it as UTF-8, or set source.encoding (such as cp1252, cp932 or gbk)")
        return text
    other, other_reason = _try(content, encoding)
    if other is None and text is None:
        raise ValueError(f"{reason}; {other_reason} (source.encoding)")
    if other is not None and text is not None and other != text:
        raise ValueError(f"it can be read as UTF-8 and as {encoding} (source.encoding): save it as UTF-8")
    return other if other is not None else text or ""


def wide_codec(content: bytes) -> str | None:
    """Return the codec of text whose characters take two or four bytes; None where that is not sure.

    Args:
        content: the text or its beginning, of a length that four divides, if there is more.
    """
    for mark, codec in _MARKS:
        if content.startswith(mark):
            return codec
    if b"\0" not in content.rstrip(b"\0") or len(content) % 2:
        return None
    for codec in ("utf-32-le", "utf-32-be"):
        if _try(content, codec)[0] is not None:
            return codec
    # In UTF-16, each ASCII character has its NUL on one side.
    first, second = content[::2].count(0), content[1::2].count(0)
    if first and second:
        return None
    return "utf-16-be" if first else "utf-16-le"


def table_codec(head: bytes) -> str | None:
    """As `wide_codec`, of a table's first bytes: without a mark, its first two characters have to be ASCII.

    One NUL in a row makes no text of wide characters.
    """
    is_marked = any(head.startswith(mark) for mark, _ in _MARKS)
    return wide_codec(head[: len(head) // 4 * 4] or head) if is_marked or b"\0" in head[:4] else None


@lru_cache
def extends_ascii(encoding: str) -> bool:
    """Whether ASCII text reads the same in it, as in nearly every encoding but UTF-16, UTF-32 and EBCDIC."""
    return "caption".encode(encoding) == b"caption"


def _try(content: bytes, encoding: str) -> tuple[str | None, str]:
    """Return the text, or None and why there is none."""
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte 0x{content[error.start]:02x} at {error.start}"
        return None, f"it is not in {encoding.upper()} ({error.reason}, {place})"
    if not _NO_TEXT.search(text):
        return text, ""
    return None, f"it is no text in {encoding.upper()} (it has control characters)"
