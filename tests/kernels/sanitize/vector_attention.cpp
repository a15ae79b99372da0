// Vector attention and its gradients under the address and undefined-behaviour sanitizers, on exactly sized heap
// arrays, with one thread and with several. Exits 0 if nothing was found and both give the same.
#include "../../../csrc/kernels/norm_attention.h"
#include "../../../csrc/kernels/vector_attention.h"
#include "sanitize.h"

using namespace pcseg;

namespace {

template <class T>
struct Attention {
  int64_t m, n, k, c, g, p;
  std::vector<T> query, key, position, position_weight, position_bias, scale, shift, weight, bias, logits, grad_pairs,
      grad_rows;
  std::vector<int64_t> neighbors;

  Attention(int64_t m, int64_t n, int64_t k, int64_t c, int64_t g, int64_t p)
      : m(m), n(n), k(k), c(c), g(g), p(p), query(uniform<T>(m * c, 1)), key(uniform<T>(n * c, 2)),
        position(uniform<T>(m * k * p, 3)), position_weight(uniform<T>(c * p, 4)), position_bias(uniform<T>(c, 5)),
        scale(uniform<T>(c, 6)), shift(uniform<T>(c, 7)), weight(uniform<T>(g * c, 8)), bias(uniform<T>(g, 9)),
        logits(uniform<T>(m * k * g, 10)), grad_pairs(uniform<T>(m * k * g, 11)), grad_rows(uniform<T>(m * c, 12)),
        neighbors(m * k) {
    std::mt19937 engine(13);
    for (int64_t& j : neighbors) j = static_cast<int64_t>(engine() % static_cast<uint64_t>(n + 1));
    neighbors.shrink_to_fit();
  }

  AttentionPairs<T> pairs() const {
    return {query.data(), key.data(), neighbors.data(), position.data(), position_weight.data(),
            position_bias.data(), m, n, k, c, p};
  }

  // Everything that the kernels compute, one after the other.
  std::vector<T> run(const Parallel& parallel) const {
    const AttentionRelation<T> relation{pairs(), scale.data(), shift.data(), weight.data(), bias.data(), g};
    const AttentionAggregate<T> aggregate{pairs(), logits.data(), g};
    std::vector<T> out_pairs(m * k * g), out_rows(m * c), mean(c), var(c);
    CHECK(run_attention_relation<T>(relation, out_pairs.data(), parallel));
    CHECK(run_attention_statistics<T>({pairs(), mean.data(), var.data()}, parallel));
    CHECK(run_attention_aggregate<T>(aggregate, out_rows.data(), parallel));
    std::vector<T> all;
    for (const auto* values : {&out_pairs, &mean, &var, &out_rows}) all.insert(all.end(), values->begin(), values->end());

    std::vector<T> of_query(m * c), of_key(n * c), of_position(m * k * p), of_weight(c * p), of_bias(c);
    const AttentionPairGradients<T> grads{of_query.data(), of_key.data(), of_position.data(), of_weight.data(),
                                          of_bias.data()};
    const auto keep = [&] {
      for (const auto* values : {&of_query, &of_key, &of_position, &of_weight, &of_bias})
        all.insert(all.end(), values->begin(), values->end());
    };
    std::vector<T> of_scale(c), of_shift(c), of_matrix(g * c), of_vector(g), of_logits(m * k * g);
    run_attention_relation_backward<T>(
        relation,
        {grad_pairs.data(), grads, of_scale.data(), of_shift.data(), of_matrix.data(), of_vector.data()}, parallel);
    keep();
    run_attention_statistics_backward<T>(pairs(), {scale.data(), shift.data(), mean.data(), grads}, parallel);
    keep();
    run_attention_aggregate_backward<T>(aggregate, {grad_rows.data(), grads, of_logits.data()}, parallel);
    keep();
    for (const auto* values : {&of_scale, &of_shift, &of_matrix, &of_vector, &of_logits})
      all.insert(all.end(), values->begin(), values->end());
    for (const bool of_batch : {true, false}) {
      // Relations of c channels, or of as many as there are logits.
      for (const int64_t in : {c, g}) {
        std::vector<T> relation = uniform<T>(m * k * in, 14), of_relation(m * k * in), of_norm(in), of_shift(in);
        std::vector<T> norm_mean(mean.begin(), mean.begin() + in), norm_var(in, T(1)), of_layer(g * in);
        const NormAttention<T> norm{{relation.data(), scale.data(), shift.data(), norm_mean.data(), norm_var.data(),
                                     weight.data(), bias.data(), m * k, in, g, 1e-5, of_batch},
                                    pairs()};
        CHECK(run_norm_attention<T>(norm, out_rows.data(), parallel));
        run_norm_attention_backward<T>(
            norm,
            {grad_rows.data(),
             {nullptr, of_relation.data(), of_norm.data(), of_shift.data(), of_layer.data(), of_vector.data()},
             grads},
            parallel);
        for (const auto* values :
             {&out_rows, &norm_mean, &norm_var, &of_relation, &of_norm, &of_shift, &of_layer, &of_vector})
          all.insert(all.end(), values->begin(), values->end());
        keep();
      }
    }
    return all;
  }
};

template <class T>
void check(int64_t m, int64_t n, int64_t k, int64_t c, int64_t g, int64_t p) {
  const Attention<T> attention(m, n, k, c, g, p);
  CHECK(attention.run(Parallel::serial()) == attention.run(three_threads()));
}

template <class T>
void check_all() {
  check<T>(300, 200, 8, 64, 8, 3);
  check<T>(60, 50, 9, 35, 5, 3);
  check<T>(40, 50, 3, 1, 1, 1);
  check<T>(20, 300, 100, 48, 48, 7);
  check<T>(50, 1, 4, 24, 3, 16);
  check<T>(5, 0, 4, 16, 4, 2);
  check<T>(0, 5, 4, 16, 4, 2);
  check<T>(5, 5, 0, 16, 4, 2);
}

}  // namespace

int main() {
  check_all<float>();
  check_all<double>();
}
