"""Pairs of shots that resemble each other and are no repeats: the same place, people and drawings, filmed again."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from tests import support_episodes as episodes
from tests.support_episodes import HEIGHT, WIDTH

Pair = tuple[np.ndarray, np.ndarray]


def lengths(rng: np.random.Generator) -> tuple[int, int]:
    """Frames of two shots, which are as many in every fourth pair."""
    first, second = (int(number) for number in rng.integers(52, 110, 2))
    return first, first if rng.random() < 0.25 else second


def _place(rng: np.random.Generator) -> np.ndarray:
    return episodes._still(rng, HEIGHT, WIDTH)


def _disc(picture: np.ndarray, discs: list[tuple[float, float, float, tuple[int, ...]]]) -> np.ndarray:
    """The picture with discs over it: x, y, radius in pixels, colour."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for x, y, radius, colour in discs:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour, outline=(0, 0, 0), width=2)
    return np.asarray(image)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(60, 256, 3))


def _speaker(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """A face before a place: each call gives a shot in which it says something else, on threes."""
    place, skin = _place(rng), _colour(rng)
    x, y, size = rng.uniform(0.3, 0.7) * WIDTH, rng.uniform(0.3, 0.6) * HEIGHT, rng.uniform(0.15, 0.3) * HEIGHT

    def shot(num: int) -> np.ndarray:
        mouth = rng.uniform(0.05, 0.25, num // 3 + 1)
        eyes = [(x + side * size * 0.4, y - size * 0.3, size * 0.12, (20, 20, 20)) for side in (-1, 1)]
        lips = (150, 30, 30)
        return np.stack(
            [
                _disc(place, [(x, y, size, skin), *eyes, (x, y + size * 0.5, size * mouth[t // 3], lips)])
                for t in range(num)
            ]
        )

    return shot


def says_something_else(rng: np.random.Generator) -> Pair:
    """Shot, reverse shot, and the first speaker again."""
    speaker, (first, second) = _speaker(rng), lengths(rng)
    return speaker(first), speaker(second)


def faded_in_twice(rng: np.random.Generator) -> Pair:
    """The same speaker, out of black."""
    share = np.minimum(1, np.arange(1, 110) / 14)[:, None, None, None]
    first, second = says_something_else(rng)
    return tuple((shot * share[: len(shot)]).astype(np.uint8) for shot in (first, second))  # type: ignore[return-value]


def lit_twice(rng: np.random.Generator) -> Pair:
    """The same speaker, where the light goes on halfway."""
    first, second = (shot.copy() for shot in says_something_else(rng))
    for shot in (first, second):
        dark = shot[: len(shot) // 2]
        dark[:] = (dark * np.array([0.24, 0.28, 0.4])).astype(np.uint8)
    return first, second


def shaken_twice(rng: np.random.Generator) -> Pair:
    """The same speaker, with the camera shaken."""
    first, second = says_something_else(rng)
    return episodes._shaken(rng, first), episodes._shaken(rng, second)


def held_twice(rng: np.random.Generator) -> Pair:
    """The same drawing, held."""
    place, (first, second) = _place(rng), lengths(rng)
    return np.repeat(place[None], first, 0), np.repeat(place[None], second, 0)


def moves_otherwise(rng: np.random.Generator) -> Pair:
    """The same place with the same discs, of which some move, each time elsewhere."""
    place, num_moving = _place(rng), int(rng.integers(1, 6))
    discs = [(rng.uniform(0.2, 0.8, 2), rng.uniform(0.05, 0.2) * HEIGHT, _colour(rng)) for _ in range(5)]

    def shot(num: int) -> np.ndarray:
        speeds = rng.uniform(-0.3, 0.3, (5, 2)) * (np.arange(5) < num_moving)[:, None]
        frames = []
        for t in range(num):
            centres = [
                (start + speed * t / 48) * (WIDTH, HEIGHT) for (start, _, _), speed in zip(discs, speeds, strict=True)
            ]
            frames.append(
                _disc(place, [(*at, size, colour) for at, (_, size, colour) in zip(centres, discs, strict=True)])
            )
        return np.stack(frames)

    first, second = lengths(rng)
    return shot(first), shot(second)


def enters_at_another_speed(rng: np.random.Generator) -> Pair:
    """A figure comes into a held place from the same side, and stops there."""
    place, colour, y, (first, second) = _place(rng), _colour(rng), rng.uniform(0.3, 0.7) * HEIGHT, lengths(rng)

    def shot(num: int, speed: float) -> np.ndarray:
        return np.stack([_disc(place, [(min(0.55, speed * t - 0.2) * WIDTH, y, 60, colour)]) for t in range(num)])

    return shot(first, rng.uniform(0.01, 0.02)), shot(second, rng.uniform(0.02, 0.04))


def _panned(still: np.ndarray, num: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    places = (start + (end - start) * np.arange(num)[:, None] / num).astype(int)
    return np.stack([still[y : y + HEIGHT, x : x + WIDTH] for y, x in places])


def panned_back(rng: np.random.Generator) -> Pair:
    """The camera goes over the same still, the other way."""
    still, (first, second) = episodes._still(rng, 2 * HEIGHT, 2 * WIDTH), lengths(rng)
    start, end = rng.uniform(0, 1, (2, 2)) * (HEIGHT, WIDTH)
    return _panned(still, first, start, end), _panned(still, second, end, start)


def panned_farther(rng: np.random.Generator) -> Pair:
    """The camera goes the same way over the same still, and farther."""
    still, (first, second) = episodes._still(rng, 2 * HEIGHT, 2 * WIDTH), lengths(rng)
    start, end = rng.uniform(0, 1, (2, 2)) * (HEIGHT, WIDTH)
    return _panned(still, first, start, start + (end - start) * 0.6), _panned(still, second, start, end)


def zoomed_out(rng: np.random.Generator) -> Pair:
    """The camera goes nearer to a still, and away from it."""
    still, (first, second) = Image.fromarray(episodes._still(rng, 2 * HEIGHT, 2 * WIDTH)), lengths(rng)

    def shot(factors: np.ndarray) -> np.ndarray:
        frames = []
        for factor in factors:
            w, h = WIDTH * 2 / factor, HEIGHT * 2 / factor
            box = (WIDTH - w / 2, HEIGHT - h / 2, WIDTH + w / 2, HEIGHT + h / 2)
            frames.append(np.asarray(still.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box=box)))
        return np.stack(frames)

    return shot(np.linspace(1, 1.3, first)), shot(np.linspace(1.3, 1, second))


def further_in_a_loop(rng: np.random.Generator) -> Pair:
    """A background that comes round, as behind one who walks, from another place on."""
    loop, speed, (first, second) = episodes._still(rng, HEIGHT, 2 * WIDTH), rng.uniform(2, 5), lengths(rng)
    wide = np.concatenate([loop, loop, loop], 1)
    begin = int(rng.integers(40, 2 * WIDTH - 40))

    def shot(num: int, begin: int) -> np.ndarray:
        places = [int(begin + speed * t) % (2 * WIDTH) for t in range(num)]
        return np.stack([wide[:, x : x + WIDTH] for x in places])

    return shot(first, 0), shot(second, begin)


def other_credits(rng: np.random.Generator) -> Pair:
    """Names that roll at two speeds."""
    first, second = lengths(rng)
    return episodes._credits(rng, first), episodes._credits(rng, second)


KINDS: tuple[Callable[[np.random.Generator], Pair], ...] = (
    says_something_else,
    faded_in_twice,
    lit_twice,
    shaken_twice,
    held_twice,
    moves_otherwise,
    enters_at_another_speed,
    panned_back,
    panned_farther,
    zoomed_out,
    further_in_a_loop,
    other_credits,
)
