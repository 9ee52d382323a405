#include "liger/io/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "io/log_state.h"

// The only file that sees spdlog: its fmt is not the one in torch's include folder.

namespace liger {
namespace {

struct LogState {
  LogState() { configure(LogLevel::kInfo, LogFormat::kText); }
  void configure(LogLevel new_level, LogFormat new_format);
  std::mutex mutex;
  LogLevel level = LogLevel::kInfo;
  LogFormat format = LogFormat::kText;
  bool bar_shown = false;
  std::unique_ptr<spdlog::logger> logger;
};

void LogState::configure(LogLevel new_level, LogFormat new_format) {
  level = new_level;
  format = new_format;
  const char* no_color = std::getenv("NO_COLOR");
  const bool plain = format == LogFormat::kJson || (no_color != nullptr && *no_color != '\0');
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_st>(plain ? spdlog::color_mode::never
                                                                          : spdlog::color_mode::automatic);
  logger = std::make_unique<spdlog::logger>("liger", std::move(sink));
  logger->set_level(spdlog::level::trace);  // the level is ours to check
  if (format == LogFormat::kJson) {
    logger->set_pattern(R"({"time":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","message":%v})",
                        spdlog::pattern_time_type::utc);
  } else {
    logger->set_pattern("%H:%M:%S %^%-7l%$ %v");
  }
}

LogState& state() {
  static LogState* const the_state = new LogState;  // outlives every static object that may still log
  return *the_state;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::err;
}

void write_stderr(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

void configure_log(LogLevel level, LogFormat format) {
  const std::lock_guard lock(state().mutex);
  state().configure(level, format);
}

void log(LogLevel level, std::string_view text) {
  LogState& log = state();
  const std::lock_guard lock(log.mutex);
  if (level < log.level) return;
  if (std::exchange(log.bar_shown, false)) write_stderr("\r\033[K");
  if (log.format == LogFormat::kJson) {
    using nlohmann::json;
    log.logger->log(to_spdlog(level), json(text).dump(-1, ' ', false, json::error_handler_t::replace));
  } else {
    log.logger->log(to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
  }
}

namespace detail {

bool log_shows(LogLevel level) {
  const std::lock_guard lock(state().mutex);
  return level >= state().level;
}

LogFormat log_format() {
  const std::lock_guard lock(state().mutex);
  return state().format;
}

void draw_bar(const std::string& line) {
  const std::lock_guard lock(state().mutex);
  write_stderr("\r" + line + "\033[K");
  state().bar_shown = true;
}

void end_bar() {
  const std::lock_guard lock(state().mutex);
  if (std::exchange(state().bar_shown, false)) write_stderr("\n");
}

}  // namespace detail
}  // namespace liger
