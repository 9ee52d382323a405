#include "io/unicode_normal.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "io/unicode_tables.h"
#include "io/utf8.h"

namespace liger::detail {
namespace {

// Hangul syllables are put together of a leading consonant, a vowel and perhaps a trailing consonant by arithmetic.
constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28,
                   kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

bool is_syllable(char32_t c) { return c - kSyllables < kSyllableCount; }

constexpr char32_t kCharLimit = 0x110000;
constexpr uint8_t bit(NormalForm form) { return static_cast<uint8_t>(1 << static_cast<int>(form)); }
bool composes(NormalForm form) { return form == NormalForm::kC || form == NormalForm::kKC; }
bool is_compatible(NormalForm form) { return form == NormalForm::kKC || form == NormalForm::kKD; }

/// What the tables say of one character.
struct CharInfo {
  uint32_t canonical = 0, compatible = 0, lower = 0;  // where its parts are told in the tables + 1, or 0
  uint8_t combining_class = 0;
  uint8_t begins = 0xF;     // a bit for each form: nothing before it reaches beyond its start
  uint8_t unchanged = 0xF;  // and it stays as it is, if the next begins too
};

struct Part {
  char32_t c;
  uint8_t combining_class;
};
using Parts = std::vector<Part>;

/// All characters, in pages of which only those that say something are there.
class Tables {
 public:
  Tables() : infos_(kPage) {
    read_classes();
    read(kCanonicals, kCanonicalCount, &CharInfo::canonical);
    read(kCompatibles, kCompatibleCount, &CharInfo::compatible);
    read(kLowercases, kLowercaseCount, &CharInfo::lower);
    for (size_t i = 0; i < kCompositionCount; i += 3) {
      pairs_.emplace(pair_of(kCompositions[i], kCompositions[i + 1]), kCompositions[i + 2]);
      goes_on(kCompositions[i + 1]);
    }
    for (char32_t c = 0; c < kVowelCount; ++c) goes_on(kVowels + c);
    for (char32_t c = 1; c < kTrailCount; ++c) goes_on(kTrails + c);
    find_bounds();
  }

  const CharInfo& of(char32_t c) const { return infos_[pages_[c / kPage] + c % kPage]; }
  void decompose(NormalForm form, char32_t c, Parts& out) const;
  /// Marks by their class, those of one class in the order they came.
  static void order(Parts& parts);
  void compose(Parts& parts) const;

 private:
  static constexpr char32_t kPage = 256;
  static constexpr uint8_t kComposing = bit(NormalForm::kC) | bit(NormalForm::kKC);
  static constexpr uint64_t pair_of(char32_t first, char32_t second) { return uint64_t{first} << 32 | second; }

  CharInfo& at(char32_t c) {
    uint32_t& page = pages_[c / kPage];
    if (page == 0) {
      page = static_cast<uint32_t>(infos_.size());
      infos_.resize(infos_.size() + kPage);
    }
    return infos_[page + c % kPage];
  }
  void goes_on(char32_t c) { at(c).begins &= static_cast<uint8_t>(~kComposing); }
  void read_classes();
  void read(const uint32_t* table, size_t count, uint32_t CharInfo::* where) {
    for (size_t i = 0; i < count; i += 1 + (table[i] >> 21)) {
      at(table[i] & 0x1FFFFF).*where = static_cast<uint32_t>(i) + 1;
    }
  }
  void find_bounds();
  char32_t composed(char32_t first, char32_t second) const;

  std::array<uint32_t, kCharLimit / kPage> pages_{};
  std::vector<CharInfo> infos_;
  std::unordered_map<uint64_t, char32_t> pairs_;
};

void Tables::read_classes() {
  for (size_t run = 0; run + 1 < kCombiningClassRunCount; ++run) {  // the last run is of class 0
    const auto value = static_cast<uint8_t>(kCombiningClassRuns[run] & 0xFF);
    for (char32_t c = kCombiningClassRuns[run] >> 8; c < kCombiningClassRuns[run + 1] >> 8; ++c) {
      if (value != 0) at(c).combining_class = value, at(c).begins = 0;
    }
  }
}

/// A character begins if the first of its parts does, and is unchanged if its parts put together give it again.
void Tables::find_bounds() {
  Parts parts;
  for (char32_t c = 0; c < kCharLimit; ++c) {
    if (of(c).canonical == 0 && of(c).compatible == 0 && !is_syllable(c)) {
      if (of(c).begins != 0xF) at(c).unchanged = of(c).begins;
      continue;
    }
    for (const NormalForm form : {NormalForm::kC, NormalForm::kD, NormalForm::kKC, NormalForm::kKD}) {
      parts.clear();
      decompose(form, c, parts);
      const bool begins = of(parts.front().c).begins & bit(form);
      order(parts);
      if (composes(form)) compose(parts);
      const bool same = parts.size() == 1 && parts.front().c == c;
      if (!begins) at(c).begins &= static_cast<uint8_t>(~bit(form));
      if (!begins || !same) at(c).unchanged &= static_cast<uint8_t>(~bit(form));
    }
  }
}

void Tables::decompose(NormalForm form, char32_t c, Parts& out) const {
  if (is_syllable(c)) {
    const char32_t index = c - kSyllables, trail = index % kTrailCount;
    out.push_back({kLeads + index / (kVowelCount * kTrailCount), 0});
    out.push_back({kVowels + index % (kVowelCount * kTrailCount) / kTrailCount, 0});
    if (trail != 0) out.push_back({kTrails + trail, 0});
    return;
  }
  const CharInfo& info = of(c);
  const uint32_t* table = is_compatible(form) && info.compatible != 0 ? kCompatibles + info.compatible - 1
                          : info.canonical != 0                       ? kCanonicals + info.canonical - 1
                                                                      : nullptr;
  if (table == nullptr) return out.push_back({c, info.combining_class});
  for (uint32_t i = 1; i <= table[0] >> 21; ++i) out.push_back({table[i], of(table[i]).combining_class});
}

void Tables::order(Parts& parts) {
  constexpr std::ptrdiff_t kFew = 32;
  const auto less = [](const Part& a, const Part& b) { return a.combining_class < b.combining_class; };
  const auto is_mark = [](const Part& part) { return part.combining_class != 0; };
  for (auto end = parts.begin(); end != parts.end();) {
    const auto begin = std::find_if(end, parts.end(), is_mark);
    end = std::find_if_not(begin, parts.end(), is_mark);
    if (std::is_sorted(begin, end, less)) continue;
    if (end - begin <= kFew) {
      for (auto part = begin; part != end; ++part)
        std::rotate(std::upper_bound(begin, part, *part, less), part, part + 1);
      continue;
    }
    std::array<size_t, 257> places{};  // megabytes of marks: one pass to count, one to place
    for (auto part = begin; part != end; ++part) ++places[part->combining_class + 1U];
    for (size_t i = 1; i < places.size(); ++i) places[i] += places[i - 1];
    const Parts before(begin, end);
    for (const Part& part : before) begin[static_cast<std::ptrdiff_t>(places[part.combining_class]++)] = part;
  }
}

char32_t Tables::composed(char32_t first, char32_t second) const {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
  }
  const char32_t trail = second - kTrails;
  if (is_syllable(first) && (first - kSyllables) % kTrailCount == 0 && trail > 0 && trail < kTrailCount) {
    return first + trail;
  }
  const auto found = pairs_.find(pair_of(first, second));
  return found == pairs_.end() ? 0 : found->second;
}

/// Each part joins the last one of class 0 before it, unless one of its own class or a higher one stands between.
void Tables::compose(Parts& parts) const {
  constexpr size_t kNone = ~size_t{0};
  size_t kept = 0, starter = kNone;
  int between = -1;  // the class of the part before, -1 if that is the starter itself
  for (const Part part : parts) {
    if (starter != kNone && between < part.combining_class) {
      if (const char32_t both = composed(parts[starter].c, part.c)) {
        parts[starter].c = both;
        continue;
      }
    }
    if (part.combining_class == 0) starter = kept;
    between = part.combining_class == 0 ? -1 : part.combining_class;
    parts[kept++] = part;
  }
  parts.resize(kept);
}

const Tables& tables() {
  static const Tables all;
  return all;
}

/// The end of the ASCII that `at` starts.
size_t ascii_end(std::string_view text, size_t at) {
  constexpr uint64_t kHighBits = 0x8080808080808080;
  for (uint64_t eight; at + sizeof(eight) <= text.size(); at += sizeof(eight)) {
    std::memcpy(&eight, text.data() + at, sizeof(eight));
    if ((eight & kHighBits) != 0) break;
  }
  while (at < text.size() && static_cast<uint8_t>(text[at]) < 0x80) ++at;
  return at;
}

/// Where the first character stands that a form may change; ASCII none does.
size_t unchanged_end(const Tables& all, NormalForm form, std::string_view text, size_t at) {
  while ((at = ascii_end(text, at)) < text.size()) {
    size_t next = at;
    if ((all.of(next_char(text, next)).unchanged & bit(form)) == 0) break;
    at = next;
  }
  return at;
}

}  // namespace

std::string_view normalize(NormalForm form, std::string_view text, std::string& buffer) {
  const Tables& all = tables();
  size_t at = unchanged_end(all, form, text, 0), copied = 0;
  if (at == text.size()) return text;
  buffer.clear();
  Parts parts;
  while (at < text.size()) {
    // What goes on with the character before takes it along.
    size_t next = at;
    const bool begins = all.of(next_char(text, next)).begins & bit(form);
    if (!begins && at > copied) {
      do --at;
      while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
    }
    buffer.append(text.substr(copied, at - copied));
    parts.clear();
    for (bool first = true; at < text.size(); first = false, at = next) {
      next = at;
      const char32_t c = next_char(text, next);
      if (!first && (all.of(c).begins & bit(form)) != 0) break;
      all.decompose(form, c, parts);
    }
    Tables::order(parts);
    if (composes(form)) all.compose(parts);
    for (const Part& part : parts) append_char(buffer, part.c);
    copied = at;
    at = unchanged_end(all, form, text, at);
  }
  return buffer.append(text.substr(copied));
}

std::string_view lowercase(std::string_view text, std::string& buffer) {
  const Tables& all = tables();
  buffer.clear();
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_char(text, at);
    const uint32_t lower = all.of(c).lower;
    if (lower == 0) {
      append_char(buffer, c);
      continue;
    }
    const uint32_t* table = kLowercases + lower - 1;
    for (uint32_t i = 1; i <= table[0] >> 21; ++i) append_char(buffer, table[i]);
  }
  return buffer;
}

}  // namespace liger::detail
