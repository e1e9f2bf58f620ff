"""The dataset card: what a person who finds the folder wants to know, in text and as histograms."""

import numpy as np

from animatediff import storage
from animatediff.data.ingest.provenance import read_not_taken
from animatediff.data.inspection.show import QUANTILES, measures, read_scores
from animatediff.data.manifest import Manifest
from animatediff.data.sources.collections.not_taken import describe_counts

CARD_FILE = "README.md"
HISTOGRAMS_FILE = "histograms.png"


def write_card(dataset_uri: str, manifest: Manifest, source_uri: str, base: str) -> None:
    """Write `README.md` and the histograms that it shows into the dataset's folder.

    Raises:
        UserError: a shard cannot be read, or the storage cannot be written to.
    """
    from animatediff.data.inspection.histograms import histograms  # matplotlib, which those who want a name need not

    scores = list(measures(read_scores(dataset_uri, manifest)))
    if scores:
        storage.write_bytes(storage.join(dataset_uri, HISTOGRAMS_FILE), histograms(scores))
    card = render_card(manifest, scores, source_uri, base, describe_counts(read_not_taken(dataset_uri)))
    storage.write_bytes(storage.join(dataset_uri, CARD_FILE), card.encode())


def render_card(
    manifest: Manifest, scores: list[tuple[str, np.ndarray]], source_uri: str, base: str, not_taken: str = ""
) -> str:
    """Return the card's Markdown.

    Args:
        manifest: of the dataset.
        scores: names and values, (n,) each.
        source_uri: where the videos came from, without secrets.
        base: whose VAE encoded them.
        not_taken: the source's files that are no videos, counted in words.
    """
    buckets = ", ".join(sorted({shard.bucket for shard in manifest.shards})) or "none"
    reasons = [[name, str(number)] for name, number in manifest.quarantined.items()] or [["none", "0"]]
    size_mb = sum(shard.num_bytes for shard in manifest.shards) / 1e6
    return f"""# Latent clips

| | |
|---|---|
| source | {source_uri} |
| VAE of | {base} |
| clips | {manifest.num_clips} of {manifest.num_videos} videos |
| frames x height x width | {buckets} |
| shards | {len(manifest.shards)}, {size_mb:.1f} MB |
| version | {manifest.digest()} |
| encoder fingerprint | {manifest.encoder_fp} |

`latent` is the VAE's posterior mean, float16 (f c h w), not scaled: multiply by {manifest.scaling_factor} to train.
`manifest.json` lists the shards with their sha256; `config.yaml` is the run's config. `animatediff show` tells more,
`animatediff verify` reads everything and counts it again.

## Scores
{_score_table(scores)}
## Quarantine

{_table(["reason", "videos"], reasons)}

The rows, with stage and detail, are in `quarantine.parquet`.
Files of the source that are no videos: {not_taken or "none"}.
"""


def _score_table(scores: list[tuple[str, np.ndarray]]) -> str:
    if not scores:
        return "\nThere is no clip.\n"
    rows = [[name, *(f"{value:.4g}" for value in np.quantile(values, QUANTILES))] for name, values in scores]
    heads = ["score", *(f"p{100 * quantile:g}" for quantile in QUANTILES)]
    return f"\n{_table(heads, rows)}\n\n![histograms of the scores]({HISTOGRAMS_FILE})\n"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
