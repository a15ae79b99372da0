"""Scores on the shipped excerpt of COCO equal those of an independent count and of pycocotools."""

import json

import numpy as np
import pytest

from pcseg.batch import IGNORE
from pcseg.io.coco_panoptic import read_ids, read_index, read_segments
from pcseg.metrics.instances import InstanceMatches, average_precision, segment_matches
from pcseg.metrics.panoptic import PanopticCounts, panoptic_counts, panoptic_scores
from pcseg.segments import Segments
from tests.golden.make_coco_panoptic import OUT, ROOT, SPLITS, spoilt


@pytest.fixture(scope="module", params=SPLITS)
def scored(request):
    """Counts and matches of a split, its categories, and what they should be."""
    index = read_index(ROOT / f"panoptic_{request.param}.json")
    codes = [category.id for category in index.categories]
    class_of = {code: number for number, code in enumerate(codes)}
    is_thing = [category.isthing for category in index.categories]
    counts, matches = PanopticCounts.none(len(codes)), InstanceMatches.none(len(codes))
    for record in index.records.values():
        truth = read_segments(record, class_of)
        of_segment = {segment.id: segment.category_id for segment in record.segments}
        ids, classes, scores = spoilt(read_ids(record.png).astype(np.int64), of_segment, codes, int(record.name))
        order = sorted(classes)
        place = {key: number for number, key in enumerate(order)} | {0: IGNORE}
        predicted = Segments(
            ids=np.vectorize(place.__getitem__)(ids).reshape(-1),
            classes=np.array([class_of[classes[key]] for key in order]),
            crowd=np.zeros(len(order), bool),
            scores=np.array([scores[key] for key in order]),
        )
        counts += panoptic_counts(predicted, truth, len(codes))
        matches += segment_matches(predicted, truth, is_thing)
    return codes, is_thing, counts, matches, json.loads(OUT.read_text())[request.param]


def test_panoptic_quality_equals_the_independent_count(scored):
    codes, is_thing, counts, _, golden = scored
    found = np.stack([counts.iou, counts.matched, counts.unmatched, counts.missed], 1)
    expected = np.array([golden["counts"].get(str(code), [0, 0, 0, 0]) for code in codes])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (expected[:, 1:].sum(0) > 10).all(), "every kind of outcome occurs"
    scores = panoptic_scores(counts, is_thing)
    for name in ("overall", "things", "stuff"):
        assert getattr(scores, name) == pytest.approx(tuple(golden[name]), abs=1e-9), name


def test_average_precision_equals_pycocotools(scored):
    codes, _, _, matches, golden = scored
    scores = average_precision(matches)
    assert (scores.ap, scores.ap50, scores.ap75) == pytest.approx([golden["ap"][k] for k in ("ap", "ap50", "ap75")])
    expected = np.array([golden["ap"]["of_class"].get(str(code), np.nan) for code in codes])
    np.testing.assert_allclose(scores.of_class, expected, atol=1e-9)


def test_the_excerpt_has_crowds():
    records = [r for split in SPLITS for r in read_index(ROOT / f"panoptic_{split}.json").records.values()]
    assert sum(segment.iscrowd for record in records for segment in record.segments) == 3
