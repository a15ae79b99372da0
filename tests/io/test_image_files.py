"""Pictures and masks: what is read, turned and refused."""

import io

import numpy as np
import pytest
from PIL import Image

from pcseg.errors import InputError
from pcseg.io import images
from pcseg.io.images import read_image, read_mask, read_size, write_mask

RNG = np.random.default_rng(0)


def colors(height: int = 5, width: int = 7) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_colours_are_read_as_they_are(tmp_path, suffix):
    values = colors()
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8 and read_size(tmp_path / f"a.{suffix}") == (5, 7)
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, suffix, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # a bright corner at the top left
    turns = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(turns[orientation](upright))).save(path, exif=exif, quality=95)
    read = read_image(path)
    assert read.shape == (16, 24, 3) and read_size(path) == (16, 24)
    assert (np.abs(read.astype(int) - upright) < 60).all()


def test_grey_of_8_and_16_bits(tmp_path):
    eight, sixteen = colors()[..., 0], RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(eight).save(tmp_path / "8.png")
    for suffix in ("png", "tif"):
        Image.fromarray(sixteen).save(tmp_path / f"16.{suffix}")
    read = read_image(tmp_path / "8.png")
    assert read.dtype == np.uint8 and read.shape == (5, 7, 3)
    np.testing.assert_array_equal(read, np.repeat(eight[..., None], 3, 2))
    for suffix in ("png", "tif"):
        read = read_image(tmp_path / f"16.{suffix}")
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read[..., 1], sixteen)
    assert read_image(tmp_path / "16.png", keep_grey=True).shape == (5, 7, 1)


def test_transparency_is_laid_over_black(tmp_path):
    rgba = np.dstack([colors(), np.full((5, 7), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), rgba[..., :3])
    rgba[2, 3, 3], rgba[0, 0] = 0, (200, 100, 50, 128)
    Image.fromarray(rgba).save(tmp_path / "holes.png")
    read = read_image(tmp_path / "holes.png")
    assert read[2, 3].tolist() == [0, 0, 0] and read[0, 0].tolist() == [100, 50, 25]
    np.testing.assert_array_equal(read[1], rgba[1, :, :3])


def test_palettes_and_print_colours_become_red_green_blue(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png")[0, 1].tolist() == [10, 20, 30]
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg")[0, 0, 0] > 200


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.02])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_truncated_pictures_are_refused_in_one_line(tmp_path, suffix, kept):
    buffer = io.BytesIO()
    Image.fromarray(colors(64, 64)).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(kept * buffer.tell())])
    with pytest.raises(InputError) as refusal:
        read_image(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_text("not a picture at all")
    (tmp_path / "empty.png").touch()
    for name in ("a.jpg", "empty.png"):
        for read in (read_image, read_size, read_mask):
            with pytest.raises(InputError, match=r"is no picture that can be read; save it again from its source"):
                read(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "b.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match=r"f\.tif: holds values of kind 'F'"):
        read_image(tmp_path / "f.tif")
    pages = [Image.fromarray(colors()) for _ in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"holds 2 pages or frames; save each"):
        read_image(tmp_path / "pages.tif")


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch, recwarn):
    for name, edge in (("warns", 9_600), ("errors", 20_000)):
        Image.new("1", (edge, edge)).save(tmp_path / f"{name}.png")
        for read in (read_image, read_size, read_mask):
            with pytest.raises(InputError, match=rf"{name}\.png: has more than 89 million pixels; cut it"):
                read(tmp_path / f"{name}.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 30)
    Image.fromarray(colors()).save(tmp_path / "ours.png")
    with pytest.raises(InputError, match="million pixels"):
        read_image(tmp_path / "ours.png")
    assert not recwarn.list


# Masks


@pytest.mark.parametrize("highest", [3, 255, 256, 40_000])
def test_a_mask_comes_back(tmp_path, highest):
    mask = RNG.integers(0, highest, (6, 9))
    mask[0, 0] = highest
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)
    assert read_size(tmp_path / "a.png") == (6, 9) and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_mask_has_a_palette_to_look_at_and_void_is_255(tmp_path):
    write_mask(tmp_path / "a.png", np.array([[0, 1, -1]]), [(9, 8, 7), (6, 5, 4)])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P" and picture.convert("RGB").getpixel((1, 0)) == (6, 5, 4)
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 255]]
    for wrong in (np.array([[-2]]), np.array([[70_000]]), np.array([[-1, 255]]), np.zeros(3, int)):
        with pytest.raises(InputError, match=r"b\.png"):
            write_mask(tmp_path / "b.png", wrong)


@pytest.mark.parametrize("mode", ["L", "1", "I;16", "RGB", "RGBA", "P"])
def test_codes_are_grey_values_or_palette_indices(tmp_path, mode):
    codes = np.array([[0, 1], [1, 0]], np.uint8)
    if mode == "P":
        picture = Image.fromarray(codes).convert("L")
        picture.putpalette([200, 10, 10, 10, 200, 10])
    elif mode == "I;16":
        picture = Image.fromarray(codes.astype(np.uint16))
    elif mode == "1":
        picture = Image.fromarray(codes * np.uint8(255)).convert("1")
    else:
        picture = Image.fromarray(codes).convert(mode)
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), codes)


def test_grey_of_few_bits_is_not_spread(tmp_path):
    """Optimisers store few codes in 2 or 4 bits."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for bits, packed, codes in ((2, b"\x00\x1b", [[0, 1, 2, 3]]), (4, b"\x00\x0f\x37", [[0, 15, 3, 7]])):
        header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
        (tmp_path / f"{bits}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        assert read_mask(tmp_path / f"{bits}.png").tolist() == codes


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_colours_stand_for_codes_and_an_unknown_one_is_named(tmp_path, mode):
    table = {(60, 16, 152): 0, (132, 41, 246): 1, (0, 0, 0): 255}
    values = np.array([[(60, 16, 152), (0, 0, 0)], [(132, 41, 246), (60, 16, 152)]], np.uint8)
    picture = Image.fromarray(values)
    picture = picture.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", table).tolist() == [[0, 255], [1, 0]]
    del table[132, 41, 246]
    message = r"a\.png: pixel \(0, 1\) has the colour \(132, 41, 246\), which stands for no class; add it to classes"
    with pytest.raises(InputError, match=message):
        read_mask(tmp_path / "a.png", table)


def test_masks_that_say_nothing_are_refused(tmp_path):
    Image.fromarray(colors()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"is a mask of colours; say in classes\.json what they stand for"):
        read_mask(tmp_path / "a.png")
    Image.fromarray(colors()).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="JPEG blurs class codes"):
        read_mask(tmp_path / "a.jpg")
    Image.new("L", (2, 2), 3).save(tmp_path / "g.png")
    with pytest.raises(InputError, match=r"pixel \(0, 0\) has the colour \(3, 3, 3\)"):
        read_mask(tmp_path / "g.png", {(0, 0, 0): 0})
