"""The dataset card: what a person who finds the folder wants to know."""

from animatediff import storage
from animatediff.data.manifest import Manifest


def write_card(dataset_uri: str, manifest: Manifest, source_uri: str, base: str) -> None:
    """Write `README.md` into the dataset's folder."""
    storage.write_bytes(storage.join(dataset_uri, "README.md"), render_card(manifest, source_uri, base).encode())


def render_card(manifest: Manifest, source_uri: str, base: str) -> str:
    """The card's Markdown."""
    buckets = ", ".join(sorted({shard.bucket for shard in manifest.shards})) or "none"
    reasons = "\n".join(f"| {reason} | {number} |" for reason, number in manifest.quarantined.items())
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
`manifest.json` lists the shards with their sha256; `config.yaml` is the run's config.

## Quarantine

| reason | videos |
|---|---|
{reasons or "| none | 0 |"}

The rows, with stage and detail, are in `quarantine.parquet`.
"""
