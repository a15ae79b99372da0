#include "potts_energy.h"

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
  alignas(kVectorBytes) T sum[kLanes<T>];            // s of potts_relaxation.h, later what is made of it
  int64_t other[kLanes<T>];                          // table offset of the other end; where not present, of this row
  int64_t row, first;                                // the row, and its edge in lane 0
  int count;
  bool own;  // the row belongs to this worker, not only the other ends
};

// Blocks are worked on several at a time, step by step, so that the steps' long chains of operations overlap.
template <class T>
struct Batch {
  static constexpr int kSize = kLanes<T>;
  Block<T> blocks[kSize];
  int size = 0;

  Block<T>* begin() { return blocks; }
  Block<T>* end() { return blocks + size; }
};

// Calls f with n, as a constant where it is that of a full block.
template <class T, class F>
[[gnu::always_inline]] inline auto with_count(int n, F&& f) {
  return n == kLanes<T> ? f(std::integral_constant<int, kLanes<T>>{}) : f(n);
}

// vectors: those of a table row, or 0 where only known at run time.
template <class T, PottsEdge edge, int vectors>
struct Edges {
  static constexpr int kBlock = kLanes<T>;
  static constexpr bool kConstantSlope = edge == PottsEdge::product || edge == PottsEdge::difference;

  const PottsEnergy<T>& a;
  const PottsTable<T>& table;
  const T* u = table.data();
  const int64_t num_edges = a.num_edges();

  // What a row's edges cost, for the rows begin .. end - 1; false where an index is out of range.
  bool energy(T* out, int64_t begin, int64_t end) const {
    std::fill(out + begin, out + end, T(0));
    bool inside = true;
    Batch<T> batch;
    const auto flush = [&] {
      alignas(kVectorBytes) T total[kBlock];
      store<T>(total, sums_of_lanes<T>(batch.size, [&](int b) [[gnu::always_inline]] {
        return value(load(batch.blocks[b].sum)) * load(batch.blocks[b].weight);
      }));
      for (int b = 0; b < batch.size; ++b) out[batch.blocks[b].row] += total[b];
      batch.size = 0;
    };
    for (int64_t i = begin; i < end; ++i) {
      const int64_t last = a.first_edge(i + 1);
      for (int64_t first = a.first_edge(i); first < last; first += kBlock) {
        Block<T>& block = batch.blocks[batch.size++];
        block.count = static_cast<int>(std::min<int64_t>(kBlock, last - first));
        prefetch(first, block.count);
        block.row = i;
        inside &= with_count<T>(block.count, [&](auto n) { return decode(first, n, block); });
        store<T>(block.sum, similarity(block));
        if (batch.size == Batch<T>::kSize) flush();
      }
    }
    // Their lanes are read up to the next multiple of four.
    for (int b = batch.size; b < Batch<T>::kSize; ++b)
      for (int e = 0; e < kBlock; ++e) batch.blocks[b].sum[e] = batch.blocks[b].weight[e] = 1;
    flush();
    return inside;
  }

  // What a worker adds up: the gradient on the table rows begin .. end - 1, whoever lists them. It walks through all
  // edges in their order and takes both ends of those that are its own, so that a row is summed in one order however
  // the rows are shared out.
  void gradient(const PottsEnergyGradients<T>& g, T* grad_rows, int64_t begin, int64_t end) const {
    Batch<T> batch;
    const auto flush = [&] {
      differentiate(g, batch);
      if (grad_rows)
        for (const Block<T>& block : batch)
          with_count<T>(block.count, [&](auto n) { distribute(grad_rows, block, n, begin, end); });
      batch.size = 0;
    };
    const int64_t from = grad_rows ? 0 : begin, to = grad_rows ? a.num_rows : end;
    for (int64_t i = from; i < to; ++i) {
      const int64_t last = a.first_edge(i + 1);
      for (int64_t first = a.first_edge(i); first < last; first += kBlock) {
        Block<T>& block = batch.blocks[batch.size];
        block.count = static_cast<int>(std::min<int64_t>(kBlock, last - first));
        block.row = i;
        block.first = first;
        block.own = begin <= i && i < end;
        if (block.own) {
          prefetch(grad_rows, first, block.count, true, begin, end);
          with_count<T>(block.count, [&](auto n) { decode(first, n, block); });
        } else {
          const int listed = block.count;
          with_count<T>(listed, [&](auto n) { decode_between(first, n, begin, end, block); });
          if (block.count == 0) continue;
          prefetch(grad_rows, first, listed, false, begin, end);  // those ahead are as scattered as these
        }
        if (!kConstantSlope || g.edge_weight) store<T>(block.sum, similarity(block));
        if (++batch.size == Batch<T>::kSize) flush();
      }
    }
    flush();
  }

 private:
  int64_t stride() const {
    if constexpr (vectors > 0) return vectors * kBlock;
    return table.stride();
  }

  // Calls f(c) for the first column of each vector of a row.
  template <class F>
  [[gnu::always_inline]] void columns(F&& f) const {
    if constexpr (vectors > 0) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) f(int64_t{v} * kBlock);
    } else {
      for (int64_t c = 0; c < stride(); c += kBlock) f(c);
    }
  }

  // Asks for the rows of n edges ahead.
  [[gnu::always_inline]] void prefetch(int64_t first, int n) const {
    const int64_t from = std::min(first + kAhead, num_edges - n);
    for (int e = 0; e < n; ++e) prefetch_row<0>(u, a.edge_index[from + e]);
  }
  // The same for a gradient on rows begin .. end - 1. To ask for others' rows in order to write them would take them
  // from the caches of the workers they belong to.
  [[gnu::always_inline]] void prefetch(T* grad_rows, int64_t first, int n, bool own, int64_t begin, int64_t end) const {
    const int64_t from = std::min(first + kAhead, num_edges - n);
    for (int e = 0; e < n; ++e) {
      const int64_t j = a.edge_index[from + e], inside = begin <= j && j < end ? j : begin;
      prefetch_row<0>(u, own ? j : inside);
      if (grad_rows) prefetch_row<1>(grad_rows, inside);
    }
  }
  // Inlined, or the compiler drops the call of a function that does nothing else. The row may be any number.
  template <int for_write>
  [[gnu::always_inline]] void prefetch_row(const T* rows, int64_t row) const {
    const auto step = static_cast<uint64_t>(stride()) * sizeof(T);
    const uint64_t address = reinterpret_cast<uintptr_t>(rows) + static_cast<uint64_t>(row) * step;
    for (uint64_t byte = 0; byte < std::min<uint64_t>(step, 256); byte += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(address + byte), for_write);
  }

  // The n edges from `first` on; false where an index is out of range.
  template <class N>
  [[gnu::always_inline]] bool decode(int64_t first, N n, Block<T>& block) const {
    const int64_t* index = a.edge_index + first;
    const T* weight = a.edge_weight + first;
    const auto rows = static_cast<uint64_t>(a.num_rows);
    uint64_t outside = 0;
    for (int e = 0; e < n; ++e) {
      const auto j = static_cast<uint64_t>(index[e]);
      outside |= j > rows;
      block.other[e] = (j < rows ? index[e] : block.row) * stride();
    }
    for (int e = 0; e < n; ++e) {
      const bool present = static_cast<uint64_t>(index[e]) < rows;
      const T w = weight[e];
      block.present[e] = -static_cast<Bits<T>>(present);
      block.weight[e] = present ? w : T(0);
    }
    clear_from(n, block);
    return outside == 0;
  }

  // Those of the n edges from `first` on whose other end lies in begin .. end - 1; block.count becomes how many.
  template <class N>
  [[gnu::always_inline]] void decode_between(int64_t first, N n, int64_t begin, int64_t end, Block<T>& block) const {
    const int64_t* index = a.edge_index + first;
    const auto count = static_cast<uint64_t>(end - begin);
    int found = 0;
    for (int e = 0; e < n; ++e) found += static_cast<uint64_t>(index[e]) - static_cast<uint64_t>(begin) < count;
    block.count = found;
    if (found == 0) return;
    found = 0;
    for (int e = 0; e < n; ++e) {
      block.other[found] = static_cast<int64_t>(static_cast<uint64_t>(index[e]) * static_cast<uint64_t>(stride()));
      block.weight[found] = a.edge_weight[first + e];
      block.present[found] = -1;
      found += static_cast<uint64_t>(index[e]) - static_cast<uint64_t>(begin) < count;
    }
    clear_from(found, block);
  }

  void clear_from(int n, Block<T>& block) const {
    for (int e = n; e < kBlock; ++e) {
      block.other[e] = block.row * stride();
      block.present[e] = 0;
      block.weight[e] = 0;
    }
  }

  // The sum s of potts_relaxation.h for each edge; 1 where there is none, which no relaxation divides by.
  [[gnu::always_inline]] Vector<T> similarity(const Block<T>& block) const {
    const T* own = u + block.row * stride();
    Vector<T> mine[vectors ? vectors : 1];
    if constexpr (vectors > 0) columns([&](int64_t c) { mine[c / kBlock] = table.as_query(own, c); });
    Vector<T> s = sums_of_lanes<T>(block.count, [&](int e) [[gnu::always_inline]] {
      const T* other = u + block.other[e];
      Vector<T> sum{};
      columns([&](int64_t c) [[gnu::always_inline]] {
        const Vector<T> x = vectors ? mine[vectors ? c / kBlock : 0] : table.as_query(own, c);
        const Vector<T> y = load(other + c), d = edge == PottsEdge::difference ? x - y : x;
        sum = multiply_add<T>(d, edge == PottsEdge::difference ? d : y, sum);
      });
      return sum;
    });
    if constexpr (edge == PottsEdge::log_product_gini) s += own[a.num_classes];
    return load(block.present) ? s : broadcast<T>(T(1));
  }

  [[gnu::always_inline]] static Vector<T> value(Vector<T> s) {
    return edge_value<edge>(s, [](Vector<T> x) [[gnu::always_inline]] { return log<T>(x); });
  }

  // Writes the gradient to the weights, and turns the sums into what a row's gradient gets of the other row.
  void differentiate(const PottsEnergyGradients<T>& g, Batch<T>& batch) const {
    for (Block<T>& block : batch) {
      const Vector<T> s = load(block.sum), grad_energy = broadcast<T>(g.grad_energy[block.row]);
      if (g.edge_weight && block.own) {
        const Vector<T> grad = load(block.present) ? value(s) * grad_energy : Vector<T>{};
        if (block.count == kBlock)
          store<T>(g.edge_weight + block.first, grad);
        else
          std::memcpy(g.edge_weight + block.first, &grad, block.count * sizeof(T));
      }
      store<T>(block.sum, load(block.weight) * grad_energy * edge_slope<edge>(s));
    }
  }

  template <class N>
  [[gnu::always_inline]] void distribute(T* grad_rows, const Block<T>& block, N n, int64_t begin, int64_t end) const {
    constexpr bool difference = edge == PottsEdge::difference;
    const int64_t self = block.row * stride();
    if (block.own)
      columns([&](int64_t c) {
        const Vector<T> mine = load(u + self + c);
        Vector<T> sums[2]{};  // two chains of additions
        for (int e = 0; e < n; ++e) {
          const Vector<T> other = load(u + block.other[e] + c);
          sums[e % 2] = multiply_add<T>(broadcast<T>(block.sum[e]), difference ? mine - other : other, sums[e % 2]);
        }
        store<T>(grad_rows + self + c, load(grad_rows + self + c) + (sums[0] + sums[1]));
      });
    const auto from = static_cast<uint64_t>(begin * stride()), size = static_cast<uint64_t>(end * stride()) - from;
    Vector<T> mine[vectors ? vectors : 1];
    if constexpr (vectors > 0) columns([&](int64_t c) { mine[c / kBlock] = load(u + self + c); });
    int lanes[kBlock], found = 0;  // without a branch that a shuffled cloud would make unpredictable
    for (int e = 0; e < n; ++e) {
      lanes[found] = e;
      found += static_cast<uint64_t>(block.other[e]) - from < size;
    }
    for (int f = 0; f < found; ++f) {
      const int e = lanes[f];
      const int64_t other = block.other[e];
      const Vector<T> slope = broadcast<T>(difference ? -block.sum[e] : block.sum[e]);
      columns([&](int64_t c) {
        const Vector<T> x = vectors ? mine[vectors ? c / kBlock : 0] : load(u + self + c);
        const Vector<T> d = difference ? x - load(u + other + c) : x;
        store<T>(grad_rows + other + c, multiply_add<T>(slope, d, load(grad_rows + other + c)));
      });
    }
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
  if (g.log_probs) prefer_huge_pages(g.log_probs, static_cast<size_t>(a.num_rows * a.num_classes) * sizeof(T));
  if (g.edge_weight) prefer_huge_pages(g.edge_weight, static_cast<size_t>(a.num_edges()) * sizeof(T));
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
