#pragma once

// The CUDA side of liger: raw device pointers, sizes and a stream. Includes nothing of torch, nor of the rest of
// liger. What the kernels share stands here, each of them in a header of its own. A launcher returns nullptr, or a
// message saying why nothing was launched, which is the calling thread's until its next launch. Streams are
// cudaStream_t. Each X has an X_refuses: nullptr, or why these sizes cannot run.

#include <cstdint>

namespace liger::kernels {

/// True if this library was compiled with nvcc.
bool compiled_with_cuda();
/// Of the calling thread's device; 0 without one.
int multiprocessors();

enum class Type { kFloat, kBFloat16, kHalf };

/// How a row of raw queries or keys becomes features (liger/core/structure.h, FeatureMap).
/// kForgotten: 1 - a, of a key's own decay.
enum class Map { kIdentity, kSoftmax, kUnit, kComplement, kForgotten };
/// The log-decay of a raw key x, or of its mean over the channels (structure.h, Decay); kConstant: `constants`.
enum class Gate { kConstant, kLogSigmoid, kSoftplus, kExp };

/// What a kernel makes of raw projections while it loads them.
struct Features {
  bool raw = false;  ///< false: q and k are features already, and g is given
  Map query = Map::kIdentity, key = Map::kIdentity;
  Gate gate = Gate::kConstant;
  bool per_channel = false;          ///< the gate's x is the key, not its mean
  float divisor = 1;                 ///< of the log-decay, except a constant one
  const float* constants = nullptr;  ///< [Hkv] on the device: log-decays; nullptr: 0
};

}  // namespace liger::kernels
