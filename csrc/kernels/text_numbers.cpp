#include "text_numbers.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

namespace pcseg::PCSEG_ISA {
namespace {

static_assert(std::endian::native == std::endian::little, "the first character is the lowest byte of a word");

constexpr int64_t part_bytes = 1 << 18;
constexpr int64_t reach = 32;  // bytes that the quick ways may look at
constexpr uint64_t exact_mantissa = uint64_t{1} << 53;
constexpr int exact_power = 22;  // 10^22 is the largest power of ten that a double holds exactly
constexpr double power_of_ten[exact_power + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                                  1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr uint64_t whole_power_of_ten[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

inline bool is_blank(char c) { return c == ' ' || c == '\t'; }

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

inline const char* skip_blanks(const char* p, const char* end) {
  while (p != end && is_blank(*p)) ++p;
  return p;
}

// Eight characters as one word, digits as 0 to 9. The bits 7 of `other` mark what is no digit; a byte beyond ASCII may
// mark the byte after it, too.
struct Characters {
  uint64_t word;
  uint64_t other;
};

inline Characters read_characters(const char* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  word ^= 0x3030303030303030;
  return {word, ((word + 0x7676767676767676) | word) & 0x8080808080808080};
}

// How many characters come before the first that is marked: 8 where none is.
inline int length_before(uint64_t marks) { return marks ? std::countr_zero(marks) >> 3 : 8; }

// The number that the first `count` (1 to 8) digits of a word are. They move to its end and zeros come before them, so
// that there is one way to the value whatever the count.
inline uint64_t value_of(uint64_t word, int count) {
  word <<= 64 - 8 * count;
  word = word * 10 + (word >> 8);
  word = (word & 0x000000FF000000FF) * 0x000F424000000064 + ((word >> 16) & 0x000000FF000000FF) * 0x0000271000000001;
  return word >> 32;
}

// Mantissa and power of ten are exact as doubles, so that one operation rounds once, to the nearest.
inline double divided(uint64_t mantissa, int after, bool negative) {
  const double value = static_cast<double>(static_cast<int64_t>(mantissa)) / power_of_ten[after];
  return negative ? -value : value;
}

// Functions that read return where they came to, or nothing where the text is something else.

// A plain number that ends within eight characters. One look at the text says where the next number is, which is what
// the time goes by: each waits for the one before.
[[gnu::always_inline]] inline const char* read_short(const char* p, double& result) {
  auto [word, other] = read_characters(p);
  const bool negative = *p == '-';
  other &= ~(uint64_t{negative} << 7);
  if (!other) return nullptr;
  const int at = length_before(other);
  int end = at, count = at, after = 0;
  if (p[at] == '.') {
    other &= other - 1;
    if (!other) return nullptr;
    end = length_before(other);
    after = end - at - 1;
    count = end - 1;
    const uint64_t whole = (uint64_t{1} << 8 * at) - 1;
    word = (word & whole) | ((word >> 8) & ~whole);
  }
  if (count == negative || (p[end] | 0x20) == 'e') return nullptr;
  if (negative) word &= ~uint64_t{0xFF};
  result = divided(value_of(word, count), after, negative);
  return p + end;
}

// A plain number of at most seven digits before the point and fifteen after it.
[[gnu::noinline]] const char* read_long(const char* p, double& result) {
  const bool negative = *p == '-';
  const char* at = p + negative;
  const Characters front = read_characters(at);
  const int whole = length_before(front.other);
  if (whole == 8 || at[whole] != '.') return nullptr;
  uint64_t mantissa = whole ? value_of(front.word, whole) : 0;
  at += whole + 1;
  int after = 0;
  for (int length = 8; length == 8; after += length) {
    if (after == 16) return nullptr;
    const Characters part = read_characters(at);
    length = length_before(part.other);
    if (whole + after + length > 19) return nullptr;  // could overflow
    if (length) mantissa = mantissa * whole_power_of_ten[length] + value_of(part.word, length);
    at += length;
  }
  if (whole + after == 0 || mantissa > exact_mantissa || (*at | 0x20) == 'e') return nullptr;
  result = divided(mantissa, after, negative);
  return at;
}

// Behind a word in small or capital letters.
inline const char* read_word(const char* p, const char* end, const char* word) {
  for (; *word; ++word, ++p)
    if (p == end || (*p | 0x20) != *word) return nullptr;
  return p;
}

const char* read_name(const char* p, const char* end, double& result) {
  if (const char* behind = read_word(p, end, "nan")) {
    result = std::numeric_limits<double>::quiet_NaN();
    return behind;
  }
  result = std::numeric_limits<double>::infinity();
  const char* behind = read_word(p, end, "infinity");
  return behind ? behind : read_word(p, end, "inf");
}

// Any number that Python's float() takes.
[[gnu::noinline]] const char* read_any(const char* p, const char* end, double& result) {
  const bool negative = p != end && *p == '-';
  if (p != end && (*p == '-' || *p == '+')) ++p;
  const char* const start = p;
  uint64_t mantissa = 0;
  int64_t kept = 0, exponent = 0;
  int64_t magnitude = 0;  // the number is below 10^magnitude, and not below a tenth of it
  bool any = false, nonzero = false;
  for (bool point = false; p != end; ++p) {
    if (*p == '.' && !point) {
      point = true;
      continue;
    }
    if (!is_digit(*p)) break;
    any = true;
    nonzero |= *p != '0';
    if (nonzero && ++kept <= 19) mantissa = mantissa * 10 + static_cast<uint64_t>(*p - '0');
    magnitude += point ? (nonzero ? 0 : -1) : nonzero;
    exponent -= point;
  }
  if (!any) {
    p = read_name(start, end, result);
    if (negative) result = -result;
    return p;
  }
  if (p != end && (*p | 0x20) == 'e') {
    const bool down = ++p != end && *p == '-';
    if (p != end && (*p == '-' || *p == '+')) ++p;
    if (p == end || !is_digit(*p)) return nullptr;
    int64_t written = 0;
    for (; p != end && is_digit(*p); ++p) written = std::min<int64_t>(written * 10 + (*p - '0'), 1 << 30);
    exponent += down ? -written : written;
    magnitude += down ? -written : written;
  }
  double value = 0;  // where there is no other digit, whatever the exponent
  if (nonzero && (kept > 19 || mantissa > exact_mantissa || std::abs(exponent) > exact_power)) {
    if (std::from_chars(start, p, value).ec == std::errc::result_out_of_range)
      value = magnitude > 0 ? std::numeric_limits<double>::infinity() : 0;
  } else if (nonzero) {
    value = static_cast<double>(mantissa);
    value = exponent < 0 ? value / power_of_ten[-exponent] : value * power_of_ten[exponent];
  }
  result = negative ? -value : value;
  return p;
}

// Behind the number at p, by the first way that takes it.
[[gnu::always_inline]] inline const char* read_number(const char* p, const char* end, double& result) {
  const char* behind = nullptr;
  if (end - p > reach) {
    behind = read_short(p, result);
    if (!behind) behind = read_long(p, result);
  }
  return behind ? behind : read_any(p, end, result);
}

// At the next line that is not empty, or the end.
inline const char* find_row(const char* p, const char* end) {
  while (true) {
    p = skip_blanks(p, end);
    if (p != end && *p == '\r' && (p + 1 == end || p[1] == '\n')) ++p;
    if (p == end || *p != '\n') return p;
    ++p;
  }
}

// Behind a number and the blanks after it, and behind the delimiter before it where it is not the first.
[[gnu::always_inline]] inline const char* read_cell(const TextNumbers& a, const char* p, const char* end,
                                                    int64_t column, double& result) {
  if (column > 0 && is_blank(a.delimiter)) {
    if (!is_blank(p[-1])) return nullptr;
  } else if (column > 0) {
    if (p == end || *p != a.delimiter) return nullptr;
    p = skip_blanks(p + 1, end);
  }
  p = read_number(p, end, result);
  return p ? skip_blanks(p, end) : nullptr;
}

// Behind the end of a line.
inline const char* end_row(const char* p, const char* end) {
  if (p != end && *p == '\r') ++p;
  if (p == end) return p;
  return *p == '\n' ? p + 1 : nullptr;
}

// Reads the rows of two parts in turn, so that numbers of one need not wait for the other's, then what is left of each.
// Their numbers of rows, or false: a line is something else.
bool read_parts(const TextNumbers& a, const TextPart& first, const TextPart& second, int64_t* rows) {
  const char *p = a.text + first.begin, *q = a.text + second.begin;
  const char *const p_end = a.text + first.end, *const q_end = a.text + second.end;
  double *to = a.columns + first.first_line, *other = a.columns + second.first_line;
  p = find_row(p, p_end);
  q = find_row(q, q_end);
  for (; p != p_end && q != q_end; ++to, ++other) {
    for (int64_t column = 0; column < a.num_columns; ++column) {
      p = read_cell(a, p, p_end, column, to[column * a.capacity]);
      q = read_cell(a, q, q_end, column, other[column * a.capacity]);
      if (!p || !q) return false;
    }
    p = end_row(p, p_end);
    q = end_row(q, q_end);
    if (!p || !q) return false;
    p = find_row(p, p_end);
    q = find_row(q, q_end);
  }
  const auto finish = [&](const char* at, const char* end, double* row) {
    for (; at && at != end; ++row) {
      for (int64_t column = 0; column < a.num_columns && at; ++column)
        at = read_cell(a, at, end, column, row[column * a.capacity]);
      if (at) at = end_row(at, end);
      if (at) at = find_row(at, end);
    }
    return at ? row : nullptr;
  };
  to = finish(p, p_end, to);
  other = finish(q, q_end, other);
  if (!to || !other) return false;
  rows[0] = to - (a.columns + first.first_line);
  rows[1] = other - (a.columns + second.first_line);
  return true;
}

}  // namespace

std::vector<TextPart> split_lines(const char* text, int64_t size, const Parallel& parallel) {
  std::vector<TextPart> parts;
  for (int64_t begin = 0; begin < size;) {
    int64_t end = std::min(size, begin + part_bytes);
    if (end < size) {
      const void* newline = std::memchr(text + end, '\n', size - end);
      end = newline ? static_cast<const char*>(newline) - text + 1 : size;
    }
    parts.push_back({begin, end, 0});
    begin = end;
  }
  const int64_t count = static_cast<int64_t>(parts.size());
  std::vector<int64_t> lines(count);
  parallel.tasks(count, [&](int64_t i, int) {
    lines[i] = std::count(text + parts[i].begin, text + parts[i].end, '\n');
  });
  if (count && text[size - 1] != '\n') ++lines[count - 1];
  int64_t before = 0;
  for (int64_t i = 0; i < count; ++i) {
    parts[i].first_line = before;
    before += lines[i];
  }
  parts.push_back({size, size, before});
  return parts;
}

int64_t text_numbers(const TextNumbers& a, const std::vector<TextPart>& parts, const Parallel& parallel) {
  const int64_t count = static_cast<int64_t>(parts.size()) - 1;
  std::vector<int64_t> rows(count + 1);
  std::atomic<bool> good{true};
  parallel.tasks((count + 1) / 2, [&](int64_t i, int) {
    if (good && !read_parts(a, parts[2 * i], parts[2 * i + 1], &rows[2 * i])) good = false;
  });
  if (!good) return -1;
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (total < parts[i].first_line)  // empty lines came before
      for (int64_t column = 0; column < a.num_columns; ++column) {
        double* const values = a.columns + column * a.capacity;
        std::memmove(values + total, values + parts[i].first_line, rows[i] * sizeof(double));
      }
    total += rows[i];
  }
  return total;
}

}  // namespace pcseg::PCSEG_ISA
