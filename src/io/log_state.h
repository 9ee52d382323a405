#pragma once

#include <string>

#include "liger/io/log.h"

namespace liger::detail {

/// Whether messages of this level are shown.
bool log_shows(LogLevel level);
LogFormat log_format();
/// Draws a progress bar over the last one; a log line that comes later takes its place first.
void draw_bar(const std::string& line);
/// Leaves the bar where it is and goes on below it.
void end_bar();

}  // namespace liger::detail
