"""Writes coco_panoptic.json: panoptic quality and instance AP of spoilt labels on the shipped excerpt of COCO.

    PYTHONPATH=FOLDER_OF_PYCOCOTOOLS python tests/golden/make_coco_panoptic.py

Nothing of pcseg is involved. Panoptic quality is counted pixel by pixel in dictionaries, by the definition and COCO's
rules for void and crowd; AP is that of pycocotools 2.0.11. The test makes its predictions with :func:`spoilt` too.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2] / "samples" / "coco_panoptic"
OUT = Path(__file__).resolve().with_name("coco_panoptic.json")
SPLITS = ("train2017", "val2017")


def spoilt(
    ids: np.ndarray,  # (H, W) segment ids, 0: void
    categories: dict[int, int],  # of each segment id
    known: list[int],  # all category ids
    seed: int,
) -> tuple[np.ndarray, dict[int, int], dict[int, float]]:
    """A prediction made from a truth: moved, coarser, with parts void, segments joined, split and renamed."""
    rng = np.random.default_rng(seed)
    height, width = ids.shape
    step = int(rng.integers(2, 9))
    coarse = ids[::step, ::step].repeat(step, 0).repeat(step, 1)[:height, :width]
    moved = np.roll(coarse, rng.integers(-12, 13, 2), (0, 1))
    moved = np.where(rng.random((height, width)) < 0.02, 0, moved)
    result, classes = np.zeros_like(moved), {}
    for number, old in enumerate(sorted(categories), start=1):
        where = moved == old
        draw = rng.random()
        new = 10 * number
        if draw < 0.1 and classes:  # joined to the one before
            new = max(classes)
        elif draw < 0.25:  # split in two
            right = where & (np.arange(width) > np.argwhere(where)[:, 1].mean() if where.any() else False)
            result[right], classes[new + 1] = new + 1, categories[old]
            where &= ~right
        classes.setdefault(new, int(rng.choice(known)) if 0.25 <= draw < 0.35 else categories[old])
        result[where] = new
    # A made-up thing: over void where there is some.
    y, x = np.argwhere(ids == 0)[0] if (ids == 0).any() else (height // 2, width // 2)
    result[y : y + 40, x : x + 40], classes[5] = 5, known[0]
    present = set(np.unique(result).tolist()) - {0}
    classes = {key: value for key, value in classes.items() if key in present}
    scores = dict(zip(sorted(classes), rng.permutation(len(classes)) / len(classes) * 0.9 + 0.05))
    return result, classes, scores


def quality_counts(ids, info, predicted, classes, counts) -> None:
    """Add an image to ``counts[category] = [sum of IoU, TP, FP, FN]``."""
    pairs: dict[tuple[int, int], int] = defaultdict(int)
    for t, p in zip(ids.ravel().tolist(), predicted.ravel().tolist()):
        pairs[t, p] += 1
    of_truth, of_prediction = defaultdict(int), defaultdict(int)
    for (t, p), n in pairs.items():
        of_truth[t] += n
        of_prediction[p] += n
    hit_t, hit_p = set(), set()
    for (t, p), n in pairs.items():
        if t == 0 or p == 0 or info[t]["iscrowd"] or info[t]["category_id"] != classes[p]:
            continue
        iou = n / (of_truth[t] + of_prediction[p] - n - pairs.get((0, p), 0))
        if iou > 0.5:
            counts[classes[p]][0] += iou
            counts[classes[p]][1] += 1
            hit_t.add(t)
            hit_p.add(p)
    for t, segment in info.items():
        if t not in hit_t and not segment["iscrowd"]:
            counts[segment["category_id"]][3] += 1
    for p, category in classes.items():
        if p in hit_p:
            continue
        excused = pairs.get((0, p), 0)
        for t, segment in info.items():
            if segment["iscrowd"] and segment["category_id"] == category:
                excused += pairs.get((t, p), 0)
        if excused / of_prediction[p] <= 0.5:
            counts[category][2] += 1


def average_precision(images, things) -> dict[str, float]:
    """pycocotools on the things, with void pixels taken out of every mask."""
    from pycocotools import mask as masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def coded(mask):
        return masks.encode(np.asfortranarray(mask.astype(np.uint8)))

    truths, guesses = [], []
    for number, (ids, info, predicted, classes, scores) in enumerate(images, start=1):
        for key, segment in info.items():
            if segment["category_id"] in things:
                truths.append({"id": len(truths) + 1, "image_id": number, "category_id": segment["category_id"],
                               "iscrowd": segment["iscrowd"], "segmentation": coded(ids == key),
                               "area": int((ids == key).sum()), "bbox": [0, 0, 1, 1]})  # fmt: skip
        for key, category in classes.items():
            mask = (predicted == key) & (ids != 0)
            if category in things and mask.any():
                guesses.append({"image_id": number, "category_id": category, "segmentation": coded(mask),
                                "score": scores[key]})  # fmt: skip
    coco = COCO()
    sizes = [{"id": n, "height": i[0].shape[0], "width": i[0].shape[1]} for n, i in enumerate(images, start=1)]
    coco.dataset = {"images": sizes, "annotations": truths, "categories": [{"id": c, "name": str(c)} for c in things]}
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(guesses), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (10 thresholds, 101 recalls, K)
    of_class = {str(c): float(precision[:, :, k].mean()) for k, c in enumerate(evaluation.params.catIds)
                if precision[0, 0, k] >= 0}  # fmt: skip
    return {"ap": evaluation.stats[0], "ap50": evaluation.stats[1], "ap75": evaluation.stats[2], "of_class": of_class}


def main() -> None:
    golden = {}
    for split in SPLITS:
        table = json.loads((ROOT / f"panoptic_{split}.json").read_text())
        known = [c["id"] for c in table["categories"]]
        things = [c["id"] for c in table["categories"] if c["isthing"]]
        counts, images = defaultdict(lambda: [0.0, 0, 0, 0]), []
        for annotation in table["annotations"]:
            colors = np.asarray(Image.open(ROOT / f"panoptic_{split}" / annotation["file_name"])).astype(np.int64)
            ids = colors @ [1, 256, 65536]
            info = {s["id"]: s for s in annotation["segments_info"]}
            categories = {key: s["category_id"] for key, s in info.items()}
            predicted, classes, scores = spoilt(ids, categories, known, annotation["image_id"])
            quality_counts(ids, info, predicted, classes, counts)
            images.append((ids, info, predicted, classes, scores))

        def mean(chosen, counts=counts):
            rows = [v for c, v in sorted(counts.items()) if c in chosen and any(v[1:])]
            pq = [v[0] / (v[1] + v[2] / 2 + v[3] / 2) for v in rows]
            sq = [v[0] / v[1] if v[1] else 0.0 for v in rows]
            rq = [v[1] / (v[1] + v[2] / 2 + v[3] / 2) for v in rows]
            return [float(np.mean(pq)), float(np.mean(sq)), float(np.mean(rq)), len(rows)]

        golden[split] = {
            "counts": {str(c): v for c, v in sorted(counts.items())},
            "overall": mean(set(known)),
            "things": mean(set(things)),
            "stuff": mean(set(known) - set(things)),
            "ap": average_precision(images, things),
        }
        print(split, {k: v for k, v in golden[split].items() if k not in ("counts", "ap")})
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
