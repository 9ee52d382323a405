#include "io/json_sax.h"

namespace liger::detail {

size_t JsonText::string_start() const {
  size_t at = offset() - 1;  // the closing quote
  while (at > 0) {
    --at;
    if (text_[at] != '"') continue;
    size_t slashes = 0;
    while (slashes < at && text_[at - 1 - slashes] == '\\') ++slashes;
    if (slashes % 2 == 0) return at;
  }
  return 0;
}

void JsonText::fail_at(size_t offset, const std::string& what) const {
  const Place place = place_of(text_, offset);
  fail(ErrorCode::kBadInput, source_, ":", first_line_ - 1 + place.line, ":", place.column, ": ", what);
}

bool StrictSax::parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
  // "[json.exception.parse_error.101] parse error at line 1, column 2: REASON"; the position is told our way.
  std::string reason = error.what();
  if (const size_t id = reason.find("] "); id != std::string::npos) reason.erase(0, id + 2);
  if (reason.starts_with("parse error at")) reason.erase(0, reason.find(": ") + 2);
  text_.fail_at(position == 0 ? 0 : position - 1, printable(reason, 300));
}

void StrictSax::refuse_long_integer(const std::string& digits) const {
  if (digits.find_first_of(".eE") == std::string::npos) {
    fail_here("integer " + printable(digits, 40) + " does not fit 64 bits");
  }
}

void check_json_bytes(const JsonText& text) {
  if (has_utf8_bom(text.text())) text.fail_at(0, "starts with a byte-order mark; save it as plain UTF-8");
  const size_t nul = text.text().find('\0');
  if (nul != std::string_view::npos) text.fail_at(nul, "NUL byte");
}

}  // namespace liger::detail
