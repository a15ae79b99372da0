"""LabelMe and CVAT files to masks: what is filled, what lies on top, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import annotations
from pcseg.datasets.image_folder import find_images
from pcseg.errors import InputError
from pcseg.io.annotations import ImageShapes, Shape, draw_shapes, read_annotations
from pcseg.io.images import read_mask

SIZE = (20, 30)


def pictures(root: Path, *names: str, size: tuple[int, int] = SIZE) -> Path:
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "images" / name)
    return root


def labelme(path: Path, *shapes: tuple, image: str = "a.png", **change) -> Path:
    entries = [{"label": label, "shape_type": kind, "points": points, "flags": {}} for label, kind, points in shapes]
    table = {"version": "5.4.1", "shapes": entries, "imagePath": image, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    path.write_text(json.dumps(table | {"imageData": None, "flags": {}} | change))
    return path


def cvat(path: Path, *images: str) -> Path:
    text = "<annotations><version>1.1</version><meta><task><name>t</name></task></meta>"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}{"".join(images)}</annotations>\n')
    return path


def cvat_image(name: str, *shapes: str) -> str:
    return f'<image id="0" name="{name}" width="{SIZE[1]}" height="{SIZE[0]}">{"".join(shapes)}</image>'


def run(files, root: Path, **change) -> list[Path]:
    values = {"label_map": ("road=0", "car=1", "sky=ignore")} | change
    return annotations.convert(annotations.Options(annotations=tuple(files), images=root, **values))


def inside(points: np.ndarray) -> np.ndarray:  # (H, W) bool
    """Pixel centres in a polygon, by the winding of its edges (matplotlib's way)."""
    from matplotlib.path import Path as Outline

    y, x = np.indices(SIZE) + 0.5
    return Outline(points).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(SIZE)


def test_polygons_take_the_pixels_whose_centre_they_hold(tmp_path):
    star = [[3.2, 2.1], [27.7, 5.3], [11.4, 9.9], [22.3, 18.6], [4.1, 15.2]]
    root = pictures(tmp_path / "out", "a.png")
    file = labelme(tmp_path / "a.json", ("car", "polygon", star))
    (target,) = run([file], root)
    assert target == root / "masks" / "a.png"
    mask = read_mask(target)
    expected = inside(np.array(star))
    assert expected.sum() > 100 and np.array_equal(mask == 1, expected) and (mask[~expected] == 255).all()


def test_rectangles_and_circles(tmp_path):
    root = pictures(tmp_path / "out", "a.png")
    shapes = ("road", "rectangle", [[2, 3], [10, 7]]), ("car", "circle", [[20, 10], [20, 15]])
    mask = read_mask(run([labelme(tmp_path / "a.json", *shapes)], root)[0])
    y, x = np.indices(SIZE) + 0.5
    assert np.array_equal(mask == 0, (x > 2) & (x < 10) & (y > 3) & (y < 7))
    distance = np.hypot(x - 20, y - 10)
    assert (mask[distance < 4.95] == 1).all() and not (mask[distance > 5.0] == 1).any()


def test_points_and_lines_lie_on_top(tmp_path):
    root = pictures(tmp_path / "out", "a.png")
    shapes = (
        ("car", "point", [[5.9, 4.2]]),
        ("sky", "linestrip", [[20.5, 2.5], [20.5, 9.5]]),
        ("road", "rectangle", [[0, 0], [30, 20]]),
    )
    mask = read_mask(run([labelme(tmp_path / "a.json", *shapes)], root)[0])
    expected = np.zeros(SIZE, int)
    expected[4, 5] = 1
    expected[2:10, 20] = 255
    assert np.array_equal(mask, expected)
    mask = read_mask(run([tmp_path / "a.json"], root, radius=2.0, overwrite=True)[0])
    y, x = np.indices(SIZE)
    assert np.array_equal(mask == 1, (y - 4) ** 2 + (x - 5) ** 2 <= 4)
    near = np.hypot(np.maximum(np.maximum(2 - y, y - 9), 0), x - 20) <= 2
    assert np.array_equal(mask == 255, near)


def test_points_at_the_border(tmp_path):
    shapes = Shape("points", "car", np.array([[0.0, 0.0], [30.0, 20.0]]))
    mask = draw_shapes(ImageShapes("a.png", SIZE, (shapes,), "here"), {"car": 1}, rest=9, radius=1)
    assert np.argwhere(mask == 1).tolist() == [[0, 0], [0, 1], [1, 0], [18, 29], [19, 28], [19, 29]]
    outside = Shape("points", "car", np.array([[30.5, 3.0]]))
    with pytest.raises(InputError, match=r"here: a point of 'car' at \(30\.5, 3\) lies outside the image of 30 x 20"):
        draw_shapes(ImageShapes("a.png", SIZE, (outside,), "here"), {"car": 1}, rest=9)


def test_cvat_layers_and_kinds(tmp_path):
    root = pictures(tmp_path / "out", "a.png", "b.jpg", "c.png")
    file = cvat(
        tmp_path / "all.xml",
        cvat_image(
            "train/a.png",
            '<polygon label="car" source="manual" occluded="0" points="4,4;10,4;10,9;4,9" z_order="2"/>',
            '<box label="road" xtl="0" ytl="0" xbr="30" ybr="20" z_order="0"/>',
            '<tag label="day" source="manual"/>',
        ),
        cvat_image(
            "b.jpg",
            '<points label="car" points="3.50,4.50;7.1,8.9" z_order="0"/>',
            '<polyline label="road" points="0.5,15.5;29.5,15.5" z_order="0"/>',
        ),
        cvat_image("c.png"),
    )
    assert [len(image.shapes) for image in read_annotations(file)] == [2, 2, 0]
    targets = run([file], root)
    assert [target.name for target in targets] == ["a.png", "b.png"], "nothing was drawn on c"
    first, second = map(read_mask, targets)
    expected = np.zeros(SIZE, int)
    expected[4:9, 4:10] = 1
    assert np.array_equal(first, expected)
    expected = np.full(SIZE, 255)
    expected[15], expected[4, 3], expected[8, 7] = 0, 1, 1
    assert np.array_equal(second, expected)


def test_masks_serve_as_they_are(tmp_path):
    """The folder is one that a run reads: void is ignored by the classes.json that was written."""
    root = pictures(tmp_path / "out", "a.png", "b.png")
    files = [
        labelme(
            tmp_path / f"{name}.json",
            ("car", "point", [[5, 5]]),
            ("road", "point", [[9, 9]]),
            image=f"..\\x/{name}.png",
        )
        for name in "ab"
    ]
    run(files, root)
    assert json.loads((root / "classes.json").read_text()) == {"0": "road", "1": "car", "255": "ignore"}
    images = find_images(root, ["*"], ("road", "car"), {0: 0, 1: 1})
    assert [np.bincount(image.labels + 1).tolist() for image in images] == [[598, 1, 1]] * 2
    other = pictures(tmp_path / "rest", "a.png", "b.png")
    run(files, other, rest="0")
    images = find_images(other, ["*"], ("road", "car"), {0: 0, 1: 1})
    assert [np.bincount(image.labels + 1).tolist() for image in images] == [[0, 599, 1]] * 2


def test_a_folder_of_files_and_a_table(tmp_path):
    root = pictures(tmp_path / "out", "a.png")
    (tmp_path / "drawn").mkdir()
    labelme(tmp_path / "drawn" / "a.json", ("a car", "point", [[5, 5]]), ("=", "point", [[9, 9]]))
    (tmp_path / "codes.yaml").write_text('"a car": 7\n"=": ignore\n')
    annotations.main([str(tmp_path / "drawn"), "--images", str(root), "--label-map", str(tmp_path / "codes.yaml")])
    mask = read_mask(root / "masks" / "a.png")
    assert np.argwhere(mask == 7).tolist() == [[5, 5]] and (mask == 255).sum() == 599


def test_labels_by_a_config(tmp_path):
    from pcseg.config_file import write_config
    from tests.train.toy_images import image_config

    root = pictures(tmp_path / "out", "a.png")
    write_config(image_config(root), tmp_path / "config.yaml")
    file = labelme(tmp_path / "a.json", ("car", "point", [[5, 5]]), ("grass", "point", [[9, 9]]))
    mask = read_mask(run([file], root, label_map=(), config=tmp_path / "config.yaml")[0])
    assert mask[5, 5] == 7 and mask[9, 9] == 3


def test_unknown_labels_are_listed(tmp_path):
    root = pictures(tmp_path / "out", "a.png")
    shapes = [
        ("tree", "point", [[1, 1]]),
        ("car", "point", [[1, 1]]),
        ("bus", "point", [[2, 2]]),
        ("tree", "point", [[3, 3]]),
    ]
    file = labelme(tmp_path / "a.json", *shapes)
    with pytest.raises(InputError, match=r"labels without a code: bus \(1 shapes\), tree \(2 shapes\); add them"):
        run([file], root)
    assert not (root / "masks").exists() and not (root / "classes.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "z.png"}, r"the picture .*z\.png is not there"),
        ({"imageHeight": 21}, r"was drawn on 30 x 21 pixels, .*a\.png has 30 x 20"),
        ({"imageHeight": 0}, "has 30 x 0 pixels"),
        ({"shapes": None}, "is no LabelMe file"),
        ({"shapes": [{"label": "car", "points": [[1]]}]}, "shape 1: has no label or no points"),
        ({"shapes": [{"label": "car", "points": [[1, 2], [3, 4]]}]}, "shape 1: 'car' needs at least 3 points, got 2"),
        (
            {"shapes": [{"label": "car", "points": [[1, 2]], "shape_type": "mask"}]},
            "shape 1: is a 'mask'; only polygon",
        ),
        ({"shapes": [{"label": "car", "points": [[float("nan"), 2]], "shape_type": "point"}]}, "not a finite number"),
        ({"shapes": [{"label": "car", "points": [[1, 2]], "shape_type": "circle"}]}, "needs at least 2 points, got 1"),
        ({"shapes": [{"label": "car", "points": [[10**400, 2]]}]}, "shape 1: has no label or no points"),
        ({"imagePath": None}, r"a\.json: imagePath must be the name of a picture, got None"),
        ({"imagePath": 3}, "imagePath must be the name of a picture, got 3"),
        ({"imageHeight": float("inf")}, "is no LabelMe file: cannot convert float infinity"),
    ],
)
def test_labelme_files_that_do_not_fit(tmp_path, change, message):
    root = pictures(tmp_path / "out", "a.png")
    with pytest.raises(InputError, match=message):
        run([labelme(tmp_path / "a.json", ("car", "point", [[1, 1]]), **change)], root)


def test_a_file_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json: is no LabelMe file: it is nested too deeply"):
        run([tmp_path / "a.json"], pictures(tmp_path / "out", "a.png"))
    (tmp_path / "codes.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(InputError, match=r"codes\.yaml: is nested too deeply"):
        run([tmp_path / "a.json"], tmp_path / "out", label_map=(str(tmp_path / "codes.yaml"),))


def test_shapes_between_the_centres_of_pixels_are_told(tmp_path, capsys):
    root = pictures(tmp_path / "out", "a.png")
    small = "rectangle", [[2.6, 3], [3.4, 9]]
    file = labelme(tmp_path / "a.json", ("car", *small), ("road", "rectangle", [[0, 0], [9, 9]]), ("car", *small))
    run([file], root)
    assert capsys.readouterr().err == f"{file}: 2 shapes of 'car' left out: no pixel's centre lies inside\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations>", "no XML"),
        ("<other/>", "is no export of images"),
        ("<annotations><track/></annotations>", "is no export of images"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
        ('<annotations><image name="a.png"/></annotations>', "has no name, width or height"),
        (cvat_image("a.png", '<mask label="car" rle="1"/>'), "holds a 'mask'; only polygon, box"),
        (cvat_image("a.png", '<polygon label="car" points="1,2;3"/>'), "a 'polygon' has no label or no points"),
        (cvat_image("a.png", '<box label="car" xtl="1" ytl="1" xbr="2" ybr="2" rotation="9"/>'), "a turned box"),
        (cvat_image("a.png", "<points/>") * 2, "has no label"),
        (cvat_image("a.png", '<points label="car" points="1,2"/>') * 2, "is the mask of .* too"),
        (cvat_image("a.png"), "nothing was drawn"),
    ],
)
def test_cvat_files_that_do_not_fit(tmp_path, text, message):
    root = pictures(tmp_path / "out", "a.png")
    file = tmp_path / "all.xml"
    file.write_text(text if text.startswith(("<ann", "<other", "<!D")) else f"<annotations>{text}</annotations>")
    with pytest.raises(InputError, match=message):
        run([file], root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_map": ()}, "say what code each label has"),
        ({"label_map": ("car",)}, "no such label map"),
        ({"label_map": ("car", "road=1")}, "'car' is no pair"),
        ({"label_map": ("car=255",)}, "--label-map: car: '255' is no code; give one from 0 to 254"),
        ({"rest": "x"}, "--rest: 'x' is no code"),
        ({"radius": -1.0}, "--radius: must be 0 or more"),
    ],
)
def test_options_that_do_not_fit(tmp_path, change, message):
    root = pictures(tmp_path / "out", "a.png")
    with pytest.raises(InputError, match=message):
        run([labelme(tmp_path / "a.json", ("car", "point", [[1, 1]]))], root, **change)


def test_what_is_there_stays(tmp_path):
    root = pictures(tmp_path / "out", "a.png")
    file = labelme(tmp_path / "a.json", ("car", "point", [[1, 1]]))
    run([file], root)
    with pytest.raises(InputError, match=r"a\.png: is there already; --overwrite replaces it"):
        run([file], root)
    (root / "classes.json").write_text('{"0": "road", "1": "car"}')
    with pytest.raises(InputError, match="must name 255 'ignore' and no colours"):
        run([file], root, overwrite=True)
    with pytest.raises(InputError, match=r"holds no \.json and no \.xml file"):
        run([root], root)
    with pytest.raises(InputError, match=r"expected a LabelMe \.json or a CVAT \.xml file"):
        run([root / "images" / "a.png"], root)
