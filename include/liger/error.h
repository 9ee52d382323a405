#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace liger {

/// What went wrong, as the tools' exit codes tell it.
enum class ErrorCode {
  kInternal = 1,   ///< a bug of ours
  kUsage = 2,      ///< command line or configuration
  kBadInput = 3,   ///< a file or tensor that is not what it claims to be
  kIo = 4,         ///< the system refused: disk full, no permission, read error
  kNonFinite = 5,  ///< training met a NaN or an infinity
  kOutOfMemory = 6,
  kLocked = 7,        ///< the output is in use or not empty
  kInterrupted = 75,  ///< stopped by a signal after a good save; can be resumed
  kCancelled = 130    ///< stopped by a signal, nothing saved
};

/// The only exception the library throws on purpose.
/// The text says place, what, expected, got and, where there is one, what to do next.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& text, ErrorCode code = ErrorCode::kBadInput)
      : std::runtime_error(text), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Joins its arguments with operator<<.
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(cat(parts...), code);
}

/// Runs `body`; an Error that leaves it gets "`where`: " in front, with its code kept.
template <typename Body>
decltype(auto) with_context(const std::string& where, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const Error& e) {
    throw Error(where + ": " + e.what(), e.code());
  }
}

}  // namespace liger

/// For anything a user or a file can cause: throws Error(kBadInput) unless `cond` holds.
#define LIGER_CHECK(cond, ...)                                   \
  do {                                                           \
    if (!(cond)) [[unlikely]]                                    \
      ::liger::fail(::liger::ErrorCode::kBadInput, __VA_ARGS__); \
  } while (false)

/// For a setting or an option that cannot be: throws Error(kUsage).
#define LIGER_CHECK_USAGE(cond, ...)                          \
  do {                                                        \
    if (!(cond)) [[unlikely]]                                 \
      ::liger::fail(::liger::ErrorCode::kUsage, __VA_ARGS__); \
  } while (false)
