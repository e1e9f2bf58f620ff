"""The bytes of one video, or of a shot that is named by its times in one."""

from animatediff.data.shots.copies.copy import copy_shot
from animatediff.data.sources.fetching.attempts import ATTEMPTS
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.fetching.http import too_large
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.data.sources.uris import parse_shot_part


def fetch_video(uri: str, *, max_bytes: int, trusted: bool = False, attempts: int = ATTEMPTS) -> bytes:
    """Return the bytes of one video: as `fetch` does, or, of a shot of a longer one, as `copy_shot` does.

    Args:
        uri: as `read_source` yields it.
        max_bytes: largest video that is returned.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
        attempts: times that it is tried. Of a shot, which is read by blocks, each block is tried as often as ever.

    Raises:
        VideoError: as `fetch` and `copy_shot` raise it.
    """
    shot = parse_shot_part(uri)
    if shot is None:
        return fetch(uri, max_bytes=max_bytes, trusted=trusted, attempts=attempts)
    with open_video_file(shot.uri, trusted=trusted) as file:
        copy = copy_shot(file, start_pts=shot.start_pts, last_pts=shot.last_pts)
    if len(copy) > max_bytes:
        raise too_large(uri, len(copy), max_bytes)
    return copy
