"""Where a source's rows may point: files and object stores by name, and nothing that fetches without bounds.

Whoever writes a table decides what the workers open. `SourceConfig.trusted` lifts what is said here of local paths.
"""

import re
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.local import local_path
from animatediff.data.sources.limits import MAX_NAME_CHARS
from animatediff.data.sources.spec import Fault
from animatediff.data.sources.uris import ParquetCell, TarMember, parse_locator
from animatediff.uris import joined, printable_uri

WEB = ("http://", "https://")
_PROTOCOLS = frozenset({"http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hf"})
_A_CHAIN = "neither a path nor a plain URL, and chains of file systems are not followed"
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*")


def is_web(uri: str) -> bool:
    """Whether a web server has it."""
    return uri[:8].lower().startswith(WEB)


def is_chain(uri: str) -> bool:
    """Whether one of fsspec's file systems is to open it through another: `simplecache::https://...`."""
    first, separator, _ = uri.partition("::")
    return bool(separator) and not is_web(uri) and ("://" in uri or _PROTOCOL.fullmatch(first.lower()) is not None)


def parse_unchained(uri: str) -> TarMember | ParquetCell | None:
    """Return the part of a file that `uri` names; None when it names a whole file.

    Raises:
        VideoError: FETCH_REFUSED: it chains file systems.
    """
    part = parse_locator(uri)
    if is_chain(part.uri if part else uri):
        detail = f"{printable_uri(uri)} chains file systems, which read and keep files without bounds"
        raise VideoError("fetch", Reason.FETCH_REFUSED, detail)
    return part


class Reach(NamedTuple):
    """What the rows of one table may name."""

    table: str
    """URI of the table."""
    folder: str
    """What relative paths start from."""
    trusted: bool
    """Whether rows may point anywhere; see `SourceConfig.trusted`."""

    def locate(self, path: str) -> str | Fault:
        """Return the URI of what a row names, or why it is not to be fetched."""
        if not path.startswith("/") and "://" not in path:
            return self.beneath(path)
        if fault := unusable(path):
            return fault
        if path.startswith("/") or local_path(path) is not None:
            return path if self.trusted or self._is_local else self._refused(path, "a local path in a remote table")
        protocol = path.partition("://")[0].lower()
        if is_chain(path) or not _PROTOCOL.fullmatch(protocol):
            return self._refused(path, _A_CHAIN)
        try:
            urlsplit(path)
        except ValueError as error:
            return Fault(Reason.BAD_ROW, f"{printable_uri(path)[:200]} is no URL: {error}")
        if protocol not in _PROTOCOLS and protocol not in self._protocols:
            known = ", ".join(sorted(_PROTOCOLS - {"s3a", "gcs", "adl"}))
            return self._refused(path, f"of the protocol {protocol}, and rows may name {known}")
        return path

    @property
    def _is_local(self) -> bool:
        return local_path(self.table) is not None

    @property
    def _protocols(self) -> set[str]:
        """Those that the source's own URIs have: what the user names, the rows may name, too."""
        return {uri.partition("://")[0].lower() for uri in (self.table, self.folder) if "://" in uri}

    def beneath(self, path: str) -> str | Fault:
        """Return the URI of a relative path, or why it is none.

        In a remote table it may not climb out of a local folder.
        """
        if fault := unusable(path):
            return fault
        if "://" in path:
            return Fault(Reason.BAD_ROW, f"{printable_uri(path)[:200]} is a URL, and a relative path is needed")
        uri = joined(self.folder, path)
        if is_chain(uri):
            return self._refused(path, _A_CHAIN)
        is_bound = not self.trusted and not self._is_local and local_path(self.folder) is not None
        if is_bound and ".." in path.split("/"):
            return self._refused(path, "a path of a remote table that leads out of source.videos_uri")
        return uri

    def _refused(self, path: str, why: str) -> Fault:
        remedy = "" if "protocol" in why or "chain" in why else " (source.trusted allows it)"
        return Fault(Reason.FETCH_REFUSED, f"{printable_uri(path)[:200]} is {why}{remedy}")


def unusable(text: str, what: Literal["path", "id"] = "path") -> Fault | None:
    """Why a text can be no path or id."""
    if len(text) > MAX_NAME_CHARS:
        return Fault(Reason.BAD_ROW, f"its {what} has {len(text)} characters, and {MAX_NAME_CHARS} are allowed")
    if "\0" in text:
        return Fault(Reason.BAD_ROW, f"its {what} holds a NUL")
    return None
