#include <vector>

#include "io/digest.h"
#include "io/posix.h"
#include "liger/io/files.h"

namespace liger {

std::string sha256_hex(std::string_view bytes) {
  detail::Digest hash(detail::Digest::Kind::kSha256);
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_file(const std::filesystem::path& file) {
  const detail::Fd fd = detail::open_regular(file);
  std::vector<char> piece(size_t{1} << 20);
  detail::Digest hash(detail::Digest::Kind::kSha256);
  uint64_t offset = 0;
  while (const size_t got = detail::read_at(fd, piece.data(), piece.size(), offset, file)) {
    hash.add(piece.data(), got);
    offset += got;
  }
  return hash.hex();
}

}  // namespace liger
