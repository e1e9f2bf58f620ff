"""The `animatediff` commands on datasets and collections of shots: what one holds, and whether it is whole."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from animatediff import storage
from animatediff.data.curation.manifest import ShotManifest, find_manifest
from animatediff.data.manifest import Manifest, read_manifest
from animatediff.errors import UsageError, UserError
from animatediff.yaml_files import read_yaml


def show(
    dataset: Annotated[str, tyro.conf.Positional],
    *,
    clip: str | None = None,
    output: Path | None = None,
    num_clips: int = 8,
    base: str | None = None,
) -> int:
    """Tell what a sealed dataset holds, in text and pictures; of a curated collection of shots, in text.

    Args:
        dataset: its folder, local or at a URI.
        clip: id of a clip to follow back to its source, instead.
        output: folder for pictures: `histograms.png`, `preview.png` and an MP4 and a GIF of each shown clip.
        num_clips: clips to show.
        base: whose VAE decodes them; default: the base that the dataset's config names.
    """
    from animatediff.data.inspection.show import lineage, summary

    if (shots := find_manifest(dataset)) is not None:
        return _show_shots(dataset, shots, clip, output)
    manifest = read_manifest(dataset)
    if clip is not None:
        found = lineage(dataset, manifest, clip)
        width = max(map(len, found))
        sys.stdout.write("".join(f"{name:<{width}}  {value}\n" for name, value in found.items()))
        return 0
    sys.stdout.write(summary(dataset, manifest) + "\n")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        _draw(dataset, manifest, output, num_clips, base or _base_of(dataset))
    return 0


def verify(dataset: Annotated[str, tyro.conf.Positional]) -> int:
    """Read a sealed dataset or collection whole: bytes, hashes, counts, and every planned video in one place.

    Args:
        dataset: its folder, local or at a URI.

    Returns:
        1 if something is wrong, each with a line; 0 otherwise.
    """
    from animatediff.data.inspection.verify import verify as check

    if (shots := find_manifest(dataset)) is not None:
        return _verify_shots(dataset, shots)
    report = check(dataset)
    sys.stdout.write(
        f"{report.num_planned} planned videos: {report.num_videos} in {report.num_shards} shards with "
        f"{report.num_clips} clips; {report.num_quarantined} quarantine rows, those without a unit included\n"
    )
    sys.stdout.write("".join(f"wrong: {problem}\n" for problem in report.problems) or "everything is there, once\n")
    return int(bool(report.problems))


def _show_shots(collection: str, manifest: ShotManifest, clip: str | None, output: Path | None) -> int:
    from animatediff.data.curation.inspection import summary
    from animatediff.data.curation.page import INDEX

    if clip is not None or output is not None:
        raise UsageError(f"{collection} holds shots, whose pictures are in its {INDEX}: leave out --clip and --output")
    sys.stdout.write(summary(collection, manifest) + "\n")
    return 0


def _verify_shots(collection: str, manifest: ShotManifest) -> int:
    from animatediff.data.curation.inspection import verify as check

    report = check(collection, manifest)
    sys.stdout.write(
        f"{report.num_planned} planned videos: {report.num_videos} in {len(manifest.shards)} shards with "
        f"{report.num_shots} shots, {report.num_selected} of them selected; {report.num_quarantined} quarantine rows\n"
    )
    sys.stdout.write("".join(f"wrong: {problem}\n" for problem in report.problems) or "everything is there, once\n")
    return int(bool(report.problems))


def _base_of(dataset: str) -> str:
    uri = storage.join(dataset, "config.yaml")
    base = read_yaml(uri).get("base")
    if not isinstance(base, str):
        raise UserError(f"{uri} names no base: say whose VAE decodes the clips with --base")
    return base


def _draw(dataset: str, manifest: Manifest, output: Path, num_clips: int, base: str) -> None:
    # Torch, diffusers and matplotlib take seconds that the text does not need.
    from animatediff.data.inspection.histograms import histograms
    from animatediff.data.inspection.show import measures, read_scores
    from animatediff.rendering import preview
    from animatediff.rendering.outputs import encode_gif, encode_mp4
    from animatediff.weights.base import load_vae

    (output / "histograms.png").write_bytes(histograms(list(measures(read_scores(dataset, manifest)))))
    vae = load_vae(base)
    preview.check_vae(vae, manifest)
    clips = []
    for i, (caption, frames, fps) in enumerate(preview.decode(dataset, manifest, vae, num_clips)):
        (output / f"clip-{i:02d}.mp4").write_bytes(encode_mp4(frames, fps=fps))
        (output / f"clip-{i:02d}.gif").write_bytes(encode_gif(frames, fps=fps))
        clips.append((caption, frames))
    if clips:
        preview.contact_sheet(clips).save(output / "preview.png")
    sys.stdout.write(f"pictures of {len(clips)} clips are in {output}\n")
