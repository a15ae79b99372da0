// Text to numbers: lines of decimal numbers, each read to the double that is nearest to what is written.
#pragma once

#include <cstdint>
#include <vector>

#include "isa.h"
#include "parallel.h"

namespace pcseg {

// Whole lines: the bytes from `begin` to `end`, with so many lines before them.
struct TextPart {
  int64_t begin;
  int64_t end;
  int64_t first_line;
};

// Splits a text at line ends into parts, in order, that cover it, and counts lines: those that end with a newline, and
// what follows the last one. The last entry is empty and holds the number of all lines.
PCSEG_KERNEL(std::vector<TextPart> split_lines(const char* text, int64_t size, const Parallel& parallel))

// A line is num_columns numbers with `delimiter` between them; a blank stands for any run of blanks and tabs. Blanks
// and tabs around numbers and a carriage return at the end of a line do not count; a line with nothing else is left
// out. A number has the form that Python's float() takes, underscores apart, and gets its value: the nearest double,
// ties to even; what is beyond the largest is infinite.
// columns (num_columns, capacity) gets the numbers; capacity is at least the number of lines, and places from the
// number of rows on are undefined. `delimiter` is neither part of a number nor a line end.
struct TextNumbers {
  const char* text;
  int64_t num_columns;  // at least 1
  char delimiter;
  double* columns;
  int64_t capacity;
};

// Returns the number of rows, or -1 where a line is something else (the output is then undefined).
PCSEG_KERNEL(int64_t text_numbers(const TextNumbers& a, const std::vector<TextPart>& parts, const Parallel& parallel))

inline std::vector<TextPart> run_split_lines(const char* text, int64_t size, const Parallel& parallel) {
  PCSEG_DISPATCH(split_lines, text, size, parallel);
}

inline int64_t run_text_numbers(const TextNumbers& a, const std::vector<TextPart>& parts, const Parallel& parallel) {
  PCSEG_DISPATCH(text_numbers, a, parts, parallel);
}

}  // namespace pcseg
