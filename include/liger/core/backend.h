#pragma once

#include <string>

namespace liger {

/// What computes a linearized layer's token mixer.
enum class Backend {
  kAuto,   ///< compiled code or kernels where they can, with a warning where they cannot
  kFused,  ///< these alone: what they cannot run is an Error
  kTorch   ///< LibTorch's operators, any device
};
/// "auto", "fused" or "torch"; throws Error(kUsage) for anything else.
Backend backend_from_string(const std::string& name);

}  // namespace liger
