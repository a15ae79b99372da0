#include <cassert>
#include <cmath>

#include "cuda_launch.h"
#include "potts_energy_cuda.h"
#include "row_lists.h"

namespace pcseg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEdgeLanes = 8;     // threads that share a row's edges
constexpr int kColumnLanes = 16;  // threads that share a row's columns

// As many numbers as one instruction loads.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T of[kSize];
};

template <class T>
struct Table {
  T* rows;         // (num_rows, stride): u of potts_relaxation.h, 0 behind the last class
  T* half_gini;    // (num_rows) in lq
  int64_t stride;  // a multiple of Pack's size

  Table(Arena& arena, const PottsEnergy<T>& a)
      : stride((a.num_classes + Pack<T>::kSize - 1) / Pack<T>::kSize * Pack<T>::kSize) {
    rows = arena.take<T>(a.num_rows * stride);
    half_gini = arena.take<T>(a.relaxation == Relaxation::lq ? a.num_rows : 0);
  }
};

// Sum of a row's probabilities, and of those that are at most half of it (see potts_table.h).
template <class T>
__device__ void sum_of_others(const T* p, int64_t classes, T& total, T& rest) {
  total = rest = 0;
  for (int64_t c = 0; c < classes; ++c) total += p[c];
  for (int64_t c = 0; c < classes; ++c) rest += p[c] > total / 2 ? T(0) : p[c];
}

template <class T>
__global__ void __launch_bounds__(kThreads) table_kernel(PottsEnergy<T> a, Table<T> table) {
  for (int64_t i = thread_in_grid(); i < a.num_rows; i += threads_in_grid()) {
    T* u = table.rows + i * table.stride;
    T square = 0;
    for (int64_t c = 0; c < table.stride; ++c) {
      T p = 0;
      if (c < a.num_classes) {
        const T x = a.log_probs[i * a.num_classes + c];
        p = std::exp(x < T(kLogFloor) ? T(kLogFloor) : x);
      }
      square += p * p;
      u[c] = p;
    }
    if (has_unit_rows(a.relaxation)) {
      const T scale = 1 / std::sqrt(square);
      for (int64_t c = 0; c < a.num_classes; ++c) u[c] *= scale;
    }
    if (a.relaxation == Relaxation::lq) {
      T total, rest, gini = 0;
      sum_of_others(u, a.num_classes, total, rest);
      for (int64_t c = 0; c < a.num_classes; ++c) gini += u[c] * (u[c] > total / 2 ? rest : total - u[c]);
      table.half_gini[i] = gini / 2;
    }
  }
}

template <class T>
__device__ void bounds_of(const PottsEnergy<T>& a, int64_t num_edges, int64_t row, int64_t& first, int64_t& last) {
  first = a.edge_offsets ? a.edge_offsets[row] : row * a.width;
  last = a.edge_offsets ? a.edge_offsets[row + 1] : first + a.width;
  assert(0 <= first && first <= last && last <= num_edges);
}

// The sum s of potts_relaxation.h.
template <PottsEdge edge, class T>
__device__ T similarity(const Table<T>& table, int64_t i, int64_t j) {
  const auto* mine = reinterpret_cast<const Pack<T>*>(table.rows + i * table.stride);
  const auto* other = reinterpret_cast<const Pack<T>*>(table.rows + j * table.stride);
  T sum = 0;
  for (int64_t c = 0; c < table.stride / Pack<T>::kSize; ++c) {
    const Pack<T> x = mine[c], y = other[c];
    for (int k = 0; k < Pack<T>::kSize; ++k) {
      const T d = x.of[k] - y.of[k];
      sum += edge == PottsEdge::difference ? d * d : x.of[k] * y.of[k];
    }
  }
  if (edge == PottsEdge::log_product_gini) sum += table.half_gini[i] + table.half_gini[j];
  return sum;
}

template <PottsEdge edge, class T>
__device__ T value(T s) {
  return edge_value<edge>(s, [](T x) { return std::log(x); });
}

template <PottsEdge edge, class T>
__global__ void __launch_bounds__(kThreads)
    energy_kernel(PottsEnergy<T> a, int64_t num_edges, Table<T> table, T* energy) {
  const int64_t rows_at_once = threads_in_grid() / kEdgeLanes, lane = thread_in_grid() % kEdgeLanes;
  // All threads of a warp take as many turns, since they shuffle.
  for (int64_t from = 0; from < a.num_rows; from += rows_at_once) {
    const int64_t i = from + thread_in_grid() / kEdgeLanes;
    T sum = 0;
    if (i < a.num_rows) {
      int64_t first, last;
      bounds_of(a, num_edges, i, first, last);
      for (int64_t e = first + lane; e < last; e += kEdgeLanes) {
        const int64_t j = a.edge_index[e];
        assert(0 <= j && j <= a.num_rows);
        if (j < a.num_rows) sum += a.edge_weight[e] * value<edge>(similarity<edge>(table, i, j));
      }
    }
    for (int step = kEdgeLanes / 2; step > 0; step /= 2) sum += shuffle_xor(sum, step);
    if (lane == 0 && i < a.num_rows) energy[i] = sum;
  }
}

// What the gradient needs of each edge.
template <class T>
struct Slopes {
  T* slope;          // of the pair term, times what it is weighted by; 0 where there is no edge
  int32_t* row;      // whose edge it is
  uint64_t* target;  // the row at the other end, or num_rows

  Slopes(Arena& arena, int64_t num_edges) {
    slope = arena.take<T>(num_edges);
    row = arena.take<int32_t>(num_edges);
    target = arena.take<uint64_t>(num_edges);
  }
};

template <PottsEdge edge, class T>
__global__ void __launch_bounds__(kThreads)
    slope_kernel(PottsEnergy<T> a, int64_t num_edges, Table<T> table, PottsEnergyGradients<T> g, Slopes<T> slopes) {
  const int64_t rows_at_once = threads_in_grid() / kEdgeLanes, lane = thread_in_grid() % kEdgeLanes;
  for (int64_t i = thread_in_grid() / kEdgeLanes; i < a.num_rows; i += rows_at_once) {
    int64_t first, last;
    bounds_of(a, num_edges, i, first, last);
    for (int64_t e = first + lane; e < last; e += kEdgeLanes) {
      const int64_t j = a.edge_index[e];
      assert(0 <= j && j <= a.num_rows);
      const bool present = j < a.num_rows;
      const T s = present ? similarity<edge>(table, i, j) : T(1);
      if (g.edge_weight) g.edge_weight[e] = present ? value<edge>(s) * g.grad_energy[i] : T(0);
      slopes.slope[e] = present ? a.edge_weight[e] * g.grad_energy[i] * edge_slope<edge>(s) : T(0);
      slopes.row[e] = static_cast<int32_t>(i);
      slopes.target[e] = static_cast<uint64_t>(j);
    }
  }
}

// The gradient on table rows, into log_probs' place; in lq also the sum of each row's slopes.
template <PottsEdge edge, class T>
__global__ void __launch_bounds__(kThreads)
    sum_kernel(PottsEnergy<T> a, int64_t num_edges, Table<T> table, Slopes<T> slopes, RowLists listed, T* grad,
               T* slope_sum) {
  const int64_t rows_at_once = threads_in_grid() / kColumnLanes, lane = thread_in_grid() % kColumnLanes;
  for (int64_t i = thread_in_grid() / kColumnLanes; i < a.num_rows; i += rows_at_once) {
    int64_t first, last;
    bounds_of(a, num_edges, i, first, last);
    for (int64_t c = lane; c < a.num_classes; c += kColumnLanes) {
      const T mine = table.rows[i * table.stride + c];
      T sum = 0, total = 0;
      const auto add = [&](int64_t e, int64_t other_row) {
        const T other = table.rows[other_row * table.stride + c];
        sum += slopes.slope[e] * (edge == PottsEdge::difference ? mine - other : other);
        total += slopes.slope[e];
      };
      for (int64_t e = first; e < last; ++e)
        if (a.edge_index[e] < a.num_rows) add(e, a.edge_index[e]);
      for (int32_t k = listed.first[i]; k < listed.first[i + 1]; ++k)
        add(listed.entry[k], slopes.row[listed.entry[k]]);
      grad[i * a.num_classes + c] = sum;
      if (edge == PottsEdge::log_product_gini && c == 0) slope_sum[i] = total;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    chain_kernel(PottsEnergy<T> a, Table<T> table, const T* slope_sum, T* grad) {
  for (int64_t i = thread_in_grid(); i < a.num_rows; i += threads_in_grid()) {
    const T *u = table.rows + i * table.stride, *log_probs = a.log_probs + i * a.num_classes;
    T* out = grad + i * a.num_classes;
    T along = 0, total = 0, rest = 0;
    if (has_unit_rows(a.relaxation))
      for (int64_t c = 0; c < a.num_classes; ++c) along += u[c] * out[c];
    if (a.relaxation == Relaxation::lq) sum_of_others(u, a.num_classes, total, rest);
    for (int64_t c = 0; c < a.num_classes; ++c) {
      T g = out[c];
      if (has_unit_rows(a.relaxation)) g -= along * u[c];
      if (a.relaxation == Relaxation::lq) g += slope_sum[i] * (u[c] > total / 2 ? rest : total - u[c]);
      out[c] = log_probs[c] < T(kLogFloor) ? T(0) : g * u[c];
    }
  }
}

// Calls f with the kind of edge as a constant.
template <class F>
void with_edge(Relaxation relaxation, F&& f) {
  switch (edge_of(relaxation)) {
    case PottsEdge::product: return f(std::integral_constant<PottsEdge, PottsEdge::product>{});
    case PottsEdge::difference: return f(std::integral_constant<PottsEdge, PottsEdge::difference>{});
    case PottsEdge::log_product: return f(std::integral_constant<PottsEdge, PottsEdge::log_product>{});
    case PottsEdge::log_product_gini: return f(std::integral_constant<PottsEdge, PottsEdge::log_product_gini>{});
  }
}

template <class T>
size_t forward_bytes(const PottsEnergy<T>& a) {
  Arena arena(nullptr);
  const Table<T> table(arena, a);
  return arena.used();
}

template <class T>
void run(const PottsEnergy<T>& a, int64_t num_edges, T* energy, void* workspace, void* stream) {
  if (a.num_rows == 0) return;
  constexpr auto what = "potts_energy";
  Arena arena(workspace);
  const Table<T> table(arena, a);
  launch(what, table_kernel<T>, blocks_for(a.num_rows, kThreads), kThreads, 0, stream, a, table);
  with_edge(a.relaxation, [&](auto edge) {
    launch(what, energy_kernel<decltype(edge)::value, T>, blocks_for(a.num_rows * kEdgeLanes, kThreads), kThreads, 0,
           stream, a, num_edges, table, energy);
  });
}

template <class T>
struct BackwardWorkspace {
  Table<T> table;
  Slopes<T> slopes;
  T* slope_sum;
  unsigned char* lists;

  BackwardWorkspace(Arena& arena, const PottsEnergy<T>& a, int64_t num_edges)
      : table(arena, a), slopes(arena, num_edges) {
    slope_sum = arena.take<T>(a.relaxation == Relaxation::lq ? a.num_rows : 0);
    lists = arena.take<unsigned char>(static_cast<int64_t>(row_lists_bytes(num_edges, a.num_rows)));
  }
};

template <class T>
size_t backward_bytes(const PottsEnergy<T>& a, int64_t num_edges) {
  Arena arena(nullptr);
  const BackwardWorkspace<T> w(arena, a, num_edges);
  return arena.used();
}

template <class T>
void run_backward(const PottsEnergy<T>& a, int64_t num_edges, const PottsEnergyGradients<T>& g, void* workspace,
                  void* stream) {
  if (a.num_rows == 0) return;
  constexpr auto what = "potts_energy_backward";
  Arena arena(workspace);
  const BackwardWorkspace<T> w(arena, a, num_edges);
  launch(what, table_kernel<T>, blocks_for(a.num_rows, kThreads), kThreads, 0, stream, a, w.table);
  with_edge(a.relaxation, [&](auto edge) {
    launch(what, slope_kernel<decltype(edge)::value, T>, blocks_for(a.num_rows * kEdgeLanes, kThreads), kThreads, 0,
           stream, a, num_edges, w.table, g, w.slopes);
    if (!g.log_probs) return;
    const RowLists listed = group_by_row(w.slopes.target, num_edges, a.num_rows, w.lists, stream);
    launch(what, sum_kernel<decltype(edge)::value, T>, blocks_for(a.num_rows * kColumnLanes, kThreads), kThreads, 0,
           stream, a, num_edges, w.table, w.slopes, listed, g.log_probs, w.slope_sum);
  });
  if (g.log_probs)
    launch(what, chain_kernel<T>, blocks_for(a.num_rows, kThreads), kThreads, 0, stream, a, w.table, w.slope_sum,
           g.log_probs);
}

}  // namespace
}  // namespace cuda

size_t potts_energy_workspace_bytes(const PottsEnergy<float>& a) { return cuda::forward_bytes(a); }
size_t potts_energy_workspace_bytes(const PottsEnergy<double>& a) { return cuda::forward_bytes(a); }
void potts_energy_cuda(const PottsEnergy<float>& a, int64_t num_edges, float* energy, void* workspace, void* stream) {
  cuda::run(a, num_edges, energy, workspace, stream);
}
void potts_energy_cuda(const PottsEnergy<double>& a, int64_t num_edges, double* energy, void* workspace, void* stream) {
  cuda::run(a, num_edges, energy, workspace, stream);
}

size_t potts_energy_backward_workspace_bytes(const PottsEnergy<float>& a, int64_t num_edges) {
  return cuda::backward_bytes(a, num_edges);
}
size_t potts_energy_backward_workspace_bytes(const PottsEnergy<double>& a, int64_t num_edges) {
  return cuda::backward_bytes(a, num_edges);
}
void potts_energy_backward_cuda(const PottsEnergy<float>& a, int64_t num_edges, const PottsEnergyGradients<float>& g,
                                void* workspace, void* stream) {
  cuda::run_backward(a, num_edges, g, workspace, stream);
}
void potts_energy_backward_cuda(const PottsEnergy<double>& a, int64_t num_edges, const PottsEnergyGradients<double>& g,
                                void* workspace, void* stream) {
  cuda::run_backward(a, num_edges, g, workspace, stream);
}

}  // namespace pcseg
