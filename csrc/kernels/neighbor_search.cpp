#include "neighbor_search.h"

#include <memory>
#include <vector>

#include "aligned_array.h"
#include "few_search.h"
#include "ranked_search.h"

namespace pcseg::PCSEG_ISA {
namespace {

constexpr int64_t kMaxLeavesATask = 64;  // the first leaf of a task knows no leaf before it

// More neighbours than ranking handles: each query by itself.
template <class T, int D>
class LoneSearch : public SearchBase<T, D> {
 public:
  struct Workspace {
    NearestList<T> list;
  };

  using SearchBase<T, D>::SearchBase;

  static void forget(Workspace&) {}
  void search(int64_t query_leaf, int begin, int end, const CloudRange& range, Workspace& w) const {
    for (int i = begin; i < end; ++i) this->search_alone(query_leaf, i, range, w.list);
  }
};

template <class T>
PointIndex<T> build(const T* coords, const int64_t* offsets, int64_t points, bool with_boxes, const NeighborSearch<T>& a,
                    AlignedArray<unsigned char>& memory, const Parallel& parallel) {
  memory = AlignedArray<unsigned char>(
      static_cast<int64_t>(PointIndexLayout(points, a.num_clouds, a.dim, sizeof(T), with_boxes).bytes));
  build_point_index({coords, offsets, points, a.num_clouds, a.dim, with_boxes, memory.data()}, parallel);
  return {memory.data(), points, a.num_clouds, a.dim, with_boxes};
}

// Every leaf of queries, by workers that keep what a group tells about the next one.
template <class T, class Search>
void search_leaves(const Search& search, const PointIndex<T>& index, const PointIndex<T>& queries,
                   const Parallel& parallel) {
  using Workspace = typename Search::Workspace;
  std::vector<std::unique_ptr<Workspace>> workspaces(parallel.threads());
  const int64_t leaves = queries.num_leaves();
  const int64_t leaves_a_task = std::clamp<int64_t>(leaves / (16 * parallel.threads()), 1, kMaxLeavesATask);
  parallel.tasks((leaves + leaves_a_task - 1) / leaves_a_task, [&](int64_t task, int worker) {
    if (!workspaces[worker]) workspaces[worker].reset(new Workspace());
    Workspace& w = *workspaces[worker];
    search.forget(w);
    int64_t leaf = task * leaves_a_task;
    const int64_t end = std::min(leaves, leaf + leaves_a_task);
    for (int64_t cloud = queries.cloud_of_leaf(leaf); leaf < end; ++leaf) {
      while (leaf >= queries.first_leaf(cloud + 1)) {
        ++cloud;
        search.forget(w);
      }
      const int32_t* rows = queries.rows(leaf);
      int count = 0;
      while (count < kGroup && rows[count] >= 0) ++count;
      const int64_t first = index.first_leaf(cloud), last = index.first_leaf(cloud + 1);
      if (first < last) {
        search.search(leaf, 0, count, CloudRange(first, last), w);
      } else {
        for (int i = 0; i < count; ++i) search.write(rows[i], 0, nullptr, nullptr);
      }
    }
  });
}

template <class T, int D>
void search(const NeighborSearch<T>& a, const Parallel& parallel) {
  const bool self = a.query == a.support && a.query_offsets == a.support_offsets && a.num_query == a.num_support;
  AlignedArray<unsigned char> index_memory, query_memory;
  const auto* given = static_cast<const unsigned char*>(a.support_index);
  const PointIndex<T> index =
      given ? PointIndex<T>(given, a.num_support, a.num_clouds, a.dim, true)
            : build(a.support, a.support_offsets, a.num_support, true, a, index_memory, parallel);
  const PointIndex<T> other =
      self ? index : build(a.query, a.query_offsets, a.num_query, false, a, query_memory, parallel);
  const PointIndex<T>& queries = self ? index : other;
  if (a.k <= kFew)
    search_leaves(FewSearch<T, D>(a, index, queries), index, queries, parallel);
  else if (a.k <= kMaxRankedK)
    search_leaves(RankedSearch<T, D>(a, index, queries), index, queries, parallel);
  else
    search_leaves(LoneSearch<T, D>(a, index, queries), index, queries, parallel);
  // Queries that are not finite are in no leaf.
  const SearchBase<T, D> base(a, index, queries);
  parallel.ranges(a.num_query, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T zero = 0;
      for (int64_t d = 0; d < a.dim; ++d) zero += a.query[row * a.dim + d] * T(0);
      if (!(zero == 0)) base.write(static_cast<int32_t>(row), 0, nullptr, nullptr);
    }
  });
}

}  // namespace

void neighbor_search(const NeighborSearch<float>& a, const Parallel& parallel) {
  if (a.dim == 2) return search<float, 2>(a, parallel);
  if (a.dim == 3) return search<float, 3>(a, parallel);
  search<float, 0>(a, parallel);
}
void neighbor_search(const NeighborSearch<double>& a, const Parallel& parallel) { search<double, 0>(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
