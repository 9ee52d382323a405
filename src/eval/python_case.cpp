#include "eval/python_case.h"

#include <algorithm>
#include <span>

#include "eval/python_case_tables.h"
#include "io/utf8.h"

namespace liger::eval {
namespace {

using detail::append_char;

constexpr char32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

struct CaseTable {
  std::span<const CaseRun> runs;
  std::span<const CaseSpecial> specials;
};

CaseTable lower() { return {{kLowerRuns, kLowerRunCount}, {kLowerSpecials, kLowerSpecialCount}}; }
CaseTable upper() { return {{kUpperRuns, kUpperRunCount}, {kUpperSpecials, kUpperSpecialCount}}; }
CaseTable title() { return {{kTitleRuns, kTitleRunCount}, {kTitleSpecials, kTitleSpecialCount}}; }

bool contains(std::span<const CharRange> ranges, char32_t c) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t value, const CharRange& range) { return value < range.first; });
  return after != ranges.begin() && c <= std::prev(after)->last;
}

bool is_cased(char32_t c) { return contains({kCased, kCasedCount}, c); }
bool is_ignorable(char32_t c) { return contains({kCaseIgnorable, kCaseIgnorableCount}, c); }

void append_cased(std::string& out, char32_t c, const CaseTable& table) {
  const auto special = std::lower_bound(table.specials.begin(), table.specials.end(), c,
                                        [](const CaseSpecial& entry, char32_t value) { return entry.from < value; });
  if (special != table.specials.end() && special->from == c) {
    for (const char32_t to : special->to)
      if (to != 0) append_char(out, to);
    return;
  }
  const auto after = std::upper_bound(table.runs.begin(), table.runs.end(), c,
                                      [](char32_t value, const CaseRun& run) { return value < run.first; });
  if (after != table.runs.begin()) {
    const CaseRun& run = *std::prev(after);
    if (c <= run.last && (c - run.first) % run.step == 0)
      c = static_cast<char32_t>(static_cast<int64_t>(c) + run.distance);
  }
  append_char(out, c);
}

// Whether the sigma at `at` ends a word: a cased character before it and none after it, whatever is ignorable between.
bool is_final_sigma(std::string_view text, size_t at) {
  size_t before = at;
  char32_t c = 0;
  while (before > 0) {
    c = detail::char_before(text, before);
    if (!is_ignorable(c)) break;
    do --before;
    while ((static_cast<uint8_t>(text[before]) & 0xC0) == 0x80);
  }
  if (before == 0 || !is_cased(c)) return false;
  size_t after = at + detail::utf8_length(text[at]);
  while (after < text.size()) {
    c = detail::next_char(text, after);
    if (!is_ignorable(c)) return !is_cased(c);
  }
  return true;
}

void append_lower(std::string& out, std::string_view text, size_t at, char32_t c) {
  if (c != kSigma) return append_cased(out, c, lower());
  append_char(out, is_final_sigma(text, at) ? kFinalSigma : kSmallSigma);
}

}  // namespace

std::string python_lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    append_lower(out, text, here, detail::next_char(text, at));
  }
  return out;
}

std::string python_upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_cased(out, detail::next_char(text, at), upper());
  return out;
}

std::string python_capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const char32_t c = detail::next_char(text, at);
    if (here == 0) {
      append_cased(out, c, title());
    } else {
      append_lower(out, text, here, c);
    }
  }
  return out;
}

std::string python_title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const size_t here = at;
    const char32_t c = detail::next_char(text, at);
    if (in_word) {
      append_lower(out, text, here, c);
    } else {
      append_cased(out, c, title());
    }
    in_word = is_cased(c);
  }
  return out;
}

}  // namespace liger::eval
