#include "potts_descent.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "aligned_array.h"
#include "simd.h"
#include "team.h"
#include "transpose.h"
#include "vector_math.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kRows = kPottsBlock;
constexpr int64_t kBlocksInTask = 64;
constexpr int64_t kAhead = 4;
constexpr float kFloor = 9.3576229688401746e-14f;  // exp(kLogFloor)
constexpr float kVanishes = -1000;                 // a free value whose probability is 0 beside one of 0

static_assert(kRows == kLaneCount);

PCSEG_INLINE F16 divide(F16 a, F16 b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] /= b.v[i];
  return a;
}
// a where x > limit, b elsewhere.
PCSEG_INLINE F16 where_above(F16 x, F16 limit, F16 a, F16 b) {
  for (int i = 0; i < a.kCount; ++i) a.v[i] = x.v[i] > limit.v[i] ? a.v[i] : b.v[i];
  return a;
}
PCSEG_INLINE F16 exp_of_nonpositive(F16 x) {
  for (int i = 0; i < x.kCount; ++i) x.v[i] = exp_of_nonpositive<float>(x.v[i]);
  return x;
}
PCSEG_INLINE F16 zero() { return F16::fill(0); }
PCSEG_INLINE F16 one() { return F16::fill(1); }

// Columns of a block: 4 * chunks, or as many as are known at run time (chunks 0).
template <int chunks>
struct Columns {
  F16 v[4 * chunks];
  explicit Columns(int64_t) {}
  F16& operator[](int64_t c) { return v[c]; }
};
template <>
struct Columns<0> {
  AlignedArray<F16> v;
  explicit Columns(int64_t columns) : v(columns) {}
  F16& operator[](int64_t c) { return v[c]; }
};

// 1 - p without cancellation for the probability that is nearly 1: the sum of the others.
struct Others {
  F16 total = zero(), rest = zero(), half = zero();

  template <class Columns>
  PCSEG_INLINE Others(Columns& p, int64_t columns) {
    for (int64_t c = 0; c < columns; ++c) total = total + p[c];
    half = total * F16::fill(0.5f);
    for (int64_t c = 0; c < columns; ++c) rest = rest + where_above(p[c], half, zero(), p[c]);
  }
  PCSEG_INLINE F16 of(F16 p) const { return where_above(p, half, rest, total - p); }
};

// Of a table: the classes, and what the edge adds, in fours.
template <PottsEdge edge>
int64_t quads_of(const PottsDescent& a) {
  return (a.num_classes + (edge == PottsEdge::log_product_gini ? 1 : 0) + 3) / 4;
}

// All arrays by row lie in blocks of sixteen rows, column after column; only the tables, which neighbours look into, are
// row after row. A table row is u of potts_relaxation.h, with half of gini behind the classes in lq, then zeros.
// Sixteen rows look at a neighbour each, which is turned to columns: no sum runs across lanes.
template <PottsEdge edge, int kChunks>
class Descent {
 public:
  explicit Descent(const PottsDescent& a)
      : a_(a),
        columns_(4 * quads_of<edge>(a)),
        blocks_((a.num_rows + kRows - 1) / kRows),
        last_slot_(a.graph.first_slot[blocks_] - 1),
        values_(blocks_ * kRows * columns()),
        target_(blocks_ * kRows * columns()),
        rate_(blocks_ * kRows),
        norm_(blocks_ * kRows),
        tables_{AlignedArray<float>(blocks_ * kRows * columns()), AlignedArray<float>(blocks_ * kRows * columns())} {}

  void run(Team& team) {
    each_block(team, [&](int64_t b, Scratch& scratch) {
      read(b);
      normalize(b, tables_[0].data(), scratch);
    });
    for (int64_t step = 0; step < a_.num_steps; ++step)
      each_block(team, [&](int64_t b, Scratch& scratch) {
        descend(b, tables_[step % 2].data(), scratch);
        normalize(b, tables_[1 - step % 2].data(), scratch);
      });
    each_block(team, [&](int64_t b, Scratch&) { write(b); });
  }

 private:
  static constexpr bool kGini = edge == PottsEdge::log_product_gini;
  static constexpr bool kLog = edge == PottsEdge::log_product || kGini;

  struct Scratch {
    Columns<kChunks> grad, own, other;
    explicit Scratch(int64_t columns) : grad(columns), own(columns), other(columns) {}
  };

  template <class F>
  void each_block(Team& team, F&& f) {
    team.tasks((blocks_ + kBlocksInTask - 1) / kBlocksInTask, [&](int64_t task, int) {
      Scratch scratch(columns());
      for (int64_t b = task * kBlocksInTask; b < std::min(blocks_, (task + 1) * kBlocksInTask); ++b) f(b, scratch);
    });
  }
  int64_t columns() const {
    if constexpr (kChunks > 0) return 4 * kChunks;
    return columns_;
  }
  float* at(AlignedArray<float>& array, int64_t b, int64_t c) { return array.data() + (b * columns() + c) * kRows; }
  bool is_class(int64_t c) const { return c < a_.num_classes; }

  void read(int64_t b) {
    for (int64_t l = 0; l < kRows; ++l) {
      const int64_t i = b * kRows + l;
      const bool there = i < a_.num_rows, held = !there || a_.labels[i] >= 0;
      const int64_t label = there ? a_.labels[i] : 0;
      rate_[i] = held ? 0 : a_.rate;
      for (int64_t c = 0; c < columns(); ++c) {
        const bool known = there && is_class(c);
        at(values_, b, c)[l] = !is_class(c) ? kVanishes * 1e6f
                               : held       ? (c == label ? 0 : kVanishes)
                                            : a_.values[i * a_.num_classes + c];
        const float log_q = known ? a_.log_probs[i * a_.num_classes + c] : 0;
        at(target_, b, c)[l] = log_q < kLogFloor ? static_cast<float>(kLogFloor) : log_q;
      }
    }
    if (a_.coupling == Coupling::ce) return;
    for (int64_t c = 0; c < columns(); ++c) {
      const F16 log_q = F16::load(at(target_, b, c));
      (is_class(c) ? exp_of_nonpositive(log_q) : zero()).store(at(target_, b, c));
    }
  }

  void write(int64_t b) {
    for (int64_t i = b * kRows; i < std::min(a_.num_rows, (b + 1) * kRows); ++i)
      for (int64_t c = 0; c < a_.num_classes && a_.labels[i] < 0; ++c)
        a_.values[i * a_.num_classes + c] = at(values_, b, c)[i % kRows];
  }

  // The probabilities of a block, and its rows of a table.
  void normalize(int64_t b, float* table, Scratch& scratch) {
    Columns<kChunks>& p = scratch.own;
    F16 largest = F16::load(at(values_, b, 0)), sum = zero();
    for (int64_t c = 1; c < columns(); ++c) largest = max(largest, F16::load(at(values_, b, c)));
    for (int64_t c = 0; c < columns(); ++c) {
      p[c] = exp_of_nonpositive(F16::load(at(values_, b, c)) - largest);
      sum = sum + p[c];
    }
    const F16 share = divide(one(), sum);
    for (int64_t c = 0; c < columns(); ++c)
      p[c] = max(F16::fill(is_class(c) ? kFloor : 0), p[c] * share);  // NaN stays
    if (has_unit_rows(a_.relaxation)) {
      F16 squares = zero();
      for (int64_t c = 0; c < columns(); ++c) squares = multiply_add(p[c], p[c], squares);
      const F16 norm = square_root(squares), scale = divide(one(), norm);
      norm.store(norm_.data() + b * kRows);
      for (int64_t c = 0; c < columns(); ++c) p[c] = p[c] * scale;
    }
    if constexpr (kGini) {
      const Others others(p, columns());
      F16 gini = zero();
      for (int64_t c = 0; c < columns(); ++c) gini = multiply_add(p[c], others.of(p[c]), gini);
      for (int64_t c = 0; c < columns(); ++c)
        if (c == a_.num_classes) p[c] = gini * F16::fill(0.5f);
    }
    for (int64_t c = 0; c < columns(); c += 4) scatter_quads(&p[c], table + b * kRows * columns() + c, columns());
  }

  // One step of a block's values, from the neighbours in a table.
  void descend(int64_t b, const float* table, Scratch& scratch) {
    Columns<kChunks>&grad = scratch.grad, &own = scratch.own, &other = scratch.other;
    const I16 width = I16::fill(static_cast<int32_t>(columns()));
    const auto gather = [&](const float* rows, I16 index, Columns<kChunks>& to) [[gnu::always_inline]] {
      alignas(64) int32_t offset[kRows];
      (index * width).store(offset);
      for (int64_t c = 0; c < columns(); c += 4) gather_quads(rows + c, offset, &to[c]);
    };
    gather(table + b * kRows * columns(), I16::iota(), own);
    F16 half_gini = zero(), slopes = zero();
    for (int64_t c = 0; c < columns(); ++c) {
      grad[c] = zero();
      if (kGini && c == a_.num_classes) half_gini = std::exchange(own[c], one());
    }
    for (int64_t slot = a_.graph.first_slot[b]; slot < a_.graph.first_slot[b + 1]; ++slot) {
      if constexpr (kChunks != 1) prefetch(table, slot + kAhead);
      gather(table, I16::load(a_.graph.other + slot * kRows), other);
      F16 slope = F16::load(a_.graph.weight + slot * kRows);
      if constexpr (kLog) {
        F16 s = half_gini;
        for (int64_t c = 0; c < columns(); ++c) s = multiply_add(own[c], other[c], s);
        slope = divide(slope, s);
      }
      if constexpr (edge == PottsEdge::difference)
        for (int64_t c = 0; c < columns(); ++c) other[c] = own[c] - other[c];
      else
        slope = zero() - slope;
      for (int64_t c = 0; c < columns(); ++c) grad[c] = multiply_add(slope, other[c], grad[c]);
      if constexpr (kGini) slopes = slopes + slope;
    }
    if constexpr (kGini)
      for (int64_t c = 0; c < columns(); ++c)
        if (c == a_.num_classes) own[c] = zero();
    Columns<kChunks>& probs = has_unit_rows(a_.relaxation) ? other : own;
    if (has_unit_rows(a_.relaxation)) {
      const F16 norm = F16::load(norm_.data() + b * kRows);
      for (int64_t c = 0; c < columns(); ++c) probs[c] = own[c] * norm;
    }
    to_log_probs(own, probs, slopes, grad);
    take_step(b, probs, grad);
  }

  // Asks for the rows of a slot ahead: the list of slots goes on from block to block.
  PCSEG_INLINE void prefetch(const float* table, int64_t slot) const {
    const int32_t* other = a_.graph.other + std::min(slot, last_slot_) * kRows;
    for (int64_t l = 0; l < kRows; ++l)
      for (int64_t c = 0; c < columns(); c += 16) __builtin_prefetch(table + other[l] * columns() + c);
  }

  // From the gradient on table rows to that on the logarithms of probabilities, times the edges' weight.
  PCSEG_INLINE void to_log_probs(Columns<kChunks>& own, Columns<kChunks>& probs, F16 slopes,
                                 Columns<kChunks>& grad) const {
    if (has_unit_rows(a_.relaxation)) {
      F16 along = zero();
      for (int64_t c = 0; c < columns(); ++c) along = multiply_add(grad[c], own[c], along);
      for (int64_t c = 0; c < columns(); ++c) grad[c] = (grad[c] - along * own[c]) * own[c];
    } else if constexpr (kGini) {
      const Others others(probs, columns());
      for (int64_t c = 0; c < columns(); ++c)
        grad[c] = multiply_add(slopes, others.of(probs[c]), grad[c]) * probs[c];
    } else {
      for (int64_t c = 0; c < columns(); ++c) grad[c] = grad[c] * probs[c];
    }
    // A probability at the floor has been through a norm and back.
    const F16 floor = F16::fill(kFloor * 1.00001f), weight = F16::fill(a_.pairwise_weight);
    for (int64_t c = 0; c < columns(); ++c) grad[c] = where_above(probs[c], floor, grad[c] * weight, zero());
  }

  // Adds the coupling's gradient on the logarithms of probabilities, and takes a step.
  PCSEG_INLINE void take_step(int64_t b, Columns<kChunks>& probs, Columns<kChunks>& grad) {
    const auto target = [&](int64_t c) { return F16::load(at(target_, b, c)); };
    const F16 weight = F16::fill(-a_.unary_weight);
    if (a_.coupling == Coupling::rce) {
      for (int64_t c = 0; c < columns(); ++c) grad[c] = multiply_add(weight, target(c), grad[c]);
    } else {
      F16 scale = weight;
      if (a_.coupling == Coupling::cce) {
        F16 both = zero();
        for (int64_t c = 0; c < columns(); ++c) both = multiply_add(probs[c], target(c), both);
        scale = divide(weight, max(F16::fill(std::numeric_limits<float>::min()), both));
      }
      for (int64_t c = 0; c < columns(); ++c) grad[c] = multiply_add(scale, probs[c] * target(c), grad[c]);
    }
    // From logarithms to the free values: that probabilities sum to 1 takes away the part along them.
    F16 total = zero();
    for (int64_t c = 0; c < columns(); ++c) total = total + grad[c];
    const F16 rate = F16::load(rate_.data() + b * kRows);
    for (int64_t c = 0; c < columns(); ++c) {
      float* values = at(values_, b, c);
      (F16::load(values) - rate * (grad[c] - probs[c] * total)).store(values);
    }
  }

  const PottsDescent& a_;
  int64_t columns_, blocks_, last_slot_;
  AlignedArray<float> values_, target_, rate_, norm_;
  AlignedArray<float> tables_[2];
};

template <PottsEdge edge>
void run(const PottsDescent& a, Team& team) {
  switch (quads_of<edge>(a)) {
    case 1: return Descent<edge, 1>(a).run(team);
    case 2: return Descent<edge, 2>(a).run(team);
    case 4: return Descent<edge, 4>(a).run(team);
    case 5: return Descent<edge, 5>(a).run(team);
    default: return Descent<edge, 0>(a).run(team);
  }
}

}  // namespace

void potts_descent(const PottsDescent& a, const Parallel& parallel) {
  Team::run(parallel, a.num_rows / (kBlocksInTask * kRows), [&](Team& team) {
    switch (edge_of(a.relaxation)) {
      case PottsEdge::product: return run<PottsEdge::product>(a, team);
      case PottsEdge::difference: return run<PottsEdge::difference>(a, team);
      case PottsEdge::log_product: return run<PottsEdge::log_product>(a, team);
      case PottsEdge::log_product_gini: return run<PottsEdge::log_product_gini>(a, team);
    }
  });
}

}  // namespace pcseg::PCSEG_ISA
