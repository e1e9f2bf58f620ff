"""The bytes of one video, or of a shot that is named by its times in one."""

from animatediff.data.shots.copies.supervisor import CopySupervisor
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.fetching.http import too_large
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.data.sources.uris import parse_shot_part


def fetch_video(uri: str, *, max_bytes: int, copies: CopySupervisor, trusted: bool = False) -> bytes:
    """Return the bytes of one video: as `fetch` does, or, of a shot of a longer one, as `CopySupervisor` does.

    Args:
        uri: as `read_source` yields it.
        max_bytes: largest video that is returned.
        copies: cuts shots out of their videos.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

    Raises:
        VideoError: as `fetch` and `CopySupervisor.copy` raise it.
        UserError: as `CopySupervisor.copy` raises it.
    """
    shot = parse_shot_part(uri)
    if shot is None:
        return fetch(uri, max_bytes=max_bytes, trusted=trusted)
    copy = copies.copy(shot, trusted=trusted)
    if len(copy) > max_bytes:
        raise too_large(uri, len(copy), max_bytes)
    return copy


def ask_for_video(uri: str, *, max_bytes: int, trusted: bool = False) -> None:
    """Read one video once, as far as it takes to know that its storage gives it: of a shot, its video's beginning.

    Args:
        uri: as `read_source` yields it.
        max_bytes: largest video that is read.
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

    Raises:
        VideoError: stage `fetch`, as `fetch` raises it.
    """
    shot = parse_shot_part(uri)
    if shot is None:
        fetch(uri, max_bytes=max_bytes, trusted=trusted, attempts=1)
        return
    with open_video_file(shot.uri, trusted=trusted) as file:
        file.read(1)
