"""The manifest: what it says of the latents, and manifests of versions before."""

from animatediff import storage
from animatediff.data.manifest import FILE_NAME, Manifest, read_manifest
from animatediff.storage import checked_json
from tests.support_data import make_dataset

LATER = ("latent_channels", "latent_factor")


def test_it_says_what_shape_the_latents_have(tmp_path):
    make_dataset(str(tmp_path))
    manifest = read_manifest(str(tmp_path))
    assert (manifest.latent_channels, manifest.latent_factor) == (4, 8)


def test_one_that_does_not_is_read_and_is_the_same_version(tmp_path):
    """Of a dataset that was sealed before the fields were there."""
    manifest, _ = make_dataset(str(tmp_path))
    fields = {name: value for name, value in manifest.model_dump(mode="json").items() if name not in LATER}
    storage.write_bytes(str(tmp_path / FILE_NAME), checked_json.dump(fields, indent=2))
    old = read_manifest(str(tmp_path))
    assert old == Manifest.model_validate(fields)
    assert (old.latent_channels, old.latent_factor) == (None, None)
    assert old.digest() == manifest.digest()
    assert list(old.guess_old_digests()) == list(manifest.guess_old_digests())
