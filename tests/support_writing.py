"""Shots that tests of writing are made on: titles, credits, subtitles, and patterns that look like lines of words."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 144, 256
_FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
_LATIN = [
    *("the", "of", "and", "music", "story", "art", "sound", "light", "every", "night", "director", "written", "by"),
    *("with", "from", "cast", "part", "one", "end"),
]
_OTHERS = {
    "Cyrillic": ["режиссёр", "оператор", "музыка", "художник", "сценарий", "монтаж", "звук", "серия", "конец", "роли"],
    "Greek": ["σκηνοθεσία", "μουσική", "παραγωγή", "τέλος", "επεισόδιο", "ήχος", "φωτογραφία", "σενάριο"],
    "Arabic": ["إخراج", "موسيقى", "إنتاج", "نهاية", "الحلقة", "تصوير", "سيناريو"],
}
_LATIN_FONTS = [
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "cmr10"),
]


def _font(rng: np.random.Generator, size: int, script: str = "Latin") -> ImageFont.FreeTypeFont:
    name = str(rng.choice(_LATIN_FONTS)) if script == "Latin" else "DejaVuSans"
    return ImageFont.truetype(_FONTS / f"{name}.ttf", size)


def _words(rng: np.random.Generator, num: int, script: str = "Latin") -> str:
    words = " ".join(rng.choice(_OTHERS.get(script, _LATIN), num))
    return (words.upper, words.title, words.lower)[int(rng.integers(3))]()


def _line(rng: np.random.Generator, font: ImageFont.FreeTypeFont, num: int, script: str = "Latin") -> str:
    """At most `num` words that fit into the picture."""
    while num > 1:
        words = _words(rng, num, script)
        if font.getlength(words) < 0.92 * WIDTH:
            return words
        num -= 1
    return _words(rng, 1, script)[:8]


def _colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the ground and of the words: light on dark, or dark on light."""
    dark, light = (tuple(int(v) for v in rng.integers(low, low + 66, 3)) for low in (0, 190))
    return (dark, light) if rng.random() < 0.6 else (light, dark)


def title(rng: np.random.Generator, script: str = "Latin", *, outline: int = 0) -> np.ndarray:
    """Words in the middle of a plain ground, for a while."""
    ground, ink = _colours(rng)
    picture = Image.new("RGB", (WIDTH, HEIGHT), ground)
    draw = ImageDraw.Draw(picture)
    size = int(rng.choice([10, 14, 20, 28, 34]))
    font, num_lines = _font(rng, size, script), int(rng.integers(1, 4))
    for number in range(num_lines):
        words = _line(rng, font, 4, script)
        x, y = (WIDTH - font.getlength(words)) / 2, HEIGHT / 2 + (number - num_lines / 2) * 1.4 * size
        draw.text((x, y), words, fill=ink, font=font, stroke_width=outline, stroke_fill=(128, 60, 60))
    return np.repeat(np.asarray(picture)[None], 6, 0)


def faded_title(rng: np.random.Generator) -> np.ndarray:
    """A title that comes out of its ground and goes back."""
    frames = title(rng)
    shares = np.array([0, 0.5, 1, 1, 0.5, 0])[:, None, None, None]
    return (frames[:, :1, :1] * (1 - shares) + frames * shares).round().astype(np.uint8)


def credits(rng: np.random.Generator, script: str = "Latin", *, rolling: bool = True) -> np.ndarray:
    """Many lines, in the middle, in two columns, or from the left."""
    ground, ink = _colours(rng)
    tall = Image.new("RGB", (WIDTH, 3 * HEIGHT), ground)
    draw, size, layout = ImageDraw.Draw(tall), int(rng.choice([9, 11, 14])), int(rng.integers(3))
    font, y = _font(rng, size, script), 4.0
    while y < 3 * HEIGHT - 2 * size:
        words = _line(rng, font, 3, script)
        length = font.getlength(words)
        if layout == 1:
            role = _words(rng, 1, script)[:8]
            draw.text((0.46 * WIDTH - font.getlength(role), y), role, fill=ink, font=font)
        draw.text(((WIDTH - length) / 2 if layout == 0 else (0.5, 0.15)[layout - 1] * WIDTH, y), words, ink, font)
        y += size * (1.4 if rng.random() < 0.9 else 2.8)
    picture, speed = np.asarray(tall), 6 if rolling else 0
    return np.stack([picture[20 + speed * t : 20 + speed * t + HEIGHT] for t in range(8)])


def subtitled(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    """The same frames with one or two lines of white words burnt in below."""
    num_lines = int(rng.integers(1, 3))
    height, width = frames.shape[1:3]
    size = round(height * 0.085)
    font = _font(rng, size)
    lines = [_line(rng, font, 5) for _ in range(num_lines)]
    layer = Image.new("RGBA", (width, height))
    for number, words in enumerate(lines):
        place = ((width - font.getlength(words)) / 2, height - 6 - (num_lines - number) * 1.3 * size)
        ImageDraw.Draw(layer).text(place, words, fill="white", font=font, stroke_width=1, stroke_fill="black")
    result, below = frames.copy(), np.asarray(layer)[height // 2 :].astype(np.float32)
    share = below[..., 3:] / 255
    result[:, height // 2 :] = (result[:, height // 2 :] * (1 - share) + below[..., :3] * share).round()
    return result


def striped(rng: np.random.Generator) -> np.ndarray:
    """Stripes over the whole picture, at any angle, that travel."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 30)
    ground, ink = _colours(rng)
    phases = [(x * np.cos(angle) + y * np.sin(angle) + 1.5 * t) % period < period / 2 for t in range(6)]
    return np.stack([np.where(phase[..., None], ink, ground).astype(np.uint8) for phase in phases])


def fenced(rng: np.random.Generator) -> np.ndarray:
    """A fence before grass and sky, that the camera goes along."""
    sky, wood = _colours(rng)
    picture = Image.new("RGB", (2 * WIDTH, HEIGHT), sky)
    draw, top = ImageDraw.Draw(picture), int(rng.integers(40, 90))
    height, step = int(rng.integers(12, 45)), int(rng.integers(6, 18))
    draw.rectangle([0, top + height // 2, 2 * WIDTH, HEIGHT], fill=(60, 110, 50))
    for x in range(0, 2 * WIDTH, step):
        draw.rectangle([x, top, x + step // 2, top + height], fill=wood)
    return np.stack([np.asarray(picture)[:, 3 * t : 3 * t + WIDTH] for t in range(6)])


def foliage(rng: np.random.Generator) -> np.ndarray:
    """Light and dark spots of one size, everywhere."""
    size = int(rng.choice([2, 3, 5]))
    spots = Image.fromarray(rng.integers(0, 256, (HEIGHT // size, WIDTH // size), np.uint8)).resize((WIDTH, HEIGHT))
    still = np.asarray(spots)[..., None] * np.array([0.5, 1.0, 0.4])
    return np.stack([np.roll(still, t, 1) for t in range(6)]).astype(np.uint8)


def crowd(rng: np.random.Generator) -> np.ndarray:
    """Many small figures below a sky."""
    num = int(rng.integers(40, 160))
    places = rng.uniform((0, 0.35 * HEIGHT), (WIDTH, HEIGHT), (num, 2))
    places = places[np.argsort(places[:, 1])]
    colours, sizes = rng.integers(30, 230, (num, 3)), rng.uniform(3, 7, num)
    frames = []
    for t in range(6):
        picture = Image.new("RGB", (WIDTH, HEIGHT), (120, 160, 210))
        draw = ImageDraw.Draw(picture)
        for (x, y), colour, size in zip(places + 0.4 * t, colours, sizes, strict=True):
            draw.rectangle([x - size, y, x + size, y + 4 * size], fill=tuple(int(v) for v in colour))
            draw.ellipse(
                [x - 0.7 * size, y - 1.4 * size, x + 0.7 * size, y], fill=(220, 180, 150), outline=(40, 20, 20)
            )
        frames.append(np.asarray(picture))
    return np.stack(frames)


WRITTEN: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "title": title,
    "outlined title": lambda rng: title(rng, outline=2),
    "faded title": faded_title,
    "rolling credits": credits,
    "still credits": lambda rng: credits(rng, rolling=False),
    **{f"title in {script}": lambda rng, script=script: title(rng, script) for script in _OTHERS},
    **{f"credits in {script}": lambda rng, script=script: credits(rng, script) for script in _OTHERS},
}
"""What has to be told as written, by kind."""

PATTERNS = {"stripes": striped, "fence": fenced, "foliage": foliage, "crowd": crowd}
"""What is like writing, and is none."""
