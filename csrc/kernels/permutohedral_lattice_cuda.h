// permutohedral_lattice on a GPU: the contract of permutohedral_lattice.h, and the CPU's bits.
#pragma once

#include <cstddef>

#include "lattice_simplex.h"
#include "permutohedral_lattice.h"

namespace pcseg {

// Finds the extent of the positions and plans the lattice's keys by it; returns 0, or -1 - row as the contract has it.
// Waits for the GPU. num_points > 0.
size_t lattice_plan_workspace_bytes();
int64_t lattice_plan_cuda(const PermutohedralLattice<float>& a, LatticePlan& plan, void* workspace, void* stream);
int64_t lattice_plan_cuda(const PermutohedralLattice<double>& a, LatticePlan& plan, void* workspace, void* stream);

// Then the lattice; waits for the GPU once, for the number of lattice points. The workspace holds, for each of the
// num_points * (dims + 1) entries, its key (8 bytes, where positions lie very far apart 40), 12 bytes, and 8 to 16 bytes of
// a hash table.
size_t permutohedral_lattice_workspace_bytes(int64_t num_points, int dims, const LatticePlan& plan);
int64_t permutohedral_lattice_cuda(const PermutohedralLattice<float>& a, const LatticePlan& plan, void* workspace,
                                   void* stream);
int64_t permutohedral_lattice_cuda(const PermutohedralLattice<double>& a, const LatticePlan& plan, void* workspace,
                                   void* stream);

}  // namespace pcseg
