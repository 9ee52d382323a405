#pragma once

#include <memory>
#include <string>

#include "liger/eval/task.h"

namespace liger::eval {

/// A task of a definition whose includes are resolved. Throws Error(kUsage) "`source`: 'key': expected ..." on a key
/// that does not exist or a value that this program cannot follow.
std::shared_ptr<const Task> make_task(const Json& definition, const std::string& source);
/// A group, without its children.
TaskGroup make_group(const Json& definition, const std::string& source);

}  // namespace liger::eval
