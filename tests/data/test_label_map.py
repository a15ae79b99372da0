"""Class codes to indices and back, and what a label map refuses."""

import numpy as np
import pytest

from pcseg import IGNORE
from pcseg.errors import InputError
from pcseg.label_map import LabelMap


def test_pairs_files_and_indices_make_the_same_map(tmp_path):
    pairs = LabelMap.from_pairs(["1=other", "2=ground", "6=building", "9=ignore"])
    (tmp_path / "map.yaml").write_text(
        "classes: [other, ground, building]\ncodes: {1: other, 2: ground, 6: building, 9: ignore}"
    )
    indices = LabelMap.from_indices(("other", "ground", "building"), {1: 0, 2: 1, 6: 2, 9: IGNORE})
    assert pairs == LabelMap.from_file(tmp_path / "map.yaml") == indices
    assert pairs.class_codes == (1, 2, 6)
    assert LabelMap.from_pairs(["1=a", "2=b"], classes=["b", "a"]).class_names == ("b", "a")


def test_apply_counts_what_it_does_not_know():
    table = LabelMap.from_pairs(["1=other", "2=ground", "3=ground", "9=ignore"])
    labels, unknown = table.apply(np.array([2, 1, 9, 7, 3, 7, 64], np.uint8))
    assert labels.tolist() == [1, 0, -1, -1, 1, -1, -1] and labels.dtype == np.int16
    assert unknown == {7: 2, 64: 1}
    labels, unknown = table.apply(np.array([1.0, 1.5, np.nan]))
    assert labels.tolist() == [0, -1, -1] and 1.5 in unknown and len(unknown) == 2


def test_a_default_takes_every_other_code():
    assert LabelMap.from_pairs(["2=ground", "default=ignore"]).apply(np.array([2, 5]))[0].tolist() == [0, -1]
    other = LabelMap.from_pairs(["2=ground", "default=other"], classes=["other", "ground"])
    labels, unknown = other.apply(np.array([2, 5]))
    assert labels.tolist() == [1, 0] and not unknown and other.class_codes == (0, 2)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["2"], "'2' is no pair like 2=ground"),
        (["a=ground"], "'a' in 'a=ground' is no integer"),
        (["2=ignore"], "class_names must differ, be at least one"),
        (["2=ground", "6=building", "02=building"], "2=ground and 02=building contradict each other; leave one"),
        (["0=ignore", "0=other"], "0=ignore and 0=other contradict"),
        (["2=ground", "default=ground", "default=ignore"], "default=ground and default=ignore contradict"),
        (["2=ground", "default=tree"], "'tree' is no class; the classes are ground"),
    ],
)
def test_pairs_that_do_not_fit(pairs, message):
    with pytest.raises(InputError, match=message):
        LabelMap.from_pairs(pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "expected a table"),
        ("codes: {1: a}\ncolors: {}", "expected the keys classes, codes and default, got"),
        ("codes: {x: a}", "codes.x"),
        ("codes:\n  2: ground\n  6: house\n  2: house", r"map\.yaml, line 4: '2' is said twice; leave one"),
        ("codes: [", "no YAML"),
        ("classes: [a]\ncodes: {1: b}", "'b' is no class; the classes are a"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, text, message):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        LabelMap.from_file(path)
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="no such label map"):
        LabelMap.from_file(tmp_path / "none.yaml")
