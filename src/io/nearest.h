#pragma once

#include <functional>
#include <set>
#include <string>

namespace liger::detail {

/// The candidate that `word` was probably meant to be, or "".
std::string nearest(const std::string& word, const std::set<std::string, std::less<>>& candidates);

}  // namespace liger::detail
