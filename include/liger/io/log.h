#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace liger {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

/// Where log lines go: stderr, always. Default: kInfo and above as text, coloured on a terminal unless NO_COLOR is set.
void configure_log(LogLevel level, LogFormat format = LogFormat::kText);
void log(LogLevel level, std::string_view text);
inline void log_debug(std::string_view text) { log(LogLevel::kDebug, text); }
inline void log_info(std::string_view text) { log(LogLevel::kInfo, text); }
inline void log_warning(std::string_view text) { log(LogLevel::kWarning, text); }

/// Progress of a long piece of work on stderr: a bar with share and time left on a terminal, a plain line every
/// `seconds` otherwise, nothing under --quiet. `total` 0 = unknown; `first` was done before, and not in this time.
class Progress {
 public:
  Progress(std::string title, int64_t total, double seconds = 10, int64_t first = 0);
  ~Progress();
  /// `note` is free text after the bar ("loss 1.234, 5321 tokens/s").
  void update(int64_t done, std::string_view note = {});
  void finish(std::string_view note = {});  ///< draws the last state and ends the line; once

 private:
  std::string title_, note_;
  int64_t total_, first_, done_;
  double interval_, start_, last_draw_;
  bool terminal_, finished_ = false;
  void draw();
};

}  // namespace liger
