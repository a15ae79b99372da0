#include <atomic>

#include "attention_pairs.h"
#include "moments.h"

namespace pcseg::PCSEG_ISA {
namespace {

template <class T>
bool forward(const AttentionStatistics<T>& a, const Parallel& parallel) {
  const PairInputs<T> in(a.pairs, true, parallel);
  const int64_t channels = a.pairs.channels, stride = in.stride;
  const int64_t chunks = gradient_chunks(a.pairs.num_query * a.pairs.num_neighbors, stride);
  struct Memory {
    PairBlock<T> block;
    BlockMoments<T> moments;
  };
  std::vector<Moments> moments(chunks, Moments(channels));
  std::atomic<bool> in_range{true};
  for_tasks(
      chunks, parallel,
      [&] {
        return std::unique_ptr<Memory>(new Memory{PairBlock<T>(in), BlockMoments<T>(channels, stride)});
      },
      [&](int64_t chunk, Memory& m) {
        const int64_t begin = a.pairs.num_query * chunk / chunks, end = a.pairs.num_query * (chunk + 1) / chunks;
        PairBlock<T>& block = m.block;
        const bool good = block.for_queries(begin, end, [&] {
          block.differences([](int64_t, Vector<T> x) { return x; });
          m.moments.join(block.row(0), block.size(), moments[chunk]);
        });
        if (!good) in_range = false;
      });
  for (int64_t chunk = 1; chunk < chunks; ++chunk) moments[0].join(moments[chunk]);
  moments[0].write(a.mean, a.var);
  return in_range;
}

// The gradient of a difference x is offset + slope * x.
template <class T>
struct Line {
  Buffer<T> offset, slope;

  Line(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g, int64_t stride, int64_t pairs)
      : offset(stride), slope(stride) {
    const double share = 1 / static_cast<double>(std::max<int64_t>(pairs, 1));
    for (int64_t c = 0; c < stride; ++c) {
      const bool real = c < a.channels;
      const double of_var = real ? 2 * share * g.grad_var[c] : 0;
      slope[c] = static_cast<T>(of_var);
      offset[c] = real ? static_cast<T>(share * g.grad_mean[c] - of_var * g.mean[c]) : T(0);
    }
  }
  Vector<T> operator()(int64_t c, Vector<T> x) const {
    return multiply_add<T>(load(slope.data() + c), x, load(offset.data() + c));
  }
};

template <class T>
void backward(const AttentionPairs<T>& a, const AttentionStatisticsGradients<T>& g, const Parallel& parallel) {
  const PairInputs<T> in(a, true, parallel);
  const KeyPairs by_key(a, parallel);
  const int64_t pairs = by_key.first(a.num_key);
  const Line<T> line(a, g, in.stride, pairs);
  const auto make = [&] { return std::unique_ptr<PairBlock<T>>(new PairBlock<T>(in)); };
  ParameterSums<T> sums(a.num_query, a.num_query * a.num_neighbors, (a.position_channels + 1) * in.stride);
  for_tasks(sums.chunks(), parallel, make, [&](int64_t chunk, PairBlock<T>& block) {
    const int64_t begin = sums.begin(chunk), end = sums.begin(chunk + 1);
    T* sum = sums.start(chunk);
    std::fill_n(g.pairs.query + begin * a.channels, (end - begin) * a.channels, T(0));
    clear_missing(a, begin, end, a.position_channels, g.pairs.position);
    block.for_queries(begin, end, [&] {
      block.differences(line);
      block.position_gradients(sum, g.pairs.position);
      block.add_to_owners(g.pairs.query);
    });
  });
  write_position_sums(in, sums.total(), g.pairs);
  // The gradient is a line, so the sum over a key's pairs follows from the sums of their queries and positions.
  for_parts(a.num_key, pairs, parallel, make, [&](int64_t begin, int64_t end, PairBlock<T>& block) {
    std::fill_n(g.pairs.key + begin * a.channels, (end - begin) * a.channels, T(0));
    const auto fetch = [&](int64_t, int64_t m) { fetch_row(in.query_row(m), in.stride); };
    block.for_keys(by_key, begin, end, fetch, [&] {
      block.add_to_owners(g.pairs.key, [&](int64_t i, int64_t c) { return load(block.query(i) + c); });
    });
    std::vector<T> position(a.position_channels);
    for (int64_t j = begin; j < end; ++j) {
      const T count = static_cast<T>(by_key.first(j + 1) - by_key.first(j));
      if (count == 0) continue;
      std::fill(position.begin(), position.end(), T(0));
      for (int64_t i = by_key.first(j); i < by_key.first(j + 1); ++i)
        for (int64_t p = 0; p < a.position_channels; ++p)
          position[p] += a.position[by_key.pair(i) * a.position_channels + p];
      const T* key = in.key_row(j);
      T* grad = g.pairs.key + j * a.channels;
      for (int64_t c = 0; c < a.channels; ++c) {
        T sum = grad[c] + count * (in.bias.data()[c] - key[c]);
        for (int64_t p = 0; p < a.position_channels; ++p) sum += position[p] * in.weight.data()[p * in.stride + c];
        grad[c] = -(count * line.offset.data()[c] + line.slope.data()[c] * sum);
      }
    }
  });
}

}  // namespace

bool attention_statistics(const AttentionStatistics<float>& a, const Parallel& parallel) {
  return forward(a, parallel);
}
bool attention_statistics(const AttentionStatistics<double>& a, const Parallel& parallel) {
  return forward(a, parallel);
}
void attention_statistics_backward(const AttentionPairs<float>& a, const AttentionStatisticsGradients<float>& g,
                                   const Parallel& parallel) {
  backward(a, g, parallel);
}
void attention_statistics_backward(const AttentionPairs<double>& a, const AttentionStatisticsGradients<double>& g,
                                   const Parallel& parallel) {
  backward(a, g, parallel);
}

}  // namespace pcseg::PCSEG_ISA
