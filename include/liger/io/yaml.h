#pragma once

#include <string>
#include <string_view>

#include "liger/io/json.h"

namespace liger {

/// One YAML document of the strict subset of Settings::from_yaml, as JSON, of at most 256 KiB. The tag "!function" is
/// allowed on a plain text and stays in it: "!function NAME".
/// Throws Error(kUsage) "`source`:line:column: ...".
Json read_yaml(std::string_view text, const std::string& source);

}  // namespace liger
