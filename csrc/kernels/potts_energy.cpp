#include "potts_energy.h"

#include <cmath>

#include "potts_table.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Edges ahead of the one at work whose rows are asked for: in a shuffled cloud every row is a cache miss.
constexpr int64_t kAhead = 48;

// One vector of edges that share their first row.
template <class T>
struct Block {
  alignas(kVectorBytes) Bits<T> present[kLanes<T>];  // all bits, or none
  alignas(kVectorBytes) T weight[kLanes<T>];         // 0 where not present
  int64_t row[kLanes<T>];                            // table offset of the other end; where not present, of this row
};

// vectors: those of a table row, or 0 where only known at run time.
template <class T, PottsEdge edge, int vectors>
struct Edges {
  static constexpr int kBlock = kLanes<T>;

  const PottsEnergy<T>& a;
  const PottsTable<T>& table;
  const T* u = table.data();
  const int64_t stride = vectors ? vectors * kBlock : table.stride();
  const int64_t num_edges = a.num_edges();

  // Calls f(c) for the first column of each vector of a row.
  template <class F>
  void columns(F&& f) const {
    if constexpr (vectors > 0) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) f(int64_t{v} * kBlock);
    } else {
      for (int64_t c = 0; c < stride; c += kBlock) f(c);
    }
  }

  // The n edges from `first` on; false where an index is out of range.
  template <class N>
  bool decode(int64_t i, int64_t first, N n, Block<T>& block) const {
    bool inside = true;
    const int64_t *index = a.edge_index + first, self = i * stride;
    const T* weight = a.edge_weight + first;
    for (int e = 0; e < n; ++e) {
      const int64_t j = index[e];
      const bool present = static_cast<uint64_t>(j) < static_cast<uint64_t>(a.num_rows);
      inside &= present | (j == a.num_rows);
      block.row[e] = present ? j * stride : self;
      block.present[e] = -static_cast<Bits<T>>(present);
      block.weight[e] = present ? weight[e] : T(0);
    }
    for (int e = n; e < kBlock; ++e) {
      block.row[e] = self;
      block.present[e] = 0;
      block.weight[e] = 0;
    }
    return inside;
  }
  bool decode(int64_t i, int64_t first, int n, Block<T>& block) const {
    return n == kBlock ? decode(i, first, std::integral_constant<int, kBlock>{}, block) : decode<int>(i, first, n, block);
  }

  void prefetch(const T* rows, int64_t first, int n, int for_write) const {
    const int64_t from = std::min(first + kAhead, num_edges - n);
    for (int e = 0; e < n; ++e) {
      const T* row = rows + a.edge_index[from + e] * stride;
      for (int64_t c = 0; c < (vectors ? stride : std::min<int64_t>(stride, 4 * kBlock)); c += 64 / sizeof(T)) {
        if (for_write)
          __builtin_prefetch(row + c, 1);
        else
          __builtin_prefetch(row + c, 0);
      }
    }
  }

  // The sum s of potts_relaxation.h for each edge; 1 where there is none, which no relaxation divides by.
  Vector<T> similarity(int64_t i, const Block<T>& block, int n) const {
    const T* own = u + i * stride;
    const int64_t classes = a.num_classes;
    // lq: the other row's gini / 2 meets a 1, and its 1 a 0.
    const auto own_vector = [&](int64_t c) {
      Vector<T> x = load(own + c);
      if constexpr (edge == PottsEdge::log_product_gini) {
        if (classes >= c && classes < c + kBlock) x[classes - c] = 1;
        if (classes + 1 >= c && classes + 1 < c + kBlock) x[classes + 1 - c] = 0;
      }
      return x;
    };
    Vector<T> mine[vectors ? vectors : 1];
    if constexpr (vectors > 0) columns([&](int64_t c) { mine[c / kBlock] = own_vector(c); });
    Vector<T> s = sums_of_lanes<T>(n, [&](int e) {
      const T* other = u + block.row[e];
      Vector<T> sum{};
      columns([&](int64_t c) {
        const Vector<T> x = vectors ? mine[vectors ? c / kBlock : 0] : own_vector(c);
        if constexpr (edge == PottsEdge::difference) {
          const Vector<T> d = x - load(other + c);
          sum = multiply_add<T>(d, d, sum);
        } else {
          sum = multiply_add<T>(x, load(other + c), sum);
        }
      });
      return sum;
    });
    if constexpr (edge == PottsEdge::log_product_gini) s += own[classes];
    return load(block.present) ? s : broadcast<T>(T(1));
  }

  static Vector<T> value(Vector<T> s) {
    return edge_value<edge>(s, [](Vector<T> x) { return log<T>(x); });
  }

  bool energy(T* out, int64_t begin, int64_t end) const {
    bool inside = true;
    Block<T> block;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t last = a.first_edge(i + 1);
      Vector<T> sum{};
      for (int64_t first = a.first_edge(i); first < last; first += kBlock) {
        const int n = static_cast<int>(std::min<int64_t>(kBlock, last - first));
        prefetch(u, first, n, 0);
        inside &= decode(i, first, n, block);
        sum = multiply_add<T>(load(block.weight), value(similarity(i, block, n)), sum);
      }
      out[i] = sum_in_every_lane<T>(sum)[0];
    }
    return inside;
  }

  // What a worker adds up: the gradient on the table rows begin .. end - 1, whoever lists them. It walks through all
  // edges in their order and takes both ends of those that are its own, so that a row is summed in one order however
  // the rows are shared out.
  void gradient(const PottsEnergyGradients<T>& g, T* grad_rows, int64_t begin, int64_t end) const {
    Block<T> block;
    for (int64_t i = 0; i < a.num_rows; ++i) {
      const int64_t last = a.first_edge(i + 1);
      const bool own = begin <= i && i < end;
      for (int64_t first = a.first_edge(i); first < last; first += kBlock) {
        const int n = static_cast<int>(std::min<int64_t>(kBlock, last - first));
        if (own) {
          prefetch(u, first, n, 0);
          if (grad_rows) prefetch(grad_rows, first, n, 1);
          decode(i, first, n, block);
          own_edges(g, grad_rows, i, first, n, begin, end, block);
        } else if (grad_rows) {
          foreign_edges(g, grad_rows, i, first, n, begin, end, block);
        }
      }
    }
  }

 private:
  Vector<T> scaled_slope(const PottsEnergyGradients<T>& g, int64_t i, const Block<T>& block, Vector<T> s) const {
    return load(block.weight) * g.grad_energy[i] * edge_slope<edge>(s);
  }

  void own_edges(const PottsEnergyGradients<T>& g, T* grad_rows, int64_t i, int64_t first, int n, int64_t begin,
                 int64_t end, const Block<T>& block) const {
    constexpr bool constant_slope = edge == PottsEdge::product || edge == PottsEdge::difference;
    Vector<T> s{};
    if (!constant_slope || g.edge_weight) s = similarity(i, block, n);
    if (g.edge_weight) {
      const Vector<T> grad = load(block.present) ? value(s) * g.grad_energy[i] : Vector<T>{};
      std::memcpy(g.edge_weight + first, &grad, n * sizeof(T));
    }
    if (!grad_rows) return;
    alignas(kVectorBytes) T slope[kBlock];
    store<T>(slope, scaled_slope(g, i, block, s));
    columns([&](int64_t c) {
      const Vector<T> mine = load(u + i * stride + c);
      Vector<T> sum = load(grad_rows + i * stride + c);
      for (int e = 0; e < n; ++e) {
        const Vector<T> other = load(u + block.row[e] + c);
        sum = multiply_add<T>(broadcast<T>(slope[e]), edge == PottsEdge::difference ? mine - other : other, sum);
      }
      store<T>(grad_rows + i * stride + c, sum);
    });
    for (int e = 0; e < n; ++e)
      if (begin * stride <= block.row[e] && block.row[e] < end * stride)
        other_end(grad_rows, i, block.row[e], slope[e]);
  }

  void foreign_edges(const PottsEnergyGradients<T>& g, T* grad_rows, int64_t i, int64_t first, int n, int64_t begin,
                     int64_t end, Block<T>& block) const {
    const int64_t* index = a.edge_index + first;
    const auto count = static_cast<uint64_t>(end - begin);
    int found = 0;
    for (int e = 0; e < n; ++e) found += static_cast<uint64_t>(index[e] - begin) < count;
    if (found == 0) return;
    found = 0;
    for (int e = 0; e < n; ++e) {
      block.row[found] = index[e] * stride;
      block.weight[found] = a.edge_weight[first + e];
      found += static_cast<uint64_t>(index[e] - begin) < count;
    }
    for (int e = 0; e < kBlock; ++e) block.present[e] = -static_cast<Bits<T>>(e < found);
    for (int e = found; e < kBlock; ++e) {
      block.row[e] = i * stride;
      block.weight[e] = 0;
    }
    constexpr bool constant_slope = edge == PottsEdge::product || edge == PottsEdge::difference;
    alignas(kVectorBytes) T slope[kBlock];
    store<T>(slope, scaled_slope(g, i, block, constant_slope ? Vector<T>{} : similarity(i, block, found)));
    for (int e = 0; e < found; ++e) other_end(grad_rows, i, block.row[e], slope[e]);
  }

  void other_end(T* grad_rows, int64_t i, int64_t row, T slope) const {
    const Vector<T> factor = broadcast<T>(edge == PottsEdge::difference ? -slope : slope);
    columns([&](int64_t c) {
      const Vector<T> mine = load(u + i * stride + c);
      const Vector<T> d = edge == PottsEdge::difference ? mine - load(u + row + c) : mine;
      store<T>(grad_rows + row + c, multiply_add<T>(factor, d, load(grad_rows + row + c)));
    });
  }
};

template <class T, PottsEdge edge, class F>
void with_vectors(const PottsEnergy<T>& a, const PottsTable<T>& table, F&& f) {
  switch (table.vectors()) {
    case 1: return f(Edges<T, edge, 1>{a, table});
    case 2: return f(Edges<T, edge, 2>{a, table});
    case 4: return f(Edges<T, edge, 4>{a, table});
    default: return f(Edges<T, edge, 0>{a, table});
  }
}
template <class T, class F>
void with_edges(const PottsEnergy<T>& a, const PottsTable<T>& table, F&& f) {
  switch (edge_of(a.relaxation)) {
    case PottsEdge::product: return with_vectors<T, PottsEdge::product>(a, table, f);
    case PottsEdge::difference: return with_vectors<T, PottsEdge::difference>(a, table, f);
    case PottsEdge::log_product: return with_vectors<T, PottsEdge::log_product>(a, table, f);
    case PottsEdge::log_product_gini: return with_vectors<T, PottsEdge::log_product_gini>(a, table, f);
  }
}

template <class T>
bool run(const PottsEnergy<T>& a, T* out, const Parallel& parallel) {
  std::atomic<bool> inside{true};
  const PottsTable<T> table(a, parallel);
  with_edges(a, table, [&](const auto& edges) {
    parallel.tasks((a.num_rows + kRowsInTask - 1) / kRowsInTask, [&](int64_t task, int) {
      if (!edges.energy(out, task * kRowsInTask, std::min(a.num_rows, (task + 1) * kRowsInTask))) inside = false;
    });
  });
  return inside;
}

template <class T>
void run_backward(const PottsEnergy<T>& a, const PottsEnergyGradients<T>& g, const Parallel& parallel) {
  const PottsTable<T> table(a, parallel);
  const int64_t stride = table.stride(), workers = parallel.threads();
  AlignedArray<T> grad_rows(g.log_probs ? a.num_rows * stride : 0);
  with_edges(a, table, [&](const auto& edges) {
    parallel.workers([&](int worker) {
      const int64_t begin = a.num_rows * worker / workers, end = a.num_rows * (worker + 1) / workers;
      if (!g.log_probs) return edges.gradient(g, nullptr, begin, end);
      std::fill(grad_rows.data() + begin * stride, grad_rows.data() + end * stride, T(0));
      edges.gradient(g, grad_rows.data(), begin, end);
      table.gradient(grad_rows.data(), g.log_probs, begin, end);
    });
  });
}

}  // namespace

bool potts_energy(const PottsEnergy<float>& a, float* energy, const Parallel& parallel) {
  return run(a, energy, parallel);
}
bool potts_energy(const PottsEnergy<double>& a, double* energy, const Parallel& parallel) {
  return run(a, energy, parallel);
}
void potts_energy_backward(const PottsEnergy<float>& a, const PottsEnergyGradients<float>& g,
                           const Parallel& parallel) {
  run_backward(a, g, parallel);
}
void potts_energy_backward(const PottsEnergy<double>& a, const PottsEnergyGradients<double>& g,
                           const Parallel& parallel) {
  run_backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
