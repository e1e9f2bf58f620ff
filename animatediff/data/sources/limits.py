"""How much a source's files may hold: what goes beyond costs its own row, and never the driver's memory.

The bounds lie far above what collections hold, and far below what a bomb of a few kilobytes unpacks to.
"""

MAX_CAPTION_CHARS = 1_000_000
"""Characters of one caption. Text encoders read 77 to 512 tokens, and the most talkative captioners write 2,000."""
MAX_NAME_CHARS = 8192
"""Characters of an id, a path or a URL: servers take no longer URLs, and file systems no longer paths."""
MAX_SIDECAR_BYTES = 1_000_000
"""Bytes of a caption file, on disk and in tars."""
MAX_LINE_BYTES = 8_000_000
"""Bytes of a line of a table, and of a row of a CSV that goes over several."""
MAX_SKIPPED_BYTES = 4_000_000_000
"""Bytes of a line that is too long, and is passed over to reach the next: 1.5 GB of gzip take 5 seconds."""
MAX_HEADER_BYTES = 16_000_000
"""Bytes that a tar may tell of one member before its content: names, attributes and maps of holes."""
MAX_CAPTIONS_BYTES = 64_000_000
"""Bytes of all the captions of one tar, which are held until its videos are known."""
MAX_PIXELS = 8192 * 8192
"""Most pixels of a picture, or of a video's frame where a config does not say."""
MAX_FILES = 1_000_000
"""Files that a pattern may name."""
BATCH_BYTES = 16_000_000
"""Bytes of the texts of videos that are held at once."""
SLOWEST_BYTES_PER_S = 4_000_000
"""The slowest storage that reading a video is waited for: a gigabyte has four minutes."""
MAX_OPENING_S = 600.0
"""Seconds until a video is open. A storage that does not answer says so before, and no deadline of a decoder is to
make a damaged video of that; a web server without ranges sends the whole file."""
