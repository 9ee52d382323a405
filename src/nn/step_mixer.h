#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"
#include "liger/nn/causal_lm.h"
#include "nn/fused_mix.h"

namespace liger {

/// What a token brings to a layer's mixer, of all heads, and where the result goes; [H][D], [Hkv][D] twice, [H][D], and
/// [D/2] twice of its position. Without q a softmax layer only remembers the token.
struct MixerToken {
  const float *q, *k, *v;
  float* o;
  const float *cos, *sin;
  int64_t seen;  ///< tokens of the sequence before it
};

/// Mixes one token at a time with what a layer remembers, in compiled code: softmax attention or a linearized layer.
class StepMixer {
 public:
  /// Keeps the model's numbers of heads; float32 or bfloat16, on the CPU (StepDecoder::supports()).
  explicit StepMixer(const CausalLM& model);

  /// Of head(), zeroed, aligned to 64 bytes.
  int64_t scratch_bytes() const { return scratch_bytes_; }
  /// Makes what a layer remembers of S sequences, or room in it for tokens up to `needed`.
  void prepare(int64_t layer, int64_t S, int64_t needed, LayerState& memory) const;
  /// One key/value head `h` of sequence `s`; different heads and sequences may run at the same time.
  void head(int64_t layer, int64_t s, int64_t h, const MixerToken& token, const LayerState& memory,
            void* scratch) const;

 private:
  void attend(int64_t layer, int64_t s, int64_t h, const MixerToken& token, const LayerState& memory,
              void* scratch) const;

  const CpuKernels& kernels_ = cpu_kernels();
  ModelConfig config_;
  int64_t Hkv_, D_, group_;
  Element element_;
  std::vector<at::Tensor> numbers_;  // of the heads of each layer, [kHeadScalars, H] float32; undefined: the defaults
  std::vector<MixSettings> mixes_;   // by layer; not used for softmax layers
  int64_t scratch_bytes_ = 64;
};

}  // namespace liger
