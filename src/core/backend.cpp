#include "liger/core/backend.h"

#include "liger/error.h"

namespace liger {

Backend backend_from_string(const std::string& name) {
  if (name == "auto") return Backend::kAuto;
  if (name == "fused") return Backend::kFused;
  if (name == "torch") return Backend::kTorch;
  fail(ErrorCode::kUsage, "backend '", name, "': expected auto, fused or torch");
}

}  // namespace liger
