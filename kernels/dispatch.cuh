// From sizes and types known at run time to those known to a kernel.
#pragma once

#include "liger_kernels.h"
#include "tile.cuh"

namespace liger::kernels {

template <int n>
struct Size {
  static constexpr int value = n;
};
/// Calls run(E()) for the type.
template <typename Run>
const char* for_type(Type type, const Run& run) {
  switch (type) {
    case Type::kBFloat16: return run(BFloat16());
    case Type::kHalf: return run(Half());
    default: return run(float());
  }
}
/// Calls run(E(), Size<D>()) for the type and a D of 64, 128 or 256.
template <typename Run>
const char* for_type_and_size(Type type, int64_t D, const Run& run) {
  return for_type(type, [&](auto element) -> const char* {
    return D == 64 ? run(element, Size<64>()) : D == 128 ? run(element, Size<128>()) : run(element, Size<256>());
  });
}

}  // namespace liger::kernels
