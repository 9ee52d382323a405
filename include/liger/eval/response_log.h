#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "liger/eval/scoring.h"

namespace liger {

/// Answers to requests in a file that grows as they come, one JSON line each, so that a run that was killed at any
/// moment goes on where it was. An answer is found by what decides it: the tokens of the request and the fingerprint of
/// what answered.
class ResponseLog {
 public:
  /// Reads what `file` holds, or creates it; a last line that a kill cut off is dropped. Throws Error(kBadInput)
  /// "FILE:LINE: ..." on one that is no log, Error(kLocked) while another process has it, Error(kIo).
  ResponseLog(std::filesystem::path file, std::string fingerprint);
  ResponseLog(ResponseLog&&) noexcept;
  ~ResponseLog();

  std::optional<Score> find(const ScoreRequest& request) const;
  /// Appends it unless it is there; on the disk within seconds, and in the file when this returns.
  void add(const ScoreRequest& request, const Score& score);
  /// Answers there were when the file was opened, of whatever fingerprint, and those there are now.
  int64_t found() const;
  int64_t size() const;
  const std::filesystem::path& file() const;
  /// Removes the file: the results are written elsewhere.
  void remove();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What decides the answers of a model in a folder: its configuration and its weights' names, sizes and times.
/// Weights are not read. `more`: whatever else decides them (adapter's fingerprint, dtype, device, ...).
std::string model_fingerprint(const std::filesystem::path& dir, const std::string& more);

}  // namespace liger
