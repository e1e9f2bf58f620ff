"""The world's SparseCtrl encoder is trained from drawn clips, goes on after a kill, and is judged by what they show."""

import numpy as np

from animatediff.data.loading.loader import latent_shapes
from animatediff.data.manifest import read_manifest
from animatediff.sprites import shipped, sparse_control_evaluation, train_sparse_control
from animatediff.sprites.clip_evaluation import clip_scenes
from animatediff.weights.controls import sparse_control_file


def test_it_trains_and_goes_on_after_a_kill(tmp_path):
    train_sparse_control.main(tmp_path / "run", num_clips=4, num_steps=1)
    manifest = read_manifest(str(tmp_path / "run" / "dataset"))
    assert manifest.num_clips == 4
    assert latent_shapes(str(tmp_path / "run" / "dataset"), manifest) == [(16, 8, 8, 8)]
    file = sparse_control_file.open_file(str(tmp_path / "run" / "sparse_control.safetensors"))
    assert file.variant == "rgb"
    # What a kill leaves: all but the result.
    (tmp_path / "run" / "sparse_control.safetensors").unlink()
    train_sparse_control.main(tmp_path / "run", num_clips=4, num_steps=1)
    assert (tmp_path / "run" / "sparse_control.safetensors").is_file()


def test_the_shipped_encoder_keeps_a_given_picture():
    files = (shipped.BASE, shipped.MOTION_MODULE, shipped.SPARSE_CONTROL)
    renderer = sparse_control_evaluation.Renderer(*map(str, files))
    scenes = clip_scenes(1)
    found = sparse_control_evaluation.figures(renderer.render(scenes, (0,), first_seed=0), scenes, (0,))
    assert (found.kept, found.follows) == (1, 1)
    assert found.psnr > 25


def test_real_renders_keep_their_own_pictures():
    scenes = clip_scenes(9)
    real = np.stack([sparse_control_evaluation.real_clip(scene) for scene in scenes])
    found = sparse_control_evaluation.figures(real, scenes, (0, -1))
    assert (found.subject, found.colour, found.place, found.kept, found.follows) == (1, 1, 1, 1, 1)
    assert found.psnr > 70
    backwards = sparse_control_evaluation.figures(real[:, ::-1], scenes, (0, -1))
    assert backwards.place < 0.7
    assert backwards.psnr < 40
    sheet = sparse_control_evaluation.contact_sheet({"real": real, "again": real}, num_clips=2)
    assert sheet.size == (2 * 6 * 64 + 8, 2 * 64)
