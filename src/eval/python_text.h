#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "liger/io/json.h"

namespace liger::eval {

// What lm-eval leaves to Python, so that prompts, scores and hashes come out equal. Text is UTF-8.

/// Bytes of white space at the end of `text`, by str.isspace() (Unicode).
size_t trailing_space_bytes(std::string_view text);
/// len(text): code points.
int64_t code_points(std::string_view text);
/// repr(float): shortest digits that read back equal, exponent form from 1e16 up and below 1e-4.
std::string python_repr(double value);
/// json.dumps(value, indent=2, ensure_ascii=False), or on one line if `indent` is 0.
std::string python_json(const OrderedJson& value, int indent);

}  // namespace liger::eval
