#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace liger {

/// A trainable parameter and the name its checkpoint calls it.
struct NamedParameter {
  std::string name;
  at::Tensor value;
  double lr_ratio = 1.0;  ///< its learning rate is this times the optimizer's
  bool decays = true;     ///< by weight_decay, if it is a matrix
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
  /// Keeps the moments of parameters of 4096 numbers or more in one byte a number (8-bit Adam, arXiv 2110.02861: blocks
  /// of 256, dynamic quantization). They are widened for an update, which uses them unrounded.
  bool eight_bit = false;
  /// This process is `rank` of `ranks`, each of which holds the moments of its shard of all numbers and updates no
  /// other (ZeRO stage 1, arXiv 1910.02054). The gradients are whole everywhere.
  int rank = 0, ranks = 1;
};

/// Numbers of one parameter that a rank updates; none if `count` is 0.
struct Shard {
  int64_t begin = 0, count = 0;
};

/// All numbers in the parameters' order, cut into `ranks` runs as equal as can be: within a parameter at multiples of
/// 256, a block of 8-bit moments. [parameter][rank].
std::vector<std::vector<Shard>> shards(const std::vector<NamedParameter>& parameters, int ranks);

/// AdamW (arXiv 1711.05101), step t = 1, 2, ...:
///   p *= 1 - lr * weight_decay            only for p with two dimensions or more that `decays`
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
/// with lr times each parameter's lr_ratio. Moments are in the parameters' dtype, which must be float32 or float64,
/// unless `eight_bit`.
class AdamW {
 public:
  AdamW(std::vector<NamedParameter> parameters, const AdamWOptions& options);
  ~AdamW();

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
  const std::vector<std::vector<Shard>>& shards() const { return shards_; }
  int64_t steps() const { return steps_; }
  /// What both moments of a parameter of `numbers` numbers, `size` bytes each, take.
  static int64_t moment_bytes(int64_t numbers, int64_t size, bool eight_bit);

  /// "exp_avg." and "exp_avg_sq." + name -> moment; of 8-bit moments the bytes, with the largest magnitudes of their
  /// blocks as "exp_avg.largest." and "exp_avg_sq.largest." + name. The tensors are the optimizer's own: this rank's
  /// shards, [n] each unless the rank has all of a parameter.
  std::map<std::string, at::Tensor> state() const;
  /// Takes over the moments of `state` after `steps` updates. Throws Error(kBadInput) if one is missing or misshapen.
  void restore(const std::map<std::string, at::Tensor>& state, int64_t steps);

  /// A tensor of the state with those of all ranks put together.
  struct StateTensor {
    std::string name;
    std::vector<int64_t> shape;
    at::ScalarType dtype;
    std::vector<Shard> shards;  ///< by rank: its elements
  };
  std::vector<StateTensor> layout() const;

 private:
  struct Part;      // this rank's shard of a parameter
  struct Group;     // parts with one weight decay and one learning rate
  struct EightBit;  // a part with 8-bit moments
  bool eight_bit(const at::Tensor& parameter) const;
  void step(Group& group, double lr) const;
  void step(EightBit& parameter, double lr) const;
  std::vector<at::Tensor> grads() const;
  std::vector<NamedParameter> parameters_;
  std::vector<std::vector<Shard>> shards_;
  std::vector<Group> groups_;
  std::vector<EightBit> eight_bit_;
  AdamWOptions options_;
  int64_t steps_ = 0;
};

}  // namespace liger
