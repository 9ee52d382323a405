#include "io/digest.h"

#include <openssl/evp.h>

#include "liger/error.h"

namespace liger::detail {

struct Digest::Impl {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

namespace {

void check(bool ok) {
  if (!ok) fail(ErrorCode::kInternal, "a hash: OpenSSL refused");
}

}  // namespace

Digest::Digest(Kind kind) : impl_(std::make_unique<Impl>()) {
  const EVP_MD* const method = kind == Kind::kSha1 ? EVP_sha1() : EVP_sha256();
  check(impl_->context != nullptr && EVP_DigestInit_ex(impl_->context.get(), method, nullptr) == 1);
}

Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

void Digest::add(const void* data, size_t size) { check(EVP_DigestUpdate(impl_->context.get(), data, size) == 1); }

std::string Digest::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  check(EVP_DigestFinal_ex(impl_->context.get(), digest, &size) == 1);
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (unsigned i = 0; i < size; ++i) out += {kHex[digest[i] >> 4], kHex[digest[i] & 15]};
  return out;
}

}  // namespace liger::detail
