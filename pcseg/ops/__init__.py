"""Point-cloud operations: C++ and CUDA kernels behind pure functions on tensors."""

from pcseg.ops.farthest_point_sample import farthest_point_sample
from pcseg.ops.gather_neighbors import gather_neighbors
from pcseg.ops.gaussian_filter import PermutohedralLattice, gaussian_filter
from pcseg.ops.grid_subsample import VoxelGrid, grid_subsample
from pcseg.ops.image_grid_edges import GridEdges, image_grid_edges
from pcseg.ops.kpconv import kpconv, kpconv_fitting_distance
from pcseg.ops.linear import linear
from pcseg.ops.local_geometry import LocalGeometry, height_above_minimum, local_geometry
from pcseg.ops.nearest_others import nearest_others
from pcseg.ops.neighbor_max import neighbor_max
from pcseg.ops.neighbor_search import PointIndex, knn, point_index, radius_search
from pcseg.ops.norm_attention import norm_attention
from pcseg.ops.norm_linear import norm_linear
from pcseg.ops.potts_descent import PottsGraph, potts_descent, potts_graph
from pcseg.ops.potts_energy import potts_energy, potts_energy_csr
from pcseg.ops.segment_reduce import segment_reduce
from pcseg.ops.vector_attention import (
    attention_aggregate,
    attention_relation,
    attention_statistics,
    vector_attention,
)
from pcseg.ops.voxel_features import VoxelFeatures, voxel_features

__all__ = [
    "GridEdges",
    "LocalGeometry",
    "PermutohedralLattice",
    "PointIndex",
    "PottsGraph",
    "VoxelFeatures",
    "VoxelGrid",
    "attention_aggregate",
    "attention_relation",
    "attention_statistics",
    "farthest_point_sample",
    "gather_neighbors",
    "gaussian_filter",
    "grid_subsample",
    "height_above_minimum",
    "image_grid_edges",
    "knn",
    "kpconv",
    "kpconv_fitting_distance",
    "linear",
    "local_geometry",
    "nearest_others",
    "neighbor_max",
    "norm_attention",
    "norm_linear",
    "point_index",
    "potts_descent",
    "potts_energy",
    "potts_energy_csr",
    "potts_graph",
    "radius_search",
    "segment_reduce",
    "vector_attention",
    "voxel_features",
]
