"""One static HTML page that shows all clips of a catalog; it needs nothing but the clips beside it."""

import html
from collections.abc import Sequence

from animatediff.rendering.catalog import Result
from animatediff.rendering.scoring import mean_scores

_STYLE = """
:root { color-scheme: light dark; --page: #f6f6f7; --card: #fff; --text: #1b1c1f; --dim: #63666d; --line: #e0e1e5;
  --bad: #b3261e; --bad-card: #fdeceb; --accent: #3057d5; }
@media (prefers-color-scheme: dark) { :root { --page: #131417; --card: #1d1f23; --text: #e8e9ec; --dim: #9a9ea8;
  --line: #2e3137; --bad: #ff8a80; --bad-card: #33201f; --accent: #8fa8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
header { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .6rem 1rem; align-items: center;
  padding: .8rem 1.5rem; background: var(--card); border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 1.1rem; }
header p { margin: 0 auto 0 0; color: var(--dim); }
select, input { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 6px; padding: .35rem .6rem; max-width: 100%; }
input { width: 18rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1rem; padding: 1.5rem; }
article { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; overflow: hidden; content-visibility: auto; contain-intrinsic-size: auto 380px; }
article[hidden] { display: none; }
video, img { display: block; width: 100%; height: auto; background: #0003; }
.error { display: flex; align-items: center; justify-content: center; padding: 1rem; overflow: auto;
  overflow-wrap: anywhere; background: var(--bad-card); color: var(--bad); font-size: .85rem; }
.about { padding: .75rem .9rem .9rem; display: flex; flex-direction: column; gap: .35rem; }
.about p { margin: 0; overflow-wrap: anywhere; }
.top { display: flex; justify-content: space-between; gap: .5rem; font-size: .85rem; }
.entry { color: var(--accent); font-weight: 600; overflow-wrap: anywhere; }
.failed .status { color: var(--bad); font-weight: 600; }
.dim { color: var(--dim); font-size: .8rem; }
.scores { display: flex; flex-wrap: wrap; gap: .3rem; margin: 0; padding: 0; list-style: none; font-size: .8rem; }
.scores li { border: 1px solid var(--line); border-radius: 6px; padding: .05rem .4rem; white-space: nowrap; }
figure { margin: 1.5rem 1.5rem 0; overflow-x: auto; }
figcaption { color: var(--dim); font-size: .85rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
#none { padding: 3rem; text-align: center; color: var(--dim); }
"""

_SCRIPT = """
const cards = [...document.querySelectorAll('article')];
const entry = document.querySelector('select'), search = document.querySelector('input');
function filter() {
  const words = search.value.toLowerCase().split(/\\s+/);
  let shown = 0;
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = (entry.value && card.dataset.entry !== entry.value) || !words.every(word => text.includes(word));
    shown += !card.hidden;
  }
  document.querySelector('#none').hidden = shown > 0;
}
entry.addEventListener('input', filter);
search.addEventListener('input', filter);
for (const video of document.querySelectorAll('video'))
  video.addEventListener('error', () => video.replaceWith(video.querySelector('img')), true);
filter();
"""


def gallery_html(results: Sequence[Result], *, title: str = "Catalog") -> str:
    """The page, with links relative to the folder that it is written to.

    Args:
        results: in the order to show; `mp4` and `gif` are paths relative to the page.
        title: its heading.
    """
    names = dict.fromkeys(result.entry for result in results)
    options = "".join(f"<option>{_text(name)}</option>" for name in names)
    num_failed = sum(result.status == "failed" for result in results)
    counts = f"{len(results)} items of {len(names)} entries" + (f", {num_failed} failed" if num_failed else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_text(title)}</h1>
<p>{counts}</p>
<select aria-label="Entry"><option value="">All entries</option>{options}</select>
<input type="search" placeholder="Search prompts and errors" aria-label="Search">
</header>
{_score_table(results)}<main>
{"".join(_card(result) for result in results)}</main>
<p id="none" hidden>Nothing matches.</p>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _card(result: Result) -> str:
    negative = f'<p class="dim">not: {_text(result.negative_prompt)}</p>' if result.negative_prompt else ""
    status = f"{result.seconds:.1f} s" if result.status == "ok" else "failed"
    sampling = f"seed {result.seed}", f"{result.num_inference_steps} steps", f"guidance {result.guidance_scale:g}"
    size = f"{result.width}&times;{result.height}", f"{result.num_frames} frames", f"{result.fps:g} fps"
    return f"""<article class="{result.status}" data-entry="{_text(result.entry)}">
{_clip(result) if result.status == "ok" else _error(result)}
<div class="about">
<div class="top"><span class="entry">{_text(result.entry)}</span><span class="status dim">{status}</span></div>
<p>{_text(result.prompt)}</p>
{negative}
<p class="dim">{" &middot; ".join(sampling)}</p>
<p class="dim">{" &middot; ".join(size)}</p>
{_scores(result)}</div>
</article>
"""


def _scores(result: Result) -> str:
    if result.score_error:
        return f'<p class="dim">no scores: {_text(result.score_error)}</p>\n'
    shown = "".join(f"<li>{_text(name)} {value:.2f}</li>" for name, value in result.scores.items())
    return f'<ul class="scores">{shown}</ul>\n' if shown else ""


def _score_table(results: Sequence[Result]) -> str:
    """Each entry's mean scores; nothing if there are none."""
    means = mean_scores(results)
    if not means:
        return ""
    names = list(dict.fromkeys(name for scores in means.values() for name in scores))
    rows = "".join(
        f'<tr><th scope="row">{_text(entry)}</th>'
        + "".join(f"<td>{scores[name]:.2f}</td>" if name in scores else "<td>&ndash;</td>" for name in names)
        + "</tr>\n"
        for entry, scores in means.items()
    )
    heads = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    by = ", ".join(dict.fromkeys(result.scored_by for result in results if result.scored_by))
    return f"""<figure>
<table>
<tr><th scope="col">mean scores</th>{heads}</tr>
{rows}</table>
<figcaption>by {_text(by)}</figcaption>
</figure>
"""


def _clip(result: Result) -> str:
    size = f'width="{result.width}" height="{result.height}"'
    image = f'<img src="{_text(result.gif)}" {size} loading="lazy" alt="{_text(result.prompt)}">'
    source = f'<source src="{_text(result.mp4)}" type="video/mp4">'
    return f"<video autoplay muted loop playsinline {size}>{source}{image}</video>"


def _error(result: Result) -> str:
    return f'<div class="error" style="aspect-ratio: {result.width}/{result.height}">{_text(result.error)}</div>'


def _text(value: str | None) -> str:
    return html.escape(value or "")
