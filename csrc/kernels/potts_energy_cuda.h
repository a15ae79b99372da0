// potts_energy on a GPU: the contract of potts_energy.h, results alike up to the order of sums and the exponential's last
// digit, and the same in every run. An index or an offset out of range stops the process's CUDA work with a device-side
// assertion: to raise an error would mean to wait for the GPU. num_edges below 2^31: with offsets only the caller
// knows it without waiting.
#pragma once

#include <cstddef>

#include "potts_energy.h"

namespace pcseg {

size_t potts_energy_workspace_bytes(const PottsEnergy<float>& a);
size_t potts_energy_workspace_bytes(const PottsEnergy<double>& a);
void potts_energy_cuda(const PottsEnergy<float>& a, int64_t num_edges, float* energy, void* workspace, void* stream);
void potts_energy_cuda(const PottsEnergy<double>& a, int64_t num_edges, double* energy, void* workspace, void* stream);

size_t potts_energy_backward_workspace_bytes(const PottsEnergy<float>& a, int64_t num_edges);
size_t potts_energy_backward_workspace_bytes(const PottsEnergy<double>& a, int64_t num_edges);
void potts_energy_backward_cuda(const PottsEnergy<float>& a, int64_t num_edges, const PottsEnergyGradients<float>& g,
                                void* workspace, void* stream);
void potts_energy_backward_cuda(const PottsEnergy<double>& a, int64_t num_edges, const PottsEnergyGradients<double>& g,
                                void* workspace, void* stream);

}  // namespace pcseg
