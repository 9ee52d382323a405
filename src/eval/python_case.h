#pragma once

#include <string>
#include <string_view>

namespace liger::eval {

// str.lower(), upper(), capitalize() and title(), by Unicode's full rules as CPython has them. Text is valid UTF-8.

std::string python_lower(std::string_view text);
std::string python_upper(std::string_view text);
/// The first character in title case, all others in lower case.
std::string python_capitalize(std::string_view text);
/// Words, which are runs of cased characters, capitalized.
std::string python_title(std::string_view text);

}  // namespace liger::eval
