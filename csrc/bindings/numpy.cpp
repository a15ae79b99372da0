// The kernels on NumPy arrays. pcseg/numpy_ops.py checks for users; the checks here guard memory.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../kernels/grid_subsample.h"
#include "../kernels/isa.h"
#include "../kernels/neighbor_search.h"
#include "../kernels/text_numbers.h"

namespace py = pybind11;

namespace pcseg::bindings {
namespace {

using Offsets = py::array_t<int64_t, py::array::c_style>;
template <class T>
using Coords = py::array_t<T, py::array::c_style>;

thread_local int wanted_threads = 1;

// Threads that live as long as one range of work; the caller is one of them.
Parallel own_threads(int threads) {
  wanted_threads = threads;
  return Parallel(
      [](int64_t n, int64_t grain, Parallel::Body body, void* context) {
        const int64_t parts = std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, wanted_threads);
        std::exception_ptr error;
        std::mutex guard;
        const auto run = [&](int64_t part) {
          try {
            body(context, n * part / parts, n * (part + 1) / parts);
          } catch (...) {
            const std::lock_guard lock(guard);
            error = std::current_exception();
          }
        };
        std::vector<std::thread> others;
        int64_t next = 1;
        try {
          for (others.reserve(parts - 1); next < parts; ++next) others.emplace_back(run, next);
        } catch (...) {  // the system gives no more threads: the caller takes over their parts
        }
        run(0);
        for (; next < parts; ++next) run(next);
        for (std::thread& thread : others) thread.join();
        if (error) std::rethrow_exception(error);
      },
      threads);
}

void expect(bool ok, const char* op, const std::string& what) {
  if (!ok) throw py::value_error(std::string(op) + ": " + what);
}

void check_offsets(const char* op, const Offsets& offsets, int64_t rows) {
  expect(offsets.ndim() == 1 && offsets.size() >= 1, op, "offsets must be (B + 1,)");
  const int64_t *o = offsets.data(), clouds = offsets.size() - 1;
  bool ascending = o[0] == 0 && o[clouds] == rows;
  for (int64_t b = 0; b < clouds; ++b) ascending &= o[b] <= o[b + 1];
  expect(ascending, op, "offsets must ascend from 0 to the number of rows");
}

template <class T>
void search(const char* op, const Coords<T>& query, const Coords<T>& support, int64_t k, T max_sq_dist,
            const Offsets& query_offsets, const Offsets& support_offsets, int threads, py::array_t<int64_t>& index,
            py::array_t<T>* sq_dist) {
  expect(query.ndim() == 2 && support.ndim() == 2 && query.shape(1) == support.shape(1), op,
         "query (M, D), support (N, D)");
  expect(query.shape(1) >= 1 && query.shape(1) <= 8, op, "D must be in 1..8");
  expect(query.shape(0) < INT32_MAX && support.shape(0) < INT32_MAX, op, "at most 2^31 - 2 rows");
  expect(k >= 1 && threads >= 1, op, "at least one neighbour and one thread");
  check_offsets(op, query_offsets, query.shape(0));
  check_offsets(op, support_offsets, support.shape(0));
  expect(query_offsets.size() == support_offsets.size(), op, "one number of clouds");
  const int64_t *from = query_offsets.data(), *to = support_offsets.data();
  const bool same = query.data() == support.data() && std::equal(from, from + query_offsets.size(), to);

  index = py::array_t<int64_t>({query.shape(0), py::ssize_t{k}});
  if (sq_dist) *sq_dist = py::array_t<T>({query.shape(0), py::ssize_t{k}});
  const NeighborSearch<T> a{.query = query.data(),
                            .support = support.data(),
                            .query_offsets = same ? to : from,
                            .support_offsets = to,
                            .num_query = query.shape(0),
                            .num_support = support.shape(0),
                            .num_clouds = query_offsets.size() - 1,
                            .dim = query.shape(1),
                            .k = k,
                            .max_sq_dist = max_sq_dist,
                            .index = index.mutable_data(),
                            .sq_dist = sq_dist ? sq_dist->mutable_data() : nullptr};
  const py::gil_scoped_release released;
  run_neighbor_search(a, own_threads(threads));
}

template <class T>
py::tuple knn(const Coords<T>& query, const Coords<T>& support, int64_t k, const Offsets& query_offsets,
              const Offsets& support_offsets, int threads) {
  py::array_t<int64_t> index;
  py::array_t<T> sq_dist;
  search<T>("knn", query, support, k, std::numeric_limits<T>::infinity(), query_offsets, support_offsets, threads,
            index, &sq_dist);
  return py::make_tuple(index, sq_dist);
}

template <class T>
py::array_t<int64_t> radius_search(const Coords<T>& query, const Coords<T>& support, double radius,
                                   int64_t max_neighbors, const Offsets& query_offsets, const Offsets& support_offsets,
                                   int threads) {
  expect(radius > 0, "radius_search", "radius must be positive");
  py::array_t<int64_t> index;
  const T reach = static_cast<T>(radius);
  search<T>("radius_search", query, support, max_neighbors, reach * reach, query_offsets, support_offsets, threads,
            index, nullptr);
  return index;
}

template <class T>
py::tuple grid_subsample(const Coords<T>& coords, double voxel_size, const Offsets& offsets, int threads) {
  constexpr auto op = "grid_subsample";
  expect(coords.ndim() == 2 && coords.shape(1) >= 1 && coords.shape(1) <= max_grid_dims, op, "coords (N, D), D in 1..8");
  expect(coords.shape(0) < INT32_MAX && threads >= 1, op, "at most 2^31 - 2 points, at least one thread");
  check_offsets(op, offsets, coords.shape(0));
  const int64_t points = coords.shape(0), clouds = offsets.size() - 1;
  py::array_t<int64_t> voxel_of_point(points), order(points), voxel_offsets(clouds + 1);
  py::array_t<int64_t> point_offsets;
  const GridSubsample<T> a{.voxels = {.coords = coords.data(),
                                      .offsets = offsets.data(),
                                      .voxel_of_point = voxel_of_point.mutable_data(),
                                      .num_points = points,
                                      .num_clouds = clouds,
                                      .dims = static_cast<int>(coords.shape(1)),
                                      .voxel_size = static_cast<T>(voxel_size)},
                           .order = order.mutable_data(),
                           .voxel_offsets = voxel_offsets.mutable_data(),
                           .point_offsets =
                               [](void* made, int64_t size) {
                                 const py::gil_scoped_acquire held;
                                 auto& array = *static_cast<py::array_t<int64_t>*>(made);
                                 array = py::array_t<int64_t>(size);
                                 return array.mutable_data();
                               },
                           .context = &point_offsets};
  expect(a.voxels.voxel_size > 0, op, "voxel_size must be positive");
  int64_t count;
  {
    const py::gil_scoped_release released;
    count = run_grid_subsample(a, own_threads(threads));
  }
  expect(count >= 0, op,
         "row " + std::to_string(-1 - count) +
             " of coords is not finite, or its cell floor(coord / voxel_size) is beyond +-2^31: recentre or drop it");
  return py::make_tuple(voxel_of_point, order, point_offsets, voxel_offsets);
}

// (num_columns, rows) float64; None where a line is something else.
py::object text_numbers(const py::buffer& text, int64_t num_columns, char delimiter, int threads) {
  constexpr auto op = "text_numbers";
  const py::buffer_info info = text.request();
  expect(info.ndim == 1 && info.itemsize == 1 && info.strides[0] == 1, op, "text must be bytes");
  expect(num_columns >= 1 && threads >= 1, op, "at least one column and one thread");
  const char* const begin = static_cast<const char*>(info.ptr);
  std::vector<TextPart> parts;
  {
    const py::gil_scoped_release released;
    parts = run_split_lines(begin, info.size, own_threads(threads));
  }
  const int64_t capacity = parts.back().first_line;
  py::array_t<double> columns({num_columns, capacity});
  const TextNumbers a{.text = begin,
                      .num_columns = num_columns,
                      .delimiter = delimiter,
                      .columns = columns.mutable_data(),
                      .capacity = capacity};
  int64_t rows;
  {
    const py::gil_scoped_release released;
    rows = run_text_numbers(a, parts, own_threads(threads));
  }
  if (rows < 0) return py::none();
  return columns[py::make_tuple(py::ellipsis(), py::slice(0, rows, 1))];
}

template <class T>
void define(py::module_& m) {
  // No conversions: an array of another dtype or layout would be copied without a word.
  const auto array = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("knn", &knn<T>, array("query"), array("support"), py::arg("k"), array("query_offsets"),
        array("support_offsets"), py::arg("threads"));
  m.def("radius_search", &radius_search<T>, array("query"), array("support"), py::arg("radius"),
        py::arg("max_neighbors"), array("query_offsets"), array("support_offsets"), py::arg("threads"));
  m.def("grid_subsample", &grid_subsample<T>, array("coords"), py::arg("voxel_size"), array("offsets"),
        py::arg("threads"));
}

}  // namespace
}  // namespace pcseg::bindings

PYBIND11_MODULE(_numpy, m) {
  m.doc() = "pcseg's kernels on NumPy arrays; use pcseg.numpy_ops.";
  pcseg::bindings::define<float>(m);
  pcseg::bindings::define<double>(m);
  m.def("text_numbers", &pcseg::bindings::text_numbers, py::arg("text"), py::arg("num_columns"), py::arg("delimiter"),
        py::arg("threads"));
}
