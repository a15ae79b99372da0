// Farthest point sampling on a GPU: the contract of farthest_point_sample.h, and the CPU's rows. One block a cloud,
// over buckets of 32 points along a curve; a bucket is visited only where the new sample could be nearer to one of its
// points than those before.
//
// Offsets, counts, starts or coordinates that break the contract stop the process's CUDA work with a device-side
// assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "farthest_point_sample.h"

namespace pcseg {

// num_points below 2^31 - 33.
template <class T>
size_t farthest_point_sample_workspace_bytes(const FarthestPointSample<T>& a);

void farthest_point_sample_cuda(const FarthestPointSample<float>& a, void* workspace, void* stream);
void farthest_point_sample_cuda(const FarthestPointSample<double>& a, void* workspace, void* stream);

// The last of sample_offsets (num_clouds + 1); waits for the stream.
int64_t farthest_point_sample_count_cuda(const int64_t* sample_offsets, int64_t num_clouds, void* stream);

}  // namespace pcseg
