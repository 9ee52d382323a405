#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "liger/recurrence/recurrence.h"

namespace liger {

/// Sequences one after the other, as the CUDA kernels take them.
struct KernelTokens {
  /// `starts` as in MixInputs, undefined: made here.
  KernelTokens(const std::vector<int64_t>& lengths, const at::Tensor& starts, at::Device device);
  int64_t sequences, N, longest;
  at::Tensor starts;  ///< [sequences + 1] int64; undefined where all are equally long

  const int64_t* starts_data() const { return starts.defined() ? starts.const_data_ptr<int64_t>() : nullptr; }
};

/// A recurrence by the CUDA kernels, from raw projections: q [N, H, D], k and v [N, Hkv, D], contiguous, float32,
/// bfloat16 or float16. A device pointer is all that the kernels know of a tensor.
struct CudaRecurrence {
  at::Tensor o;                    ///< as q
  std::vector<at::Tensor> states;  ///< after the last tokens, as state_shapes() says, float32
  std::vector<at::Tensor> saved;   ///< for the backward pass
};
struct CudaRecurrenceGradients {
  at::Tensor q, k, v;
  std::vector<at::Tensor> states;
};
/// Empty, or why these sizes cannot run.
std::string cuda_recurrence_refuses(const LayerRecurrence& layer, int64_t H, int64_t Hkv, int64_t D);
/// `states` before the first tokens. `training`: keeps what the backward pass needs.
CudaRecurrence cuda_recurrence(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                               const at::Tensor& v, const KernelTokens& tokens, const std::vector<at::Tensor>& states,
                               bool training);
CudaRecurrenceGradients cuda_recurrence_backward(const LayerRecurrence& layer, const at::Tensor& q, const at::Tensor& k,
                                                 const at::Tensor& v, const KernelTokens& tokens,
                                                 const std::vector<at::Tensor>& states, const CudaRecurrence& forward,
                                                 const at::Tensor& d_o, const std::vector<at::Tensor>& d_states);

}  // namespace liger
