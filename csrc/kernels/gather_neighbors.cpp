#include "gather_neighbors.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Channels: their number where it is small and known, else 0.
template <int Channels, class T>
bool gather(const GatherNeighbors<T>& a, int64_t begin, int64_t end) {
  const int64_t channels = Channels ? Channels : a.channels;
  bool inside = true;
  for (int64_t j = begin; j < end; ++j) {
    const uint64_t row = static_cast<uint64_t>(a.neighbors[j]), rows = static_cast<uint64_t>(a.num_rows);
    T* __restrict out = a.out + j * channels;
    if (row < rows) {
      const T* value = a.values + row * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = value[c];
    } else {
      inside &= row == rows;
      for (int64_t c = 0; c < channels; ++c) out[c] = a.fill;
    }
  }
  return inside;
}

template <class T>
bool run(const GatherNeighbors<T>& a, const Parallel& parallel) {
  std::atomic<bool> inside{true};
  parallel.ranges(a.num_entries, 1 + 16384 / (a.channels + 1), [&](int64_t begin, int64_t end) {
    bool ok;
    switch (a.channels) {
      case 1: ok = gather<1>(a, begin, end); break;
      case 2: ok = gather<2>(a, begin, end); break;
      case 3: ok = gather<3>(a, begin, end); break;
      case 4: ok = gather<4>(a, begin, end); break;
      default: ok = gather<0>(a, begin, end);
    }
    if (!ok) inside = false;
  });
  return inside;
}

// Every thread reads all entries and sums those of its own rows: their order does not depend on the split.
template <int Channels, class T>
void scatter(const GatherNeighborsBackward<T>& a, int64_t begin, int64_t end) {
  const int64_t channels = Channels ? Channels : a.channels;
  std::fill(a.grad_values + begin * channels, a.grad_values + end * channels, T(0));
  const uint64_t owned = static_cast<uint64_t>(end - begin);
  for (int64_t j = 0; j < a.num_entries; ++j) {
    const uint64_t row = static_cast<uint64_t>(a.neighbors[j] - begin);
    if (row >= owned) continue;
    const T* grad = a.grad + j * channels;
    T* __restrict sum = a.grad_values + (begin + static_cast<int64_t>(row)) * channels;
    for (int64_t c = 0; c < channels; ++c) sum[c] += grad[c];
  }
}

template <class T>
void run(const GatherNeighborsBackward<T>& a, const Parallel& parallel) {
  // A thread is worth its scan of all entries where its share of the sums costs as much.
  const int64_t parts = std::min<int64_t>(parallel.threads(), 1 + a.num_entries * a.channels / 16384);
  parallel.ranges(a.num_rows, (a.num_rows + parts - 1) / parts, [&](int64_t begin, int64_t end) {
    switch (a.channels) {
      case 1: return scatter<1>(a, begin, end);
      case 2: return scatter<2>(a, begin, end);
      case 3: return scatter<3>(a, begin, end);
      case 4: return scatter<4>(a, begin, end);
      default: return scatter<0>(a, begin, end);
    }
  });
}

}  // namespace

bool gather_neighbors(const GatherNeighbors<float>& a, const Parallel& parallel) { return run(a, parallel); }
bool gather_neighbors(const GatherNeighbors<double>& a, const Parallel& parallel) { return run(a, parallel); }
void gather_neighbors_backward(const GatherNeighborsBackward<float>& a, const Parallel& parallel) { run(a, parallel); }
void gather_neighbors_backward(const GatherNeighborsBackward<double>& a, const Parallel& parallel) { run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
