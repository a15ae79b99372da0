"""Images and volumes as packed clouds, and back: pure functions on tensors.

A pixel is row ``y * W + x`` of its cloud, a voxel row ``(z * H + y) * W + x``: images and volumes of several sizes lie
one after the other, without padding.
"""

from pcseg.images.graphs import color_edges, image_edges, volume_edges
from pcseg.images.grid import box_rows, crop, image_batch, to_planes, to_volumes, volume_batch
from pcseg.images.resize import resize, resize_features, resize_labels

__all__ = [
    "box_rows",
    "color_edges",
    "crop",
    "image_batch",
    "image_edges",
    "resize",
    "resize_features",
    "resize_labels",
    "to_planes",
    "to_volumes",
    "volume_batch",
    "volume_edges",
]
