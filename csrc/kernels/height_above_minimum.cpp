#include "height_above_minimum.h"

#include <limits>
#include <vector>

#include "cell.h"

namespace pcseg::PCSEG_ISA {
namespace {

// A cell that holds points; cells come in order of (cloud, x, y).
template <class T>
struct Cell {
  int64_t x, y;  // wider than the cells themselves, so that x - 1 exists
  T lowest;
};

template <class T>
bool find_cells(const HeightAboveMinimum<T>& a, int64_t begin, int64_t end, Cell<T>* cells) {
  for (int64_t v = begin; v < end; ++v) {
    T lowest = std::numeric_limits<T>::infinity();
    const int64_t first = a.point_offsets[v], last = a.point_offsets[v + 1];
    if (first >= last) return false;
    for (int64_t i = first; i < last; ++i) {
      if (static_cast<uint64_t>(a.order[i]) >= static_cast<uint64_t>(a.num_points)) return false;
      const T z = a.coords[a.order[i] * 3 + 2];
      lowest = z < lowest ? z : lowest;
    }
    const T* at = a.coords + a.order[first] * 3;
    cells[v] = {cell_of(at[0] / a.cell_size), cell_of(at[1] / a.cell_size), lowest};
  }
  return true;
}

// Lowest points of the cells [begin, end) of one cloud's [first, last) and of those around them. A column of cells
// (one x) is consecutive, so three cursors, one a column, pass the cells in step.
template <class T>
void spread(const std::vector<Cell<T>>& cells, int64_t first, int64_t last, int64_t begin, int64_t end, T* lowest) {
  const auto before = [](const Cell<T>& cell, const Cell<T>& other) {
    return cell.x < other.x || (cell.x == other.x && cell.y < other.y);
  };
  int64_t cursor[3];
  for (int64_t dx = -1; dx <= 1; ++dx) {
    const Cell<T> corner{cells[begin].x + dx, cells[begin].y - 1, T(0)};
    cursor[dx + 1] = std::lower_bound(cells.begin() + first, cells.begin() + last, corner, before) - cells.begin();
  }
  for (int64_t v = begin; v < end; ++v) {
    T least = cells[v].lowest;
    for (int64_t dx = -1; dx <= 1; ++dx) {
      const Cell<T> corner{cells[v].x + dx, cells[v].y - 1, T(0)};
      int64_t& at = cursor[dx + 1];
      while (at < last && before(cells[at], corner)) ++at;
      for (int64_t u = at; u < last && cells[u].x == corner.x && cells[u].y <= corner.y + 2; ++u)
        least = cells[u].lowest < least ? cells[u].lowest : least;
    }
    lowest[v] = least;
  }
}

template <class T>
bool run(const HeightAboveMinimum<T>& a, const Parallel& parallel) {
  std::vector<Cell<T>> cells(a.num_cells);
  std::vector<T> lowest(a.num_cells);
  std::atomic<bool> valid{true};
  parallel.ranges(a.num_cells, 1024, [&](int64_t begin, int64_t end) {
    if (!find_cells(a, begin, end, cells.data())) valid = false;
  });
  if (!valid) return false;
  parallel.ranges(a.num_cells, 1024, [&](int64_t begin, int64_t end) {
    int64_t cloud = std::upper_bound(a.cloud_offsets, a.cloud_offsets + a.num_clouds + 1, begin) - a.cloud_offsets - 1;
    while (begin < end) {
      while (a.cloud_offsets[cloud + 1] <= begin) ++cloud;
      const int64_t last = std::min(end, a.cloud_offsets[cloud + 1]);
      spread(cells, a.cloud_offsets[cloud], a.cloud_offsets[cloud + 1], begin, last, lowest.data());
      begin = last;
    }
  });
  parallel.ranges(a.num_points, 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t cell = static_cast<uint64_t>(a.cell_of_point[i]);
      if (cell >= static_cast<uint64_t>(a.num_cells)) {
        valid = false;
        return;
      }
      a.height[i] = a.coords[i * 3 + 2] - lowest[cell];
    }
  });
  return valid;
}

}  // namespace

bool height_above_minimum(const HeightAboveMinimum<float>& a, const Parallel& parallel) { return run(a, parallel); }
bool height_above_minimum(const HeightAboveMinimum<double>& a, const Parallel& parallel) { return run(a, parallel); }

}  // namespace pcseg::PCSEG_ISA
