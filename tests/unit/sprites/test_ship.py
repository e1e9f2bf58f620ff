"""Shipping a world: what is shipped is what was trained."""

import shutil

from animatediff.sprites import ship, shipped


def test_the_shipped_world_shipped_again_is_the_same_files(tmp_path):
    world, output = tmp_path / "world", tmp_path / "output"
    shutil.copytree(shipped.BASE, world / "base")
    (world / "finish").mkdir()
    shutil.copy(shipped.MOTION_MODULE, world / "finish" / "motion_module.safetensors")
    (world / "sparse_control").mkdir()
    shutil.copy(shipped.SPARSE_CONTROL, world / "sparse_control")
    (world / "few_step").mkdir()
    shutil.copy(shipped.FEW_STEP, world / "few_step")
    (world / "personalised").mkdir()
    for path in (shipped.CHALK_LORA, shipped.BROWN_EMBEDDING):
        shutil.copy(path, world / "personalised")
    ship.main(world, output)
    expected = {path.relative_to(shipped.FOLDER): path for path in shipped.FOLDER.rglob("*") if path.is_file()}
    found = {path.relative_to(output): path for path in output.rglob("*") if path.is_file()}
    assert found.keys() == expected.keys()
    for name, path in found.items():
        assert path.read_bytes() == expected[name].read_bytes(), name
