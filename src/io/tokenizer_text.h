#pragma once

#include <string>
#include <string_view>

namespace liger::detail {

/// `text`, or a repaired copy of it in `buffer` if it is not valid UTF-8. Throws Error(kBadInput) if it is too long to
/// encode at once: positions in it, with every space grown to three bytes, must fit 31 bits.
std::string_view text_to_encode(std::string_view text, std::string& buffer);

}  // namespace liger::detail
