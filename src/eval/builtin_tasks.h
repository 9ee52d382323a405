#pragma once

#include <span>
#include <string_view>

namespace liger::eval {

/// A file of configs/tasks, which are compiled into the program.
struct BuiltinFile {
  std::string_view name;  ///< "piqa.yaml"
  std::string_view text;
};
std::span<const BuiltinFile> builtin_task_files();

}  // namespace liger::eval
