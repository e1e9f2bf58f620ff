"""Deletion: a file that is gone already is no error."""

from collections.abc import Sequence

from fsspec.implementations.local import LocalFileSystem

from animatediff.storage.errors import is_absence, printable_error, unreachable
from animatediff.storage.filesystems import filesystem


def delete(uri: str) -> None:
    """Delete a file; it is no error when it is gone already.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        fs.rm_file(path)
    except Exception as error:
        if is_absence(error):
            return
        raise unreachable(uri, error) from printable_error(error)


def delete_many(uris: Sequence[str]) -> None:
    """Delete files; those that are gone already are no error. Object stores take a thousand in one request.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    if not uris:
        return
    fs, _ = filesystem(uris[0])
    if isinstance(fs, LocalFileSystem):
        for uri in uris:
            delete(uri)
        return
    try:
        fs.rm([filesystem(uri)[1] for uri in uris])
    except Exception as error:
        if is_absence(error):
            return
        raise unreachable(uris[0], error) from printable_error(error)
