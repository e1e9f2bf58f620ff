"""What the preflight looks at of a job's config."""

import yaml

from pipelines.settings import AnimateConfig
from pipelines.stages.preflight.needs import needs_of


def test_a_catalogs_networks_and_pictures_are_looked_at_wherever_they_are_named(tmp_path):
    control = {"net": "s3://b/net.safetensors", "pictures": ["s3://b/1.png", "s3://b/2.png"], "frames": [0, -1]}
    image = {"adapter": "models:/adapter/1", "pictures": "s3://b/3.png", "mask": "s3://b/mask.png"}
    prompts = [{"prompt": "x", "images": [image], "image_encoder": "s3://b/encoder"}, "y"]
    content = {
        **{"base": "owner/name", "motion_module": "s3://b/motion.safetensors", "controls": [control]},
        "entries": [{"name": "a", "prompts": prompts}, {"name": "b", "prompts": ["x"], "init_video": "s3://b/v.mp4"}],
    }
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    config = AnimateConfig(catalog_uri=str(tmp_path / "catalog.yaml"), output_uri=str(tmp_path / "out"))
    names = ("motion.safetensors", "net.safetensors", "1.png", "2.png", "3.png", "mask.png", "encoder", "v.mp4")
    assert set(needs_of(config).files) == {f"s3://b/{name}" for name in names}


def test_each_base_of_a_catalog_is_opened(tmp_path):
    entries = [{"name": name, "base": base} for name, base in (("a", None), ("b", "owner/xl"), ("c", "owner/name"))]
    content = {"base": "owner/name", "motion_module": "s3://b/m.safetensors", "prompts": ["x"], "entries": entries}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    config = AnimateConfig(catalog_uri=str(tmp_path / "catalog.yaml"), output_uri=str(tmp_path / "out"))
    assert needs_of(config).bases == ("owner/name", "owner/xl")
