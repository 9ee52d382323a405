#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// One new token of each of several sequences through the token mixer of one linearized layer, in one launch:
///   o = share * (softmax attention over the window's keys) + (1 - share) * (gated recurrence),
/// as liger/core/structure.h defines the recurrence and liger/nn/state.h the memory. Everything that changes from step
/// to step is read on the device and nothing is given back, so that a CUDA graph can replay the launch. Pointers are
/// aligned to 16 bytes. Arithmetic in float32 whatever the type; deterministic.
struct DecodeStep {
  Type type;                 ///< of q, k, v and o
  int64_t sequences, H, Hkv, D;
  const void* q;             ///< [sequences, H, D] as projected, before RoPE
  const void* k;             ///< [sequences, Hkv, D] likewise
  const void* v;             ///< [sequences, Hkv, D]

  float* states[2];          ///< [sequences, Hkv, D, D] (D + 1 columns if it normalizes), updated; the second one is
                             ///< for slots alone; the first nullptr: window only
  Features features;         ///< of the recurrence; `raw` is taken to be true
  bool delta_rule, reads_before_decay, normalizes, slots;  ///< at most one of them, as in structure.h

  int64_t window;            ///< keys a query sees, its own included; 0: recurrence only
  int64_t sinks;             ///< first keys of the sequence seen besides, once they have left the window
  float share;               ///< of the window in o, if there are both
  const float* cos;          ///< [sequences, D / 2] of the token's position; not used without a window, nor is the rest
  const float* sin;          ///< likewise
  float* ring_keys;          ///< [sequences, Hkv, window + sinks, D], rotated keys: position p in slot p % window, and
                             ///< again in slot window + p where p < sinks; the token's is written
  float* ring_values;        ///< likewise
  const int64_t* seen;       ///< [sequences]: tokens before this one, that is its position

  void* o;                   ///< [sequences, H, D]
};
/// nullptr if these sizes can run: D of 64, 128 or 256; H a multiple of Hkv; a window whose scores fit into shared
/// memory (some thousands of keys for four query heads to a key). Else the reason.
const char* decode_step_refuses(const DecodeStep& args);
/// `stream` is a cudaStream_t.
const char* decode_step(const DecodeStep& args, void* stream);

/// seen[s] += 1 for each of `sequences`, after the last layer's step.
const char* decode_advance(int64_t* seen, int64_t sequences, void* stream);

}  // namespace liger::kernels
