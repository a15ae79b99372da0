"""pcseg: segment 3D point clouds and images from few labels."""

from pcseg.batch import IGNORE, PointBatch, cat, split

__version__ = "0.1.0"
__all__ = ["IGNORE", "PointBatch", "__version__", "cat", "split"]
