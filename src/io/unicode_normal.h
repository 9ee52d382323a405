#pragma once

#include <string>
#include <string_view>

namespace liger::detail {

/// The normal forms of Unicode: characters taken apart (D) or put together (C), the marks on one in a fixed order; with
/// K, compatible ones made the same.
enum class NormalForm { kC, kD, kKC, kKD };

/// `text`, which is valid UTF-8, in a normal form, as the reference tokenizers see it: `text` itself if it is in it
/// already, which costs a look at each character, else a copy in `buffer`. Linear in the length of any text.
std::string_view normalize(NormalForm form, std::string_view text, std::string& buffer);

/// The same for lower case, each character by itself.
std::string_view lowercase(std::string_view text, std::string& buffer);

}  // namespace liger::detail
