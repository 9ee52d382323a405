#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "convert/low_rank.h"
#include "liger/convert/convert.h"
#include "liger/convert/tie.h"
#include "liger/io/safetensors.h"
#include "liger/nn/lora_config.h"

namespace liger {

/// The tensors of a tied model and of its adapter, made one by one of those of a model's folder.
class TiedWeights {
 public:
  /// `dtype`: of the tied model's weights; absent = as stored.
  TiedWeights(const WeightFiles& source, const ModelConfig& model, const TieOptions& options,
              std::optional<Dtype> dtype);

  const ModelConfig& config() const { return tied_; }
  /// Of a tensor, in numbers read and multiplied, roughly: for progress.
  int64_t work(const TensorInfo& tensor) const;
  /// Names, types and shapes.
  std::vector<TensorInfo> base_tensors() const;
  /// Memory that making them takes, estimated: of the largest matrix a few copies, and its product with itself.
  uint64_t working_bytes() const;
  std::vector<TensorInfo> adapter_tensors() const;  ///< under PEFT's names; empty with rank 0
  LoraConfig adapter_config() const;

  /// One of these, but for embeddings, final norm and head, which are the source's; of its type.
  at::Tensor make(const TensorInfo& tensor);
  /// Writes a file of some of these tensors. `on_progress` gets work() of each. Throws Error(kBadInput) for a value
  /// that is not finite or too large for its type; the file appears whole or not at all.
  void write(const std::filesystem::path& file, std::vector<TensorInfo> tensors,
             const std::function<void(int64_t)>& on_progress);
  /// Of the adapters written so far.
  KeptEnergy kept() const;

 private:
  struct Energy {
    double kept = 0, all = 0;
  };
  using Sink = std::function<void(std::span<const std::byte>)>;

  const WeightFiles::Entry& entry(const std::string& name) const;
  std::string in_layer(int64_t layer, const std::string& name) const;
  at::Tensor neutral(const std::string& name, const std::vector<int64_t>& shape) const;
  at::Tensor read(const std::string& name) const;
  at::Tensor of_layer(int64_t layer, const std::string& name) const;
  at::Tensor of_slot(int64_t slot, const std::string& name, const std::vector<int64_t>& shape) const;
  Dtype type_of(const std::string& name) const;
  at::Tensor rounded(const at::Tensor& x, int64_t slot, const std::string& name) const;
  const LowRank& pair(int64_t depth, const std::string& linear);
  at::Tensor adapter_tensor(const std::string& name);
  void copy(const TensorInfo& to, const Sink& sink) const;

  const WeightFiles& source_;
  ModelConfig model_, tied_;
  TieOptions options_;
  std::optional<Dtype> dtype_;
  std::vector<int64_t> layers_;                // of the model, by depth
  std::vector<std::vector<int64_t>> sources_;  // of the model, by slot
  at::ScalarType work_;
  std::map<std::string, Energy> energies_;
  std::string pair_name_;
  LowRank pair_;  // the last one made
};

}  // namespace liger
