"""No secret of a URI in a log line or a traceback, whoever writes it: Ray, MLflow and the storages' clients as well.

What this project writes has none anyway; this is for the texts of others, of which a traceback repeats each.
"""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

from animatediff.uris import printable_text

_make_record = logging.getLogRecordFactory()


def keep_logs_public() -> None:
    """Take secrets out of the log records of this process, and out of the traceback that it may end with."""
    logging.setLogRecordFactory(_public_record)
    sys.excepthook = _tell


def _public_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    try:
        text = record.getMessage()
    except Exception:  # told by the handler, as ever
        return record
    if (printable := printable_text(text)) != text:
        record.msg, record.args = printable, ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = _traceback(record.exc_info[1])  # handlers take it in place of their own
    return record


def _tell(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    sys.stderr.write(f"{_traceback(error)}\n")


def _traceback(error: BaseException) -> str:
    return printable_text("".join(traceback.format_exception(error)).rstrip())
