#include "liger/core/head_scalars.h"

namespace liger {

const char* head_scalar_name(HeadScalar scalar, bool shared_normalizer) {
  switch (scalar) {
    case kWindowWeight: return "window_weight";
    case kLinearWeight: return shared_normalizer ? "log_linear_weight" : "linear_weight";
    case kQueryScale: return "query_scale";
    case kKeyScale: return "key_scale";
    case kLogGate: return "log_gate";
    default: return "";
  }
}

}  // namespace liger
