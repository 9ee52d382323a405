#pragma once

#include "liger_kernels.h"

namespace liger::kernels {

/// What a recurrence's output is divided by, as in liger/core/structure.h.
enum class Divisor { kNone, kAtLeastOne, kOwn, kShared };
/// Two features a channel, of x and -x, as in liger/core/structure.h.
enum class TwoFeatures { kNone, kSoftmax, kExp };

/// decode_step() for a layer whose mixer chose what the paper's do not have: other features, rotated ones, a normalizer
/// of its own or one softmax with the window, a state that holds what the window no longer does, numbers of single
/// heads. One new token of each of several sequences, in one launch that a CUDA graph can replay. No delta rule, no
/// slots, and queries read after the decay. Pointers are aligned to 16 bytes. Arithmetic in float32 whatever the type;
/// deterministic.
struct DecodeChoices {
  Type type;                 ///< of q, k, v and o
  int64_t sequences, H, Hkv, D;
  const void* q;             ///< [sequences, H, D] as projected, before RoPE
  const void* k;             ///< [sequences, Hkv, D] likewise
  const void* v;             ///< [sequences, Hkv, D]

  float* state;              ///< [sequences, Hkv, D (2 D with two features), D (D + 1 with a divisor)], updated
  Features features;         ///< `raw` is taken to be true; maps of query and key where there are not two features
  TwoFeatures two_features;
  Divisor divisor;
  bool rotates_features;     ///< features are of rotated queries and keys
  bool beyond_window;        ///< what enters the state is the token that leaves the window, if that is no sink
  const float* scalars;      ///< [5, H], rows as in liger/core/head_scalars.h; nullptr: share, 1 - share, 1, 1 and 0
                             ///< (under kShared 0 for the second)

  int64_t window;            ///< keys a query sees, its own included; 0: recurrence only
  int64_t sinks;             ///< first keys of the sequence seen besides, once they have left the window
  float share;               ///< of the window in o, where nothing else says it
  const float* cos;          ///< [sequences, D / 2] of the token's position; for a window or rotated features
  const float* sin;          ///< likewise
  float* ring_keys;          ///< [sequences, Hkv, window + sinks, D], as in DecodeStep; the token's is written
  float* ring_values;        ///< likewise
  float* ring_raw_keys;      ///< keys before RoPE in the same slots; with beyond_window only
  const int64_t* seen;       ///< [sequences]: tokens before this one, that is its position; for a window

  void* o;                   ///< [sequences, H, D]
};
/// nullptr if these sizes can run: D of 64, 128 or 256; H a multiple of Hkv; a window whose scores fit into shared
/// memory. Else the reason.
const char* decode_choices_refuses(const DecodeChoices& args);
/// `stream` is a cudaStream_t.
const char* decode_choices(const DecodeChoices& args, void* stream);

}  // namespace liger::kernels
