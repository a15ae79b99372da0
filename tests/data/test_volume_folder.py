"""Volume folders: voxels as rows in millimetres, label volumes as labels, and training on them."""

import nibabel
import numpy as np
import pytest

from pcseg.config import CropConfig, KPConvConfig, TrainConfig
from pcseg.config_file import load_config
from pcseg.datasets.feature_contract import FeatureContract
from pcseg.datasets.scene_part import open_sources
from pcseg.datasets.volume_folder import find_volumes, normalized
from pcseg.datasets.voxel_scene import VoxelScene, check_trainable
from pcseg.errors import InputError
from pcseg.train import train
from tests.data.pictures import CLASSES, LABEL_MAP, SAMPLES, data_config, write_volume


def find(root, patterns=("*",), label_map=LABEL_MAP):
    return find_volumes(root, patterns, CLASSES, label_map)


def test_a_volume_is_a_row_source(tmp_path):
    write_volume(tmp_path, "a")
    (scene,) = find(tmp_path)
    assert (scene.name, scene.num_points, scene.grid_shape) == ("a", 960, (8, 10, 12))
    row = (5 * 10 + 4) * 12 + 3
    assert scene.coords.dtype == np.float32 and scene.coords[row].tolist() == [3.0, 4.0, 10.0]
    stored = np.asarray(nibabel.load(tmp_path / "images" / "a.nii.gz").dataobj)
    assert scene.column("signal").dtype == np.float32 and scene.column("signal")[row] == stored[3, 4, 5]
    codes = np.asarray(nibabel.load(tmp_path / "labels" / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(scene.labels.reshape(8, 10, 12) == 1, codes.transpose(2, 1, 0) == 7)
    with pytest.raises(InputError, match=r"has no column 'color'; volumes have signal, signal_normalized"):
        scene.column("color")
    assert [s.name for s in open_sources(data_config(tmp_path, "volumes"), ["a"])] == ["a"]


def test_each_volume_is_brought_to_one_scale(tmp_path):
    for seed, name in enumerate("abc"):
        write_volume(tmp_path, name, seed=seed)
    scenes = find(tmp_path)
    means = [scene.column("signal").std() for scene in scenes]
    assert max(means) > 2 * min(means)
    for scene in scenes:
        values = scene.column("signal_normalized")
        assert values.dtype == np.float32 and abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.05
    contract = FeatureContract.fit(("signal_normalized", "signal"), scenes)
    assert contract.feats(scenes[0]).shape == (960, 2)
    stray = np.random.default_rng(0).normal(50, 5, 10_000).astype(np.float32)
    stray[:3] = [1e8, np.nan, -np.inf]
    values = normalized(stray)
    assert abs(values[3:].std() - 1) < 0.1 and np.isnan(values[1]) and np.isinf(values[2])
    assert (normalized(np.full(9, 7, np.float32)) == 0).all()
    assert np.isnan(normalized(np.full(3, np.nan, np.float32))).all()


def test_voxels_keep_millimetres(tmp_path):
    write_volume(tmp_path, "a")
    (scene,) = find(tmp_path)
    contract = FeatureContract.fit(("signal",), [scene])
    voxels = VoxelScene.build(scene, contract, 2.0)
    assert voxels.num_voxels == 6 * 5 * 8 and (voxels.point_counts == 4).all()


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(InputError, match="has no folder 'images'; put the volumes into"):
        find(tmp_path)
    write_volume(tmp_path, "a")
    with pytest.raises(InputError, match="no volume matches 'b'; there are a"):
        find(tmp_path, ["b"])
    with pytest.raises(InputError, match=r"labels/a\.nii\.gz: voxel \(.*\) has the class code 7, which label_map"):
        check_trainable(find(tmp_path, label_map={0: 0}), CLASSES)
    write_volume(tmp_path, "b", (12, 10, 9))
    (tmp_path / "labels" / "b.nii.gz").write_bytes((tmp_path / "labels" / "a.nii.gz").read_bytes())
    with pytest.raises(InputError, match=r"labels/b\.nii\.gz: has 8 x 10 x 12 voxels, its volume 9 x 10 x 12"):
        check_trainable(find(tmp_path, ["b"]), CLASSES)
    (tmp_path / "labels" / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"b\.nii\.gz: has no labels to train on; add labels/b\.nii\.gz"):
        check_trainable(find(tmp_path), CLASSES)
    (tmp_path / "images" / "a.nii").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.nii and a\.nii\.gz have one name"):
        find(tmp_path)
    (tmp_path / "images" / "a.nii").unlink()
    path = tmp_path / "images" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"images/a\.nii\.gz: is truncated or damaged"):
        find(tmp_path, ["a"])[0].column("signal")


def test_kpconv_trains_on_volumes(tmp_path):
    for seed, name in enumerate("ab"):
        write_volume(tmp_path, name, seed=seed)
    config = TrainConfig(
        name="toy",
        data=data_config(tmp_path, "volumes", crop=CropConfig(shape="sphere", max_voxels=300)),
        model=KPConvConfig(voxel_size=2.0, num_levels=2, width=16),
        steps=5,
    )
    train(config, tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "config.yaml").exists()


def test_the_shipped_volumes_have_labels_of_known_codes():
    names = ("background", "anterior", "posterior")
    scenes = find_volumes(SAMPLES / "msd_hippocampus", ["*"], names, {0: 0, 1: 1, 2: 2})
    assert len(scenes) == 60 and {scene.header.spacing for scene in scenes} == {(1.0, 1.0, 1.0)}
    for scene in scenes[::6]:
        assert set(np.unique(scene.labels)) == {0, 1, 2}
        assert np.isfinite(scene.column("signal_normalized")).all()


def test_the_run_on_them_names_every_volume_once():
    data = load_config(SAMPLES.parent / "configs" / "hippocampus" / "kpconv.py").data
    there = sorted(path.name.removesuffix(".nii.gz") for path in (SAMPLES / "msd_hippocampus" / "images").iterdir())
    assert list(data.val_scenes) == there[4::5]
    assert sorted(data.train_scenes + data.val_scenes) == there
