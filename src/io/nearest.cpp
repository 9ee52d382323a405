#include "io/nearest.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace liger::detail {
namespace {

/// Levenshtein distance, with two swapped neighbours as one edit.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, previous(b.size() + 1), row(b.size() + 1);
  std::iota(previous.begin(), previous.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({row[j - 1] + 1, previous[j] + 1, previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before = previous;
    std::swap(previous, row);
  }
  return previous[b.size()];
}

/// Whether `word` spells out `abbreviation`, as learning_rate does lr.
bool spells_out(std::string_view word, std::string_view abbreviation) {
  if (abbreviation.size() < 2 || word.empty() || word[0] != abbreviation[0]) return false;
  size_t at = 0;
  for (const char c : word) at += at < abbreviation.size() && c == abbreviation[at] ? 1 : 0;
  return at == abbreviation.size();
}

}  // namespace

std::string nearest(const std::string& word, const std::set<std::string, std::less<>>& candidates) {
  constexpr size_t kLongest = 64;  // no key of ours is longer, and the distance is quadratic
  if (word.size() > kLongest) return "";
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (const size_t distance = edit_distance(word, candidate); distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  if (!best.empty()) return best;
  for (const std::string& candidate : candidates) {
    const bool related = spells_out(word, candidate) || spells_out(candidate, word);
    if (related && candidate.size() > best.size()) best = candidate;
  }
  return best;
}

}  // namespace liger::detail
