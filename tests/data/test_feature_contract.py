"""The feature contract: order, scale, what is missing, and the way into a checkpoint and back."""

import json

import numpy as np
import pytest
import torch

from pcseg.datasets.feature_contract import FeatureContract
from pcseg.errors import InputError
from tests.data.scenes import town, write_scene

NAMES = ("height_above_ground", "intensity", "return_ratio", "color", "ones", "normals")


def test_channels_stand_in_order_with_mean_0_and_deviation_1(tmp_path):
    scene = town(tmp_path / "a")
    contract = FeatureContract.fit(NAMES, [scene])
    feats = contract.feats(scene)
    assert feats.dtype == np.float32 and feats.shape == (3000, 10) and contract.num_channels == 10
    assert contract.channel_names[3:7] == ("color_red", "color_green", "color_blue", "ones")
    assert contract.slices["color"] == slice(3, 6) and contract.slices["normals"] == slice(7, 10)
    varied = [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(feats[:, varied].mean(0), 0, atol=0.01)
    np.testing.assert_allclose(feats[:, varied].std(0), 1, atol=0.01)
    assert (feats[:, 6] == 1).all() and (np.abs(feats[:, 7:]) < 1e-6).all()  # normals are constant here
    intensity = np.log1p(scene.column("intensity").astype(np.float64))
    assert np.corrcoef(intensity, feats[:, 1])[0, 1] > 0.999


def test_rows_read_the_same_values(tmp_path):
    scene = town(tmp_path / "a")
    contract = FeatureContract.fit(NAMES, [scene])
    rows = np.array([5, 2999, 5, 0])
    np.testing.assert_array_equal(contract.feats(scene, rows), contract.feats(scene)[rows])
    np.testing.assert_array_equal(contract.feats(scene, slice(10, 20)), contract.feats(scene)[10:20])


def test_it_survives_json_and_refuses_what_is_no_contract(tmp_path):
    contract = FeatureContract.fit(NAMES, [town(tmp_path / "a")])
    values = json.loads(json.dumps(contract.model_dump(mode="json")))
    assert FeatureContract.from_values(values, where="x") == contract
    values["features"][0]["channels"][0]["std"] = 0
    with pytest.raises(InputError, match=r"run/best: feature contract: features\.0\.channels\.0\.std"):
        FeatureContract.from_values(values, where="run/best")
    with pytest.raises(InputError, match="version"):
        FeatureContract.from_values({"version": 2, "features": []}, where="x")
    with pytest.raises(ValueError, match="named twice"):
        FeatureContract.fit(("ones", "ones"), [town(tmp_path / "a")])


def test_values_come_back_from_what_a_network_reads(tmp_path):
    scene = write_scene(tmp_path / "a", np.zeros((300, 3)), color=np.arange(900, dtype=np.uint8).reshape(300, 3))
    contract = FeatureContract.fit(("color",), [scene])
    (feature,) = contract.features
    feats = torch.from_numpy(contract.feats(scene))
    color = torch.from_numpy(np.array(scene.column("color"))) / 255
    clipped = [torch.tensor([getattr(c, side) for c in feature.channels]) for side in ("low", "high")]
    torch.testing.assert_close(feature.restored(feats), color.clamp(*clipped))
    torch.testing.assert_close(feature.scaled(feature.restored(feats)), feats)


def test_a_missing_column_is_named_with_what_there_is(tmp_path):
    contract = FeatureContract.fit(("color", "return_ratio"), [town(tmp_path / "a")])
    assert contract.columns == ("color", "return_number", "number_of_returns")
    bare = write_scene(tmp_path / "b", np.zeros((4, 3)), amplitude=np.zeros(4, np.float32))
    for refuse in (contract.check, contract.feats):
        with pytest.raises(InputError, match=r"/b: has no column 'color'; it has amplitude$"):
            refuse(bare)
    with pytest.raises(InputError, match="has no column 'color'; it has only coordinates"):
        contract.check(write_scene(tmp_path / "c", np.zeros((4, 3))))
    with pytest.raises(InputError, match="no column 'color'"):
        FeatureContract.fit(("color",), [bare])


def test_colour_is_on_one_scale_whatever_its_depth(tmp_path):
    eight = np.random.default_rng(0).integers(0, 256, (500, 3)).astype(np.uint8)
    scenes = [
        write_scene(tmp_path / "8", np.zeros((500, 3)), color=eight),
        write_scene(tmp_path / "16", np.zeros((500, 3)), color=eight.astype(np.uint16) * 257),
        write_scene(tmp_path / "float", np.zeros((500, 3)), color=(eight / 255).astype(np.float32)),
    ]
    contract = FeatureContract.fit(("color",), scenes[:1])
    for scene in scenes[1:]:
        np.testing.assert_allclose(contract.feats(scene), contract.feats(scenes[0]), atol=1e-5)


def test_coordinates_only_files_get_ones_and_strays_do_not_set_the_scale(tmp_path):
    bare = write_scene(tmp_path / "bare", np.zeros((5, 3)))
    contract = FeatureContract.fit((), [bare])
    assert contract.names == ("ones",) and (contract.feats(bare) == 1).all()
    values = np.random.default_rng(0).normal(5, 2, 10_000).astype(np.float32)
    values[:3] = [1e9, np.nan, np.inf]
    scene = write_scene(tmp_path / "stray", np.zeros((10_000, 3)), amplitude=values)
    contract = FeatureContract.fit(("amplitude",), [scene])
    feats = contract.feats(scene)
    assert np.isfinite(feats).all() and abs(feats[3:].std() - 1) < 0.02 and feats[0] < 5 and feats[1] == 0
    nothing = write_scene(tmp_path / "nan", np.zeros((5, 3)), amplitude=np.full(5, np.nan, np.float32))
    with pytest.raises(InputError, match="'amplitude' holds no finite value"):
        FeatureContract.fit(("amplitude",), [nothing])


def test_a_column_of_another_width_is_refused(tmp_path):
    wide = write_scene(tmp_path / "wide", np.zeros((5, 3)), code=np.ones((5, 2), np.float32))
    narrow = write_scene(tmp_path / "narrow", np.zeros((5, 3)), code=np.ones(5, np.float32))
    contract = FeatureContract.fit(("code",), [wide])
    assert contract.channel_names == ("code_0", "code_1")
    with pytest.raises(InputError, match=r"narrow: column 'code' has 1 values a point, the network was trained with 2"):
        contract.feats(narrow)
    with pytest.raises(InputError, match="other scenes 2"):
        FeatureContract.fit(("code",), [wide, narrow])
    with pytest.raises(InputError, match="no training scenes"):
        FeatureContract.fit(("code",), [])
