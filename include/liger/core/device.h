#pragma once

#include <c10/core/Device.h>

#include <string>

namespace liger {

/// "cpu", "cuda" (the first GPU) or "cuda:N". Throws Error(kUsage) for anything else, and for a GPU that this machine
/// or the LibTorch in use does not have, saying which of them.
c10::Device device_from_string(const std::string& name);

}  // namespace liger
