// segment_reduce on a GPU: the contract of segment_reduce.h, and the CPU's bits. Offsets that break it stop the
// process's CUDA work with a device-side assertion: to raise an error would mean to wait for the GPU.
#pragma once

#include <cstddef>

#include "segment_reduce.h"

namespace pcseg {

template <class T>
size_t segment_reduce_workspace_bytes(const SegmentReduce<T>& a, int64_t num_rows);
void segment_reduce_cuda(const SegmentReduce<float>& a, int64_t num_rows, void* workspace, void* stream);
void segment_reduce_cuda(const SegmentReduce<double>& a, int64_t num_rows, void* workspace, void* stream);
void segment_reduce_backward_cuda(const SegmentReduceBackward<float>& a, void* stream);
void segment_reduce_backward_cuda(const SegmentReduceBackward<double>& a, void* stream);

}  // namespace pcseg
