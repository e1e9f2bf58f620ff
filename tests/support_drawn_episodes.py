"""Episodes that are hard to cut: dark scenes, lines of speed, glares, one place from several sides, wipes.

`support_episodes` holds the usual ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tests.support_episodes import Border, Episode

HEIGHT, WIDTH = 270, 480
_DARK_LIGHT = 0.25


class _Shot(NamedTuple):
    """What a shot is drawn of."""

    rng: np.random.Generator
    num: int
    """Frames."""
    light: float
    """Of the colours, in (0, 1]."""
    place: Image.Image
    """A scene of twice the size, which other shots may show too."""


def _colour(rng: np.random.Generator, light: float = 1.0) -> tuple[int, ...]:
    return tuple(int(v * light) for v in rng.integers(0, 256, 3))


def _scene(rng: np.random.Generator, light: float, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """A sky, a ground and some houses."""
    top, bottom = rng.uniform(0, 255 * light, 3), rng.uniform(0, 255 * light, 3)
    share = np.linspace(0, 1, height)[:, None, None]
    picture = Image.fromarray(np.broadcast_to(top * (1 - share) + bottom * share, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    horizon = rng.uniform(0.4, 0.7) * height
    hills = [(float(x), horizon + rng.uniform(-0.15, 0.1) * height) for x in np.linspace(0, width, 9)]
    draw.polygon([(0.0, height), *hills, (width, height)], fill=_colour(rng, light))
    for _ in range(int(rng.integers(2, 9))):
        w, h = rng.uniform(0.04, 0.15) * width, rng.uniform(0.1, 0.5) * height
        x, y = rng.uniform(0, width), horizon - h * rng.uniform(0.2, 1)
        draw.rectangle([x, y, x + w, y + h], fill=_colour(rng, light), outline=(0, 0, 0))
        for _ in range(3):
            left, upper = x + rng.uniform(0, w), y + rng.uniform(0, h)
            draw.rectangle([left, upper, left + 4, upper + 6], fill=_colour(rng))
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2))) if rng.random() < 0.5 else picture


def _part(picture: Image.Image, x: float, y: float, zoom: float) -> np.ndarray:
    box = (x, y, x + WIDTH / zoom, y + HEIGHT / zoom)
    return np.asarray(picture.transform((WIDTH, HEIGHT), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))


def _drawn(picture: Image.Image, draw_on: Callable[[ImageDraw.ImageDraw, int], object], num: int) -> np.ndarray:
    frames = []
    for t in range(num):
        frame = picture.copy()
        draw_on(ImageDraw.Draw(frame), t)
        frames.append(np.asarray(frame))
    return np.stack(frames)


def _zoom(shot: _Shot) -> np.ndarray:
    first, last = shot.rng.uniform(0.6, 1.4, 2)
    zooms = first + (last - first) * min(1.0, shot.num / 60) * np.arange(shot.num) / shot.num
    return np.stack([_part(shot.place, WIDTH - WIDTH / z / 2, HEIGHT - HEIGHT / z / 2, z) for z in zooms])


def _walk(shot: _Shot) -> np.ndarray:
    """A figure on ones, twos or threes before a background that moves by itself."""
    rng, on = shot.rng, int(shot.rng.integers(1, 4))
    speed, step = rng.uniform(-2.4, 2.4), rng.uniform(-2, 2)
    limbs = [(rng.uniform(-0.06, 0.06, 2), rng.uniform(0.03, 0.09), _colour(rng, shot.light)) for _ in range(5)]
    frames = []
    for t in range(shot.num):
        frame = Image.fromarray(_part(shot.place, WIDTH / 2 + speed * t, HEIGHT / 2, 1))
        draw, held = ImageDraw.Draw(frame), t // on * on
        for (right, down), size, colour in limbs:
            x = WIDTH * (0.5 + right) + step * held
            y = HEIGHT * (0.6 + down) + 10 * np.sin(held / 2 + right * 50)
            box = [x - size * HEIGHT, y - size * HEIGHT * 1.5, x + size * HEIGHT, y + size * HEIGHT * 1.5]
            draw.ellipse(box, fill=colour, outline=(0, 0, 0), width=2)
        frames.append(np.asarray(frame))
    return np.stack(frames)


def _talk(shot: _Shot) -> np.ndarray:
    """A face of which only the mouth moves, on threes."""
    picture, openings = shot.place.resize((WIDTH, HEIGHT)), shot.rng.integers(1, 20, shot.num)
    face = [WIDTH * 0.35, HEIGHT * 0.15, WIDTH * 0.65, HEIGHT * 0.95]
    ImageDraw.Draw(picture).ellipse(face, fill=_colour(shot.rng), outline=(0, 0, 0), width=3)

    def mouth(draw: ImageDraw.ImageDraw, t: int) -> None:
        top = HEIGHT * 0.72
        draw.ellipse([WIDTH * 0.47, top, WIDTH * 0.53, top + int(openings[t // 3])], fill=(120, 20, 20))

    return _drawn(picture, mouth, shot.num)


def _rain(shot: _Shot) -> np.ndarray:
    def drops(draw: ImageDraw.ImageDraw, t: int) -> None:
        for x, y in shot.rng.uniform(0, 1, (150, 2)) * (WIDTH, HEIGHT):
            draw.line([x, y, x - 3, y + 18], fill=(230, 230, 240))

    return _drawn(shot.place.resize((WIDTH, HEIGHT)), drops, shot.num)


def _speed_lines(shot: _Shot) -> np.ndarray:
    """Rays that are other ones in each drawing, on twos."""
    rng, colour = shot.rng, _colour(shot.rng, shot.light)
    x, y = rng.uniform(0.3, 0.7, 2) * (WIDTH, HEIGHT)
    angles = rng.uniform(0, 2 * np.pi, (shot.num // 2 + 1, 60))

    def rays(draw: ImageDraw.ImageDraw, t: int) -> None:
        for angle in angles[t // 2]:
            ends = [(60, angle), (600, angle), (600, angle + 0.03)]
            draw.polygon([(x + r * np.cos(a), y + r * np.sin(a)) for r, a in ends], fill=colour)

    return _drawn(Image.new("RGB", (WIDTH, HEIGHT), _colour(rng, shot.light)), rays, shot.num)


def _whip(shot: _Shot) -> np.ndarray:
    """A camera that is flung from one side of a place to the other."""
    wide = _scene(shot.rng, shot.light, HEIGHT, WIDTH * 3)
    share = np.clip((np.arange(shot.num) - shot.num // 2 + 6) / 12, 0, 1)
    places = WIDTH * (0.3 + 1.2 * share * share * (3 - 2 * share))
    return np.stack([_part(wide, x, 0, 1) for x in places])


def _title(shot: _Shot) -> np.ndarray:
    """A still over which a title comes and goes."""
    still = shot.place.resize((WIDTH, HEIGHT))
    titled = still.copy()
    ImageDraw.Draw(titled).text((WIDTH * 0.2, HEIGHT * 0.4), "THE STORM", fill=(250, 250, 250), font_size=44)
    t = np.arange(shot.num)
    share = np.clip(np.minimum(t - 6, shot.num - 6 - t) / 8, 0, 1)[:, None, None, None]
    return (np.asarray(still) * (1 - share) + np.asarray(titled) * share).astype(np.uint8)


def _framing(shot: _Shot) -> np.ndarray:
    """A part of a place, which stands."""
    zoom = shot.rng.uniform(0.8, 2)
    x, y = shot.rng.uniform(0, 2 * WIDTH - WIDTH / zoom), shot.rng.uniform(0, 2 * HEIGHT - HEIGHT / zoom)
    return np.repeat(_part(shot.place, x, y, zoom)[None], shot.num, 0)


_MAKERS: dict[Callable[[_Shot], np.ndarray], float] = {
    _zoom: 0.2,
    _walk: 0.26,
    _talk: 0.14,
    _rain: 0.08,
    _speed_lines: 0.07,
    _whip: 0.06,
    _title: 0.07,
    _framing: 0.12,
}


def _lit(rng: np.random.Generator, frames: np.ndarray) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Return a shot with a flash, a glare or a shake, and where."""
    if len(frames) < 57 or rng.random() < 0.4:
        return frames, []
    frames, at, length = frames.copy(), int(rng.integers(24, len(frames) - 26)), int(rng.integers(1, 4))
    kind = int(rng.integers(6))
    if kind == 0:
        frames[at : at + length] = 255
    elif kind == 1:
        frames[at : at + length] = rng.integers(0, 256, 3)
    elif kind == 2:
        frames[at : at + length] = np.clip(frames[at : at + length].astype(int) * 2 + 40, 0, 255)
    elif kind == 3:
        frames[at : at + length, :, : WIDTH // 2] = 255
    elif kind == 4:
        shares = np.array([0.5, 1, 1, 0.7, 0.45, 0.2])[:, None, None, None]
        frames[at : at + 6] = frames[at : at + 6] * (1 - shares) + 255 * shares
    else:
        for t in range(at, at + 8):
            frames[t] = np.roll(frames[t], tuple(rng.integers(-16, 17, 2)), (0, 1))
        return frames, [(at + 4, "shake")]
    return frames, [(at, "flash")]


def _mask(rng: np.random.Generator, kind: int, share: float) -> np.ndarray:
    """(h w 1) of what a wipe has taken."""
    x, y = np.arange(WIDTH)[None, :, None] / WIDTH, np.arange(HEIGHT)[:, None, None] / HEIGHT
    taken = (
        x < share,
        1 - x < share,
        y < share,
        x + y < 2 * share,
        np.hypot(x - 0.5, y - 0.5) < 0.75 * share,
        np.hypot(x - 0.5, y - 0.5) > 0.75 * (1 - share),
        (np.arctan2(y - 0.5, x - 0.5) + np.pi) / (2 * np.pi) < share,
        abs(x - 0.5) < share / 2,
    )[kind]
    return np.broadcast_to(taken, (HEIGHT, WIDTH, 1)).astype(float)


def _mixed(rng: np.random.Generator, kind: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    shares = (np.arange(len(before)) + 1) / (len(before) + 1)
    if kind == "dissolve":
        masks = shares[:, None, None, None]
    else:
        wipe = int(rng.integers(8))
        masks = np.stack([_mask(rng, wipe, float(share)) for share in shares])
    return (before * (1 - masks) + after * masks).astype(np.uint8)


def _faded(rng: np.random.Generator, level: int, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, int]:
    """Return what lies between shots that fade into one level, and how much of it is the earlier one's."""
    out, back = len(before), len(after)
    down, up = ((np.arange(n) + 1)[:, None, None, None] / (n + 1) for n in (out, back))
    plain = np.full((int(rng.integers(0, 8)), HEIGHT, WIDTH, 3), level, np.uint8)
    pieces = [before * (1 - down) + level * down, plain, after * up + level * (1 - up)]
    return np.concatenate(pieces).astype(np.uint8), out


def build_drawn_episode(seed: int, *, num_shots: int = 90) -> Episode:
    """Return an episode whose borders are cuts, and for a third dissolves, wipes and fades through black or white.

    Args:
        seed: another one gives another episode.
        num_shots: of 9 to 80 frames each; every sixteenth begins five dark ones.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([*_MAKERS.values()]) / sum(_MAKERS.values())
    borders: list[Border] = []
    traps: list[tuple[int, str]] = []
    frames: list[np.ndarray] = []
    num_dark, place, at = 0, _scene(rng, 1, HEIGHT * 2, WIDTH * 2), 0
    last = np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(num_shots):
        num_dark = 5 if not num_dark and rng.random() < 0.06 else max(0, num_dark - 1)
        light = _DARK_LIGHT if num_dark else 1.0
        maker = [*_MAKERS][rng.choice(len(weights), p=weights)]
        is_seen_again = maker is _framing and rng.random() < 0.6
        place = place if is_seen_again else _scene(rng, light, HEIGHT * 2, WIDTH * 2)
        num = int(rng.integers(30, 81) if rng.random() < 0.85 else rng.integers(9, 20))
        shot, own = _lit(rng, maker(_Shot(rng, num, light, place)))
        kind = str(rng.choice(["cut", "dissolve", "wipe", "fade", "white"], p=[0.68, 0.12, 0.06, 0.09, 0.05]))
        length = int(rng.integers(6, 25)) if kind in ("dissolve", "wipe") else int(rng.integers(5, 14))
        if number == 0:
            last = shot
            continue
        if kind == "cut" or min(len(last), len(shot)) < 24 + length:
            border, shown = Border(at + len(last), at + len(last), "cut"), last
        elif kind in ("dissolve", "wipe"):
            between = _mixed(rng, kind, last[-length:], shot[:length])
            shown, shot = np.concatenate([last[:-length], between]), shot[length:]
            border, own = Border(at + len(shown) - length, at + len(shown), kind), [(t - length, w) for t, w in own]
        else:
            between, out = _faded(rng, 255 * (kind == "white"), last[-length:], shot[:length])
            shown, shot = np.concatenate([last[:-length], between]), shot[length:]
            border, own = Border(at + len(last) - out, at + len(shown), "fade"), [(t - length, w) for t, w in own]
        borders.append(border)
        frames.append(shown)
        at += len(shown)
        traps += [(at + t, what) for t, what in own]
        last = shot
    return Episode(np.concatenate([*frames, last]), borders, traps)
