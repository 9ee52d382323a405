#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace liger::benchmarks {

/// B sequences of T tokens, H query heads over Hkv heads of keys and values, of D channels each.
struct Sizes {
  int64_t B, T, H, Hkv, D;
};

/// A kernel with inputs to run it on.
struct Case {
  double bytes;                         ///< that it must move: every input read once, every output written once
  double flops;                         ///< of its products, a multiply-add as two
  std::function<const char*()> launch;  ///< on the default stream; nullptr or what went wrong
  std::vector<at::Tensor> kept;         ///< what `launch` has pointers to, besides
  std::vector<at::Tensor> outputs;      ///< looked at after the runs: a kernel that makes NaN is not measured
};

struct Row {
  const char* kernel;
  Sizes sizes;
  Case (*make)(const Sizes&);
  const char* peer;  ///< the row of compare/gpu_fla.py that does the same work, at the same sizes; or nullptr
};
const std::vector<Row>& rows();

}  // namespace liger::benchmarks
