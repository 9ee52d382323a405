#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace liger::detail {

/// The hash of bytes that come piece by piece.
class Digest {
 public:
  enum class Kind { kSha1, kSha256 };
  explicit Digest(Kind kind);
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;
  void add(const void* data, size_t size);
  std::string hex();  ///< lower case; ends it

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace liger::detail
