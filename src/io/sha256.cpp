#include <openssl/evp.h>

#include <memory>
#include <vector>

#include "io/posix.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    check(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  void add(const void* data, size_t size) { check(EVP_DigestUpdate(context_.get(), data, size) == 1); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    check(EVP_DigestFinal_ex(context_.get(), digest, &size) == 1);
    static constexpr char kHex[] = "0123456789abcdef";
    std::string out;
    for (unsigned i = 0; i < size; ++i) out += {kHex[digest[i] >> 4], kHex[digest[i] & 15]};
    return out;
  }

 private:
  static void check(bool ok) {
    if (!ok) fail(ErrorCode::kInternal, "sha256: OpenSSL refused");
  }
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_file(const std::filesystem::path& file) {
  const detail::Fd fd = detail::open_regular(file);
  std::vector<char> piece(size_t{1} << 20);
  Sha256 hash;
  uint64_t offset = 0;
  while (const size_t got = detail::read_at(fd, piece.data(), piece.size(), offset, file)) {
    hash.add(piece.data(), got);
    offset += got;
  }
  return hash.hex();
}

}  // namespace liger
