"""Pictures and volumes in, segmented ones out; what is of the wrong kind is refused in one line."""

import nibabel
import numpy as np
import pytest
from PIL import Image

import pcseg
from pcseg.io.images import read_image, read_mask
from pcseg.io.palette import class_colors
from pcseg.predict import main
from tests.train.toy_images import CLASSES, CODES, toy_image


@pytest.fixture
def picture(tmp_path):
    """A picture to segment, and its true codes."""
    image, codes = toy_image(5, (30, 41))
    Image.fromarray(image).save(tmp_path / "street.tif")
    return tmp_path / "street.tif", image, codes


def test_a_picture_becomes_mask_confidence_and_overlay(pixel_run, picture, tmp_path, command):
    path, image, codes = picture
    code, out, err = command(main, [pixel_run, path, "-o", tmp_path / "out"])
    assert code == 0, err
    assert "1,230 pixels: grass" in out and str(tmp_path / "out/street_overlay.png") in out
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["street.png", "street_confidence.png", "street_overlay.png"]
    mask = read_mask(tmp_path / "out/street.png")
    assert mask.shape == (30, 41) and set(np.unique(mask)) == set(CODES), "codes of the source"
    assert (mask == codes)[codes != 9].mean() > 0.85
    probs = pcseg.load(pixel_run).predict_image(image)
    assert np.array_equal(np.asarray(CODES)[probs.argmax(2)], mask)
    confidence = np.asarray(Image.open(tmp_path / "out/street_confidence.png"))
    assert confidence.dtype == np.uint8
    np.testing.assert_allclose(confidence, probs.max(2) * 255, atol=0.6)
    colors = class_colors(CLASSES)
    shown = np.asarray(Image.open(tmp_path / "out/street.png").convert("RGB"))
    assert np.array_equal(shown, colors[probs.argmax(2)]), "the palette shows the colours of the classes"
    overlay = read_image(tmp_path / "out/street_overlay.png").astype(int)
    assert np.abs(overlay - (image.astype(int) + colors[probs.argmax(2)]) / 2).max() <= 1


def test_grey_of_16_bits_and_no_pictures(pixel_run, tmp_path, command):
    Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16)).save(tmp_path / "deep.png")
    code, _, err = command(main, [pixel_run, tmp_path / "deep.png", "-o", tmp_path / "new.png", "--votes", "2"])
    assert code == 0, err
    assert read_image(tmp_path / "new_overlay.png").shape == (20, 30, 3)
    code, _, err = command(main, [pixel_run, tmp_path / "deep.png", "-o", tmp_path / "out", "--no-pictures"])
    assert code == 0, err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["deep.png", "deep_confidence.png"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_volume_keeps_its_frame(volume_run, volumes, tmp_path, command, suffix):
    source = nibabel.load(volumes / "images/val_a.nii.gz")
    nibabel.save(source, tmp_path / f"head{suffix}")
    code, out, err = command(main, [volume_run, tmp_path / f"head{suffix}", "-o", tmp_path / "out"])
    assert code == 0, err
    assert "2,880 voxels: grass" in out
    labels = nibabel.load(tmp_path / f"out/head{suffix}")
    confidence = nibabel.load(tmp_path / f"out/head_confidence{suffix}")
    for volume in (labels, confidence):
        assert volume.shape == source.shape
        np.testing.assert_allclose(volume.affine, source.affine)
    truth = np.asarray(nibabel.load(volumes / "labels/val_a.nii.gz").dataobj)
    found = np.asarray(labels.dataobj)
    assert found.dtype == np.uint8 and (found == truth).mean() > 0.9
    values = np.asarray(confidence.dataobj)
    assert values.dtype == np.float32 and 0.5 <= values.min() <= values.max() <= 1.0


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("pixel_run", ["scan.las", "-o", "out"], "scan.las: is no image, and the network was trained on images"),
        ("pixel_run", ["head.nii", "-o", "out"], "head.nii: is no image"),
        ("volume_run", ["a.png", "-o", "out"], "a.png: is no volume, and the network was trained on volumes"),
        ("volume_run", ["scan.las", "-o", "out"], "scan.las: is no volume"),
        ("pixel_run", ["a.png", "-o", "."], "a.png: would overwrite the image itself"),
        ("pixel_run", ["a.png", "-o", "b.jpg"], "b.jpg: a.png can only be written as PNG"),
        ("pixel_run", ["a.png", "a.jpg", "-o", "out"], "a.jpg: its results would overwrite those of a.png"),
        ("pixel_run", ["a.png", "b.png", "-o", "out.png"], "several images need a folder"),
        ("pixel_run", ["text.png", "-o", "out"], "text.png: is no picture"),
        ("pixel_run", ["missing.png", "-o", "out"], "missing.png: no such file"),
        ("volume_run", ["head.nii", "-o", "out.png"], "can only be written as its own kind"),
    ],
)
def test_bad_input_is_one_line(request, tmp_path, command, monkeypatch, run, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "a.jpg"):
        Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(name)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "scan.las").write_text("")
    (tmp_path / "head.nii").write_text("")
    code, out, err = command(main, [request.getfixturevalue(run), *arguments])
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert not list(tmp_path.glob("out/*"))


def test_a_network_of_scans_refuses_pictures(scenes, tmp_path, command):
    from pcseg.train import train
    from tests.train.toy import toy_config

    train(toy_config(scenes, steps=2), tmp_path / "run")
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "a.png")
    code, _, err = command(main, [tmp_path / "run", tmp_path / "a.png", "-o", tmp_path / "out"])
    assert code == 2 and err.count("\n") == 1
    assert err.endswith("a.png: is no scan, and the network was trained on scans\n")


def test_bad_pictures_do_not_stop_the_good_ones(pixel_run, picture, tmp_path, command):
    (tmp_path / "text.png").write_text("hello")
    code, out, err = command(main, [pixel_run, tmp_path / "text.png", picture[0], "-o", tmp_path / "out"])
    assert code == 2 and "street.tif: 1,230 pixels" in out
    assert err.splitlines()[1].startswith("1 of 2 images done; not done: ")
