#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iomanip>

#include "io/log_state.h"
#include "io/text.h"
#include "liger/error.h"

namespace liger {
namespace {

constexpr double kRedraw = 0.1;  // seconds
constexpr size_t kWidestBar = 24, kNarrowestBar = 8;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string clock(double seconds) {
  const auto whole = static_cast<int64_t>(std::clamp(seconds, 0.0, 3.6e9));
  std::ostringstream out;
  out << std::setfill('0');
  if (whole >= 3600) {
    out << whole / 3600 << ':' << std::setw(2) << whole / 60 % 60;
  } else {
    out << whole / 60;
  }
  out << ':' << std::setw(2) << whole % 60;
  return std::move(out).str();
}

bool is_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::string_view(term) != "dumb";
}

size_t terminal_width() {
  struct winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// At most `columns` code points of valid text.
std::string cut(const std::string& text, size_t columns) {
  size_t at = 0;
  for (size_t used = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80 && ++used > columns) break;
  }
  return text.substr(0, at);
}

}  // namespace

Progress::Progress(std::string title, int64_t total, double seconds, int64_t first)
    : title_(detail::printable(title)),
      total_(total),
      first_(first),
      done_(first),
      interval_(seconds),
      start_(now()),
      last_draw_(start_),
      terminal_(is_terminal() && detail::log_format() == LogFormat::kText) {}

Progress::~Progress() {
  if (!finished_ && terminal_) detail::end_bar();
}

void Progress::update(int64_t done, std::string_view note) {
  done_ = done;
  note_ = detail::printable(note, 200);
  if (now() - last_draw_ >= (terminal_ ? kRedraw : interval_)) draw();
}

void Progress::finish(std::string_view note) {
  if (std::exchange(finished_, true)) return;
  if (!note.empty()) note_ = detail::printable(note, 200);
  draw();
  if (terminal_) detail::end_bar();
}

void Progress::draw() {
  last_draw_ = now();
  if (!detail::log_shows(LogLevel::kInfo)) return;
  const double elapsed = last_draw_ - start_;
  const double share = total_ > 0 ? std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0) : 0;
  const bool known = total_ > 0 && done_ > first_ && !finished_;
  const double each = known ? elapsed / static_cast<double>(done_ - first_) : 0;
  const std::string time = known ? clock(each * static_cast<double>(total_ - done_)) + " left"
                                 : clock(elapsed) + (finished_ ? "" : " so far");
  std::string percent = total_ > 0 ? std::to_string(static_cast<int>(share * 100)) + "%" : "";
  if (!terminal_) {
    const std::string count = total_ > 0 ? cat(percent, " (", done_, "/", total_, ")") : std::to_string(done_);
    return log_info(cat(title_, ": ", count, ", ", time, note_.empty() ? "" : ", ", note_));
  }
  percent.insert(0, 4 - std::min<size_t>(4, percent.size()), ' ');
  const std::string rest = cat(" ", time, note_.empty() ? "" : "  ", note_);
  const size_t columns = terminal_width() - 1, used = title_.size() + percent.size() + rest.size() + 3;
  const size_t room = columns > used ? columns - used : 0;  // the note needs it more
  const size_t width = std::clamp(room, kNarrowestBar, kWidestBar);
  const auto filled = static_cast<size_t>(share * static_cast<double>(width));
  const std::string bar = total_ > 0
                              ? cat(percent, " [", std::string(filled, '='), std::string(width - filled, ' '), "]")
                              : cat(" ", done_);
  detail::draw_bar(cut(title_ + bar + rest, columns));
}

}  // namespace liger
