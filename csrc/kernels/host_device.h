// Marks inline functions that the CPU kernels and the CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define PCSEG_HD __host__ __device__
#else
#define PCSEG_HD
#endif
