#include "permutohedral_lattice.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "aligned_array.h"
#include "lattice_simplex.h"
#include "vector.h"

namespace pcseg::PCSEG_ISA {
namespace {

// Keys with numbers in a hash table of linear probing, at most half full.
template <int W>
class KeyTable {
 public:
  explicit KeyTable(int64_t expected = 0) {
    int bits = 10;
    while ((int64_t{1} << bits) < 2 * expected) ++bits;
    resize(bits);
  }

  int32_t count() const { return count_; }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[static_cast<int64_t>(hash >> shift_)]); }

  // Makes room for `more` keys.
  void reserve(int64_t more) {
    if (2 * (count_ + more) <= size_) return;
    const AlignedArray<Slot> old = std::move(slots_);
    const int64_t old_size = size_;
    int bits = 64 - shift_;
    while ((int64_t{1} << bits) < 2 * (count_ + more)) ++bits;
    resize(bits < 18 ? bits + 1 : bits);  // sparser where it stays in cache
    for (int64_t s = 0; s < old_size; ++s)
      if (old[s].number >= 0) slots_[place(old[s].key, old[s].key.hash())] = old[s];
  }

  // The key's number, which is `number` where the key is new.
  int32_t add(const LatticeKey<W>& key, uint64_t hash, int32_t number) {
    Slot& slot = slots_[place(key, hash)];
    if (slot.number < 0) {
      slot = {key, number};
      ++count_;
    }
    return slot.number;
  }
  // The key's number, or -1.
  int32_t find(const LatticeKey<W>& key, uint64_t hash) const { return slots_[place(key, hash)].number; }

  template <class F>
  void renumber(F&& f) {
    for (int64_t s = 0; s < size_; ++s)
      if (slots_[s].number >= 0) slots_[s].number = f(slots_[s].number);
  }

 private:
  struct Slot {
    LatticeKey<W> key;
    int32_t number;
  };

  void resize(int bits) {
    shift_ = 64 - bits;
    size_ = int64_t{1} << bits;
    slots_ = AlignedArray<Slot>(size_);
    for (int64_t s = 0; s < size_; ++s) slots_[s].number = -1;
  }
  int64_t place(const LatticeKey<W>& key, uint64_t hash) const {
    int64_t s = static_cast<int64_t>(hash >> shift_);
    while (slots_[s].number >= 0 && !(slots_[s].key == key)) s = (s + 1) & (size_ - 1);
    return s;
  }

  AlignedArray<Slot> slots_;
  int64_t size_ = 0;
  int shift_ = 0;
  int32_t count_ = 0;
};

struct Bounds {
  double low[max_lattice_dims], high[max_lattice_dims];
};

// False where a position is not finite or too large.
template <class T>
bool find_bounds(const PermutohedralLattice<T>& a, const Parallel& parallel, Bounds& bounds) {
  std::fill_n(bounds.low, max_lattice_dims, std::numeric_limits<double>::infinity());
  std::fill_n(bounds.high, max_lattice_dims, -std::numeric_limits<double>::infinity());
  std::mutex mutex;
  bool nan = false;
  const int dims = a.dims;
  parallel.ranges(a.num_points, 8192, [&](int64_t begin, int64_t end) {
    // Sixteen rows side by side make the loop contiguous.
    constexpr int rows = 16;
    T low[rows * max_lattice_dims], high[rows * max_lattice_dims], zero[rows * max_lattice_dims];
    const int lanes = rows * dims;
    std::fill_n(low, lanes, std::numeric_limits<T>::infinity());
    std::fill_n(high, lanes, -std::numeric_limits<T>::infinity());
    std::fill_n(zero, lanes, T(0));
    const T* x = a.positions + begin * dims;
    const T* const last = a.positions + end * dims;
    const auto take = [&](int count) {
      for (int j = 0; j < count; ++j) {
        low[j] = x[j] < low[j] ? x[j] : low[j];
        high[j] = x[j] > high[j] ? x[j] : high[j];
        zero[j] += x[j] * T(0);  // NaN from then on where x is not finite
      }
    };
    for (; x + lanes <= last; x += lanes) take(lanes);
    take(static_cast<int>(last - x));
    const std::lock_guard lock(mutex);
    for (int j = 0; j < lanes; ++j) {
      bounds.low[j % dims] = std::min<double>(bounds.low[j % dims], low[j]);
      bounds.high[j % dims] = std::max<double>(bounds.high[j % dims], high[j]);
      nan |= !(zero[j] == T(0));
    }
  });
  bool inside = !nan;
  for (int d = 0; d < dims; ++d)
    inside &= bounds.low[d] >= -max_lattice_position && bounds.high[d] <= max_lattice_position;
  return inside;
}

template <class T>
int64_t first_bad_row(const PermutohedralLattice<T>& a) {
  int64_t at = 0;
  while (std::abs(a.positions[at]) <= T(max_lattice_position)) ++at;
  return at / a.dims;
}

template <class T, int D, int W>
class Builder {
 public:
  Builder(const PermutohedralLattice<T>& a, const LatticePlan& plan, const Parallel& parallel)
      : a_(a), plan_(plan), parallel_(parallel) {
    parts_ = std::clamp<int64_t>(std::min<int64_t>(parallel.threads(), a.num_points / 4096), 1, 64);
    keys_.resize(parts_);
    for (int64_t part = 0; part < parts_; ++part) tables_.emplace_back(0);
  }

  int64_t run() {
    // Each part of the points numbers its own lattice points; then the parts' numbers are joined.
    parallel_.tasks(parts_, [&](int64_t part, int) { number_part(part); });
    if (parts_ > 1) join();
    const int64_t count = parts_ > 1 ? static_cast<int64_t>(joined_.size()) : tables_[0].count();
    link_neighbors(a_.allocate(a_.context, count), count);
    return count;
  }

 private:
  static constexpr int kBlock = 64;
  using Key = LatticeKey<W>;

  int64_t part_begin(int64_t part) const { return a_.num_points * part / parts_; }

  struct Block {
    alignas(64) double x[D][kBlock], cell[D + 1][kBlock], rank[D + 1][kBlock];
    alignas(64) T weight[D + 1][kBlock];
    alignas(64) uint64_t word[D + 1][kBlock];  // of the keys, where one word holds a key
    Key key[kBlock][D + 1];
    uint64_t hash[kBlock][D + 1];
  };

  // Simplices of all kBlock places, and their keys without the cloud where one word holds a key.
  static void embed(Block& b, const LatticePlan& plan) {
    using Integers = Vector<uint64_t>;
    uint64_t origin = 0;
    for (int d = 0; d < D; ++d) origin += static_cast<uint64_t>(plan.low[d]) << plan.shift[d];
    for (int i = 0; i < kBlock; i += kLanes<double>) {
      Vector<double> x[D], cell[D + 1], rank[D + 1], weight[D + 1];
      for (int d = 0; d < D; ++d) x[d] = load(b.x[d] + i);
      enclosing_simplex<D>(x, plan.scale, cell, rank, weight);
      for (int k = 0; k <= D; ++k) {
        const Vector<double> scaled = weight[k] * plan.weight_scale;
        for (int lane = 0; lane < kLanes<double>; ++lane) b.weight[k][i + lane] = static_cast<T>(scaled[lane]);
      }
      if constexpr (W == 1) {
        const double magic = 6755399441055744.0;  // the low bits of cell + magic are the cell as an integer
        Integers key = -origin - Integers{}, of_rank[D + 1] = {};
        for (int d = 0; d < D; ++d) {
          key += ((Integers)(cell[d] + magic) - std::bit_cast<uint64_t>(magic)) << plan.shift[d];
          const Integers unit = (uint64_t{1} << plan.shift[d]) - Integers{};
          for (int r = 0; r <= D; ++r) of_rank[r] |= (Integers)(rank[d] == double(r)) & unit;
        }
        store(b.word[0] + i, key);
        for (int k = 1; k <= D; ++k) {
          key += 1 - of_rank[D + 1 - k];
          store(b.word[k] + i, key);
        }
      } else {
        for (int k = 0; k <= D; ++k) {
          store(b.cell[k] + i, cell[k]);
          store(b.rank[k] + i, rank[k]);
        }
      }
    }
  }

  void find_keys(Block& b, int i, int64_t cloud) const {
    if constexpr (W == 1) {
      const uint64_t of_cloud = static_cast<uint64_t>(cloud) << plan_.cloud_shift;
      for (int k = 0; k <= D; ++k) b.key[i][k].word[0] = b.word[k][i] + of_cloud;
    } else {
      int64_t q[D];
      int axis[D + 1];
      for (int d = 0; d < D; ++d) q[d] = static_cast<int64_t>(b.cell[d][i]);
      for (int d = 0; d <= D; ++d) axis[static_cast<int>(b.rank[d][i])] = d;
      b.key[i][0] = first_vertex<W>(plan_, D, q, cloud);
      for (int k = 1; k <= D; ++k) {
        b.key[i][k] = b.key[i][k - 1];
        step_colour(plan_, D, axis[D + 1 - k], b.key[i][k]);
      }
    }
  }

  void number_part(int64_t part) {
    const auto block = std::make_unique<Block>();
    Block& b = *block;
    KeyTable<W>& table = tables_[part];
    std::vector<Key>& keys = keys_[part];
    int64_t cloud = std::upper_bound(a_.offsets, a_.offsets + a_.num_clouds + 1, part_begin(part)) - a_.offsets - 1;
    for (int64_t first = part_begin(part), end = part_begin(part + 1); first < end; first += kBlock) {
      const int rows = static_cast<int>(std::min<int64_t>(kBlock, end - first));
      const T* const positions = a_.positions + first * D;
      for (int i = 0; i < rows; ++i)
        for (int d = 0; d < D; ++d) b.x[d][i] = static_cast<double>(positions[i * D + d]);
      for (int d = 0; d < D; ++d) std::fill(b.x[d] + rows, b.x[d] + kBlock, 0.0);
      embed(b, plan_);
      T* const weights = a_.weights + first * (D + 1);
      table.reserve(kBlock * (D + 1));
      for (int i = 0; i < rows; ++i) {
        while (a_.offsets[cloud + 1] <= first + i) ++cloud;
        find_keys(b, i, cloud);
        for (int k = 0; k <= D; ++k) {
          weights[i * (D + 1) + k] = b.weight[k][i];
          b.hash[i][k] = b.key[i][k].hash();
          table.prefetch(b.hash[i][k]);
        }
      }
      int32_t* const vertices = a_.vertices + first * (D + 1);
      for (int i = 0; i < rows; ++i)
        for (int k = 0; k <= D; ++k) {
          const int32_t next = table.count(), number = table.add(b.key[i][k], b.hash[i][k], next);
          vertices[i * (D + 1) + k] = number;
          if (number == next) keys.push_back(b.key[i][k]);
        }
    }
  }

  // Which table holds a key when parts are joined: from the hash's low half, its high half chooses the slot.
  int64_t owner_of(uint64_t hash) const {
    return static_cast<int64_t>(((hash & 0xffffffffu) * static_cast<uint64_t>(parts_)) >> 32);
  }

  void join() {
    std::vector<int64_t> before(parts_ + 1, 0);
    for (int64_t part = 0; part < parts_; ++part)
      before[part + 1] = before[part] + static_cast<int64_t>(keys_[part].size());
    // first[i]: where the i-th of all parts' keys, one after the other, occurs first. Each owner finds that of its keys.
    std::vector<int32_t> first(before[parts_]);
    parallel_.tasks(parts_, [&](int64_t owner, int) {
      KeyTable<W> table(before[parts_] / parts_ / 2);
      for (int64_t part = 0; part < parts_; ++part)
        for (int64_t i = 0, n = before[part + 1] - before[part]; i < n; ++i) {
          const uint64_t hash = keys_[part][i].hash();
          if (owner_of(hash) != owner) continue;
          table.reserve(1);
          first[before[part] + i] = table.add(keys_[part][i], hash, static_cast<int32_t>(before[part] + i));
        }
      tables_[owner] = std::move(table);
    });
    for (int64_t part = 0; part < parts_; ++part)
      for (int64_t i = before[part]; i < before[part + 1]; ++i) {
        if (first[i] == i) {
          first[i] = static_cast<int32_t>(joined_.size());
          joined_.push_back(keys_[part][i - before[part]]);
        } else {
          first[i] = first[first[i]];
        }
      }
    parallel_.tasks(parts_, [&](int64_t part, int) {
      tables_[part].renumber([&](int32_t i) { return first[i]; });
      for (int64_t e = part_begin(part) * (D + 1), end = part_begin(part + 1) * (D + 1); e < end; ++e)
        a_.vertices[e] = first[before[part] + a_.vertices[e]];
    });
  }

  void link_neighbors(int32_t* neighbors, int64_t count) {
    const std::vector<Key>& keys = parts_ > 1 ? joined_ : keys_[0];
    const auto none = static_cast<int32_t>(count);
    parallel_.ranges((count + 1) * 2 * (D + 1), 16384,
                     [&](int64_t begin, int64_t end) { std::fill(neighbors + begin, neighbors + end, none); });
    parallel_.ranges(count, 1024, [&](int64_t begin, int64_t end) {
      constexpr int step = 16;
      Key key[step * (D + 1)];
      uint64_t hash[step * (D + 1)];
      for (int64_t first = begin; first < end; first += step) {
        const int rows = static_cast<int>(std::min<int64_t>(step, end - first));
        for (int i = 0; i < rows; ++i)
          for (int axis = 0; axis <= D; ++axis) {
            const int at = i * (D + 1) + axis;
            key[at] = next_along(plan_, D, axis, keys[first + i]);
            hash[at] = key[at].hash();
            tables_[parts_ > 1 ? owner_of(hash[at]) : 0].prefetch(hash[at]);
          }
        for (int i = 0; i < rows; ++i)
          for (int axis = 0; axis <= D; ++axis) {
            const int at = i * (D + 1) + axis;
            const int32_t next = tables_[parts_ > 1 ? owner_of(hash[at]) : 0].find(key[at], hash[at]);
            if (next < 0) continue;
            int32_t* const along = neighbors + axis * (count + 1) * 2;
            along[(first + i) * 2] = next;
            along[int64_t{next} * 2 + 1] = static_cast<int32_t>(first + i);  // who is before it, nobody else writes
          }
      }
    });
  }

  const PermutohedralLattice<T>& a_;
  const LatticePlan& plan_;
  const Parallel& parallel_;
  int64_t parts_;
  std::vector<KeyTable<W>> tables_;
  std::vector<std::vector<Key>> keys_;  // of each part, in the order of their numbers
  std::vector<Key> joined_;
};

template <class T, int D>
int64_t build(const PermutohedralLattice<T>& a, const LatticePlan& plan, const Parallel& parallel) {
  return plan.words == 1 ? Builder<T, D, 1>(a, plan, parallel).run()
                         : Builder<T, D, wide_key_words>(a, plan, parallel).run();
}

template <class T>
int64_t run(const PermutohedralLattice<T>& a, const Parallel& parallel) {
  if (a.num_points == 0) {
    std::fill_n(a.allocate(a.context, 0), 2 * (a.dims + 1), 0);
    return 0;
  }
  Bounds bounds;
  if (!find_bounds(a, parallel, bounds)) return -1 - first_bad_row(a);
  const LatticePlan plan = plan_lattice(a.dims, bounds.low, bounds.high, a.num_clouds);
  switch (a.dims) {
    case 2: return build<T, 2>(a, plan, parallel);
    case 3: return build<T, 3>(a, plan, parallel);
    case 4: return build<T, 4>(a, plan, parallel);
    case 5: return build<T, 5>(a, plan, parallel);
    case 6: return build<T, 6>(a, plan, parallel);
    case 7: return build<T, 7>(a, plan, parallel);
    default: return build<T, 8>(a, plan, parallel);
  }
}

}  // namespace

int64_t permutohedral_lattice(const PermutohedralLattice<float>& a, const Parallel& parallel) {
  return run(a, parallel);
}
int64_t permutohedral_lattice(const PermutohedralLattice<double>& a, const Parallel& parallel) {
  return run(a, parallel);
}

}  // namespace pcseg::PCSEG_ISA
