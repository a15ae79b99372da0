"""COCO's panoptic format: what is written reads back, and whatever does not fit together is told."""

import json

import numpy as np
import pytest
from PIL import Image

from pcseg.batch import IGNORE
from pcseg.errors import InputError
from pcseg.io.coco_panoptic import Category, PanopticResult, read_ids, read_index, read_segments, write_panoptic
from pcseg.io.object_masks import read_objects
from pcseg.segments import Segments
from tests.data.pictures import SAMPLES

EXCERPT = SAMPLES / "coco_panoptic"
CATEGORIES = (Category(id=7, name="cow", isthing=True), Category(id=90, name="grass", isthing=False))
CLASS_OF = {7: 0, 90: 1}
IDS = np.array([[1, 1, 0, 300], [1, 70000, 70000, 300], [5, 5, 5, 5]])
INFO = [
    {"id": 1, "category_id": 7, "iscrowd": 0},
    {"id": 300, "category_id": 7, "iscrowd": 1},
    {"id": 70000, "category_id": 7},
    {"id": 5, "category_id": 90, "area": 4, "bbox": [0, 2, 4, 1]},
]


def write_excerpt(root, ids=IDS, info=INFO, **change) -> None:
    """A data set of one image, ``one``."""
    (root / "p").mkdir(parents=True, exist_ok=True)
    colors = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colors).save(root / "p" / "one.png")
    table = {
        "images": [{"id": 1, "file_name": "one.jpg", "height": 3, "width": 4}],
        "annotations": [{"image_id": 1, "file_name": "one.png", "segments_info": info}],
        "categories": [category.model_dump() for category in CATEGORIES],
    }
    (root / "p.json").write_text(json.dumps(table | change))


def read(root, class_of=CLASS_OF) -> Segments:
    return read_segments(read_index(root / "p.json").records["one"], class_of)


def test_ids_are_colours_and_segments_are_those_of_the_json(tmp_path):
    write_excerpt(tmp_path)
    np.testing.assert_array_equal(read_ids(tmp_path / "p" / "one.png"), IDS)
    found = read(tmp_path)
    assert found.ids.reshape(3, 4).tolist() == [[0, 0, -1, 1], [0, 2, 2, 1], [3, 3, 3, 3]]
    assert found.classes.tolist() == [0, 0, 0, 1] and found.crowd.tolist() == [False, True, False, False]
    without_grass = read(tmp_path, {7: 0, 90: IGNORE})
    assert without_grass.ids.reshape(3, 4)[2].tolist() == [-1] * 4 and without_grass.classes.tolist() == [0, 0, 0]


def test_what_is_written_reads_back(tmp_path):
    index = read_index(EXCERPT / "panoptic_val2017.json")
    class_of = {category.id: number for number, category in enumerate(index.categories)}
    truths = {name: read_segments(record, class_of) for name, record in index.records.items()}
    write_panoptic(
        tmp_path / "out.json",
        index.categories,
        (
            PanopticResult(
                image_file=r.image_file, image_id=int(name), segments=truths[name], height=r.height, width=r.width
            )
            for name, r in index.records.items()
        ),
    )
    again = read_index(tmp_path / "out.json")
    assert again.categories == index.categories and list(again.records) == list(index.records)
    for name, record in again.records.items():
        found, truth = read_segments(record, class_of), truths[name]
        np.testing.assert_array_equal(found.ids, truth.ids)
        assert found.classes.tolist() == truth.classes.tolist() and found.crowd.tolist() == truth.crowd.tolist()
    ours = json.loads((tmp_path / "out.json").read_text())["annotations"]
    theirs = json.loads((EXCERPT / "panoptic_val2017.json").read_text())["annotations"]
    keys = ("category_id", "iscrowd", "area", "bbox")
    for mine, other in zip(ours, theirs, strict=True):
        for a, b in zip(mine["segments_info"], other["segments_info"], strict=True):
            assert [a[key] for key in keys] == [b[key] for key in keys]


def test_a_segment_without_pixels_is_left_out(tmp_path):
    segments = Segments(ids=np.array([2, 2, -1, 0]), classes=np.array([1, 0, 0]), crowd=np.zeros(3, bool))
    result = PanopticResult(image_file="a/x.jpg", image_id="x", segments=segments, height=2, width=2)
    write_panoptic(tmp_path / "r.json", CATEGORIES, [result])
    (record,) = read_index(tmp_path / "r.json").records.values()
    found = read_segments(record, CLASS_OF)
    assert found.classes.tolist() == [1, 0] and found.ids.tolist() == [1, 1, -1, 0]
    with pytest.raises(InputError, match=r"two images would be written as x\.png"):
        write_panoptic(tmp_path / "r.json", CATEGORIES, [result, result])
    with pytest.raises(InputError, match="4 rows are no 3 x 2 pixels"):
        bad = PanopticResult(image_file="x.jpg", image_id=1, segments=segments, height=2, width=3)
        write_panoptic(tmp_path / "r.json", CATEGORIES, [bad])
    with pytest.raises(InputError, match="a class beyond the 1 categories"):
        write_panoptic(tmp_path / "r.json", CATEGORIES[:1], [result])
    assert read_segments(record, CLASS_OF).ids.tolist() == found.ids.tolist(), "a failed write leaves what was there"


def test_an_id_that_only_one_of_both_files_has(tmp_path):
    write_excerpt(tmp_path, info=INFO[:-1])
    with pytest.raises(InputError, match=r"one\.png: pixel \(0, 2\) has the segment id 5, which p\.json lacks"):
        read(tmp_path)
    write_excerpt(tmp_path, info=[*INFO, {"id": 6, "category_id": 7}])
    with pytest.raises(InputError, match=r"p\.json: image 'one': segment 6 has no pixel in one\.png"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ([*INFO, {"id": 5, "category_id": 7}], "segment id 5 is used in the categories 90 and 7"),
        ([*INFO, INFO[0]], "segment id 1 is there twice"),
        ([*INFO, {"id": 9, "category_id": 8}], "segment 9 has the category 8, which categories lack"),
        ([{"id": 0, "category_id": 7}], r"annotations\.0\.segments_info\.0\.id: Input should be greater"),
        ([{"id": 2**24, "category_id": 7}], "should be less"),
    ],
)
def test_segments_that_do_not_fit(tmp_path, info, message):
    write_excerpt(tmp_path, info=info)
    with pytest.raises(InputError, match=rf"p\.json: .*{message}"):
        read_index(tmp_path / "p.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "annotations: image 1 is not among the images"),
        ({"categories": [CATEGORIES[0].model_dump()] * 2}, "categories 7 is there twice"),
        ({"images": [{"id": 1, "file_name": "../one.jpg", "height": 3, "width": 4}]}, "leads out of its folder"),
        ({"images": [{"id": 1, "file_name": "one.jpg", "height": 3}]}, r"images\.0\.width: Field required"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, change, message):
    write_excerpt(tmp_path, **change)
    with pytest.raises(InputError, match=message):
        read_index(tmp_path / "p.json")


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_index(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(InputError, match="expected COCO's panoptic format"):
        read_index(tmp_path / "p.json")
    write_excerpt(tmp_path, images=[{"id": 1, "file_name": "one.jpg", "height": 4, "width": 3}])
    with pytest.raises(InputError, match=r"one\.png: has 4 x 3 pixels, p\.json says 3 x 4"):
        read(tmp_path)
    write_excerpt(tmp_path)
    with pytest.raises(InputError, match="label_map lacks the category 90"):
        read(tmp_path, {7: 0})
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "p" / "one.png")
    with pytest.raises(InputError, match="segment ids are colours"):
        read(tmp_path)


# VOC


def write_voc(path, codes) -> None:
    image = Image.fromarray(np.asarray(codes, np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def test_voc_objects_belong_to_labelled_pixels(tmp_path):
    path = tmp_path / "o.png"
    write_voc(path, [[0, 0, 1, 1], [255, 2, 2, 255], [0, 2, 3, 255]])
    labels = np.array([[0, 0, 5, 5], [-1, 5, 5, -1], [0, -1, 9, -1]])
    found = read_objects(path, labels)
    assert found.tolist() == [[-1, -1, 1, 1], [-1, 2, 2, -1], [-1, -1, 3, -1]]
    labels[1, 2] = 9
    with pytest.raises(InputError, match=r"the instance 2 is used in two classes, 5 and 9 \(pixel \(2, 1\)\)"):
        read_objects(path, labels)
    with pytest.raises(InputError, match="has 4 x 3 pixels, the class mask has 3 x 3"):
        read_objects(path, labels[:, :3])
