// Text to numbers: texts of every length that end anywhere in a number, damaged ones among them, on exactly sized arrays.
#include <string>

#include "../../../csrc/kernels/text_numbers.h"
#include "sanitize.h"

using namespace pcseg;

namespace {

int64_t read(const std::string& line, int64_t num_columns, const Parallel& parallel, std::vector<double>& columns) {
  const std::vector<char> text(line.begin(), line.end());  // nothing behind the last character
  const auto parts = run_split_lines(text.data(), static_cast<int64_t>(text.size()), parallel);
  columns = std::vector<double>(num_columns * parts.back().first_line);
  return run_text_numbers({text.data(), num_columns, ' ', columns.data(), parts.back().first_line}, parts, parallel);
}

}  // namespace

int main() {
  std::mt19937 engine(5);
  std::vector<double> columns;
  const std::string alphabet = "0123456789.-+eE \t\r\n\xff,nainfty";
  for (const Parallel& parallel : {Parallel::serial(), three_threads()}) {
    const std::string line = "-12.375 1234567.123456789012345 1e-3 inf\r\n";
    for (size_t length = 0; length <= line.size(); ++length) read(line.substr(0, length), 4, parallel, columns);
    CHECK(read(line, 4, parallel, columns) == 1 && columns[0] == -12.375 && columns[2] == 1e-3);
    for (int turn = 0; turn < 20000; ++turn) {
      std::string any(engine() % 60, ' ');
      for (char& c : any) c = alphabet[engine() % (turn % 2 ? alphabet.size() : 19)];
      read(any, 1 + turn % 3, parallel, columns);
    }
    std::string large;
    int64_t rows = 0;
    for (; large.size() < 3u << 18; ++rows) large += std::to_string(rows) + " -0.5\n" + (engine() % 3 ? "" : " \n");
    CHECK(read(large, 2, parallel, columns) == rows);
    CHECK(columns[rows - 1] == static_cast<double>(rows - 1));
  }
}
