#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/posix.h"

namespace liger::detail {

/// Unpacks one kind of compressed stream, piece by piece; streams may follow one another.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Takes bytes from the front of `in` and fills `out`; returns the bytes written. Throws Error(kBadInput) "the ...
  /// stream is damaged: ..." without a place.
  virtual size_t decode(std::string_view& in, std::span<char> out) = 0;
  /// The bytes may end here.
  virtual bool between_streams() const = 0;
};
std::unique_ptr<Decoder> make_gzip_decoder();
std::unique_ptr<Decoder> make_zstd_decoder();

/// The name without .gz or .zst, the endings whose files are unpacked.
std::filesystem::path without_compression(const std::filesystem::path& file);

/// The bytes of a file in order; those of a name in .gz or .zst unpacked, in bounded memory.
class ByteSource {
 public:
  explicit ByteSource(const std::filesystem::path& file);

  /// Up to `size` bytes, 0 only at the end. Throws Error(kBadInput) "FILE:LINE: ..." with the `line` given if the
  /// compressed stream is damaged, ends in its middle, or grows out of all proportion.
  size_t read(char* to, size_t size, int64_t line);

 private:
  size_t unpack(char* to, size_t size, int64_t line);
  void refill();

  std::filesystem::path file_;
  Fd fd_;
  uint64_t offset_ = 0;
  std::unique_ptr<Decoder> decoder_;  // null = as it is
  std::vector<char> packed_;
  std::string_view unread_;  // of packed_
  uint64_t unpacked_ = 0;
};

}  // namespace liger::detail
