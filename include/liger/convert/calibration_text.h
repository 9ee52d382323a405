#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "liger/core/sequences.h"
#include "liger/io/tokenizer.h"

namespace liger {

/// How much of a file to read, and how it is cut.
struct CalibrationText {
  std::filesystem::path file;  ///< .txt, or rows of .jsonl or .json, plain, .gz or .zst
  int64_t tokens = 8192;
  int64_t length = 512;  ///< of a chunk
  int64_t batch = 1024;  ///< tokens that are looked at together; whole chunks, at least one
};

/// The first tokens of the file, texts one after the other, each begun as the tokenizer begins one, in chunks without
/// regard to where texts end. Of a row "text" is read, or else all its strings. Throws Error(kBadInput) for a file with
/// less than a chunk of two tokens.
std::vector<Sequences> read_calibration_text(const CalibrationText& options, const Tokenizer& tokenizer);

}  // namespace liger
