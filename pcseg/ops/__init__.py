"""Point-cloud operations: C++ and CUDA kernels behind pure functions on tensors."""

from pcseg.ops.gather_neighbors import gather_neighbors
from pcseg.ops.gaussian_filter import PermutohedralLattice, gaussian_filter
from pcseg.ops.grid_subsample import VoxelGrid, grid_subsample
from pcseg.ops.kpconv import kpconv, kpconv_fitting_distance
from pcseg.ops.linear import linear
from pcseg.ops.local_geometry import LocalGeometry, height_above_minimum, local_geometry
from pcseg.ops.neighbor_max import neighbor_max
from pcseg.ops.neighbor_search import knn, radius_search
from pcseg.ops.segment_reduce import segment_reduce
from pcseg.ops.voxel_features import VoxelFeatures, voxel_features

__all__ = [
    "LocalGeometry",
    "PermutohedralLattice",
    "VoxelFeatures",
    "VoxelGrid",
    "gather_neighbors",
    "gaussian_filter",
    "grid_subsample",
    "height_above_minimum",
    "knn",
    "kpconv",
    "kpconv_fitting_distance",
    "linear",
    "local_geometry",
    "neighbor_max",
    "radius_search",
    "segment_reduce",
    "voxel_features",
]
