#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace liger {

/// A trainable parameter and the name its checkpoint calls it.
struct NamedParameter {
  std::string name;
  at::Tensor value;
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
};

/// AdamW (arXiv 1711.05101), step t = 1, 2, ...:
///   p *= 1 - lr * weight_decay            only for p with two dimensions or more: norms and biases do not decay
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
/// Moments are in the parameters' dtype, which must be float32 or float64.
class AdamW {
 public:
  AdamW(std::vector<NamedParameter> parameters, const AdamWOptions& options);

  /// One update from the parameters' gradients, each of which must be there.
  void step(double lr);
  /// Forgets the gradients.
  void zero_grad();
  /// Euclidean norm of all gradients together, their squares summed in float64.
  double grad_norm() const;
  void scale_grads(double factor);
  /// Name of the first parameter whose gradient holds a NaN or an infinity; empty if none does.
  std::string first_nonfinite_grad() const;

  const std::vector<NamedParameter>& parameters() const { return parameters_; }
  int64_t steps() const { return steps_; }

  /// "exp_avg." and "exp_avg_sq." + name -> moment. The tensors are the optimizer's own.
  std::map<std::string, at::Tensor> state() const;
  /// Takes over the moments of `state` after `steps` updates. Throws Error(kBadInput) if one is missing or misshapen.
  void restore(const std::map<std::string, at::Tensor>& state, int64_t steps);

 private:
  struct Group {  // parameters with one weight decay
    std::vector<at::Tensor> values, exp_avgs, exp_avg_sqs;
    double weight_decay = 0.0;
  };
  std::vector<at::Tensor> grads() const;
  std::vector<NamedParameter> parameters_;
  std::vector<Group> groups_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace liger
