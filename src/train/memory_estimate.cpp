#include "train/memory_estimate.h"

#include <algorithm>
#include <vector>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/ops/linear_distillation.h"
#include "liger/train/optimizer.h"
#include "nn/fused_mix.h"
#include "nn/mix_settings.h"
#include "train/parameter_sizes.h"

namespace liger {
namespace {

int64_t bytes_of(at::ScalarType type) { return static_cast<int64_t>(c10::elementSize(type)); }

// As TrainingSetup::load_model() holds the weights; config.json says what they will be stored as where there are none.
at::ScalarType held_type(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape) {
  if (options.model.dtype) return scalar_type_from_string(*options.model.dtype);
  if (!options.lora || options.model.init == Init::kRandom) return at::kFloat;
  if (shape.stored) return *shape.stored;
  return config.stored_dtype.empty() ? at::kFloat : scalar_type_from_string(config.stored_dtype);
}

// The numbers of the formulas below, all of one micro-batch.
class Estimate {
 public:
  Estimate(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape)
      : c_(config),
        options_(options),
        shape_(shape),
        sizes_(config, options.lora),
        full_(!options.lora),
        checkpoints_(options.train.activation_checkpointing == ActivationCheckpointing::kFull),
        e_(bytes_of(held_type(config, options, shape))),
        w_(std::max<int64_t>(e_, 4)),
        N_(shape.rows * shape.length),
        Q_(config.num_attention_heads * config.head_dim),
        KV_(config.num_key_value_heads * config.head_dim) {}

  MemoryEstimate run(int64_t process) const;
  // What is trained is float32 or wider, beside narrower weights too.
  int64_t trained() const { return sizes_.trained() * w_; }
  int64_t moments() const;

 private:
  int64_t modules(int64_t layer, const std::string& parent, const std::vector<std::string>& names, int64_t in,
                  const std::vector<int64_t>& outs, bool& gradient) const;
  int64_t mixer(int64_t layer) const;
  int64_t layer(int64_t layer, bool& gradient) const;
  int64_t activations(int64_t& last_layer) const;
  int64_t loss() const;
  int64_t backward_of_a_layer() const;

  const ModelConfig& c_;
  const FinetuneOptions& options_;
  const UpdateShape& shape_;
  ParameterSizes sizes_;
  bool full_, checkpoints_;
  int64_t e_, w_;  // bytes of a number as it is held, and as it is multiplied and summed
  int64_t N_, Q_, KV_;
};

// Linear modules that read one input of `in` numbers a token. The gradient of a weight needs the input; that of an
// adapter too, once for all of them. With dropout each adapter has an input of its own, and where the input has a
// gradient the mask; LibTorch's operators also keep x A^T then, and with DoRA what the norms are multiplied with.
// `gradient`: whether the input has one, and afterwards whether the outputs have.
int64_t Estimate::modules(int64_t layer, const std::string& parent, const std::vector<std::string>& names, int64_t in,
                          const std::vector<int64_t>& outs, bool& gradient) const {
  bool keeps_input = full_, any = full_;
  int64_t numbers = 0;
  for (size_t i = 0; i < names.size() && !full_; ++i) {
    const auto module = sizes_.adapted().find(cat(c_.family->layers(), layer, ".", parent, ".", names[i]));
    if (module == sizes_.adapted().end()) continue;
    any = true;
    const bool drops = options_.lora->dropout > 0;
    if (drops)
      numbers += gradient ? 2 * in : in;
    else
      keeps_input = true;
    if (drops || options_.lora->dora) numbers += module->second.r;
    if (options_.lora->dora) numbers += outs[i];
  }
  gradient = gradient || any;
  return N_ * e_ * (numbers + (keeps_input ? in : 0));
}

// A Liger layer keeps q, k and v, states now and then and a number a query; softmax attention its rotated q and k, v,
// what comes out and a number a query.
int64_t Estimate::mixer(int64_t layer) const {
  const int64_t heads = c_.num_attention_heads, kv_heads = c_.num_key_value_heads;
  if (c_.is_softmax_layer(layer)) return N_ * (e_ * (2 * Q_ + 2 * KV_) + w_ * heads);
  const std::vector<int64_t> lengths(shape_.rows, shape_.length);
  return N_ * e_ * (Q_ + 2 * KV_) + w_ * fused_mix_kept(mix_settings(c_, layer), heads, kv_heads, c_.head_dim, lengths);
}

// What a layer keeps: each norm its input (a layer of some families has more of them), and gate and up, which the
// activation needs; without gradient nothing.
int64_t Estimate::layer(int64_t layer, bool& gradient) const {
  const int64_t D = c_.hidden_size, I = c_.intermediate_size;
  const bool norms_input = gradient || full_;
  int64_t bytes = norms_input ? N_ * D * e_ : 0;
  bool branch = norms_input;
  const Family& family = *c_.family;
  const std::vector<int64_t> projected =
      family.fused_attention() ? std::vector<int64_t>{Q_ + 2 * KV_} : std::vector<int64_t>{Q_, KV_, KV_};
  bytes += modules(layer, family.attention, family.attention_inputs, D, projected, branch);
  if (branch && family.query_key_norms) bytes += N_ * (Q_ + KV_) * e_;
  if (branch) bytes += mixer(layer);
  const int64_t mixed = modules(layer, family.attention, {family.attention_output}, Q_, {D}, branch);
  const bool kept_already = c_.is_softmax_layer(layer) && mixed == N_ * Q_ * e_;  // what came out is what o_proj reads
  if (!kept_already) bytes += mixed;
  const int64_t normed = family.output_norms ? N_ * D * e_ : 0;  // what a norm of an output keeps
  if (branch) bytes += normed;
  gradient = gradient || branch;
  if (gradient) bytes += N_ * D * e_;
  branch = gradient;
  bytes += modules(layer, "mlp", family.mlp_inputs, D, {I, I}, branch);
  if (branch) bytes += std::ssize(family.mlp_inputs) * N_ * I * e_;
  bytes += modules(layer, "mlp", {family.mlp_output}, I, {D}, branch);
  if (branch) bytes += normed;
  gradient = gradient || branch;
  return bytes;
}

// After the forward pass: of each layer what it keeps, or with checkpointing what it read; the final norm's input and
// output, and the angles. `last_layer`: what the last layer keeps and has yet to make again.
int64_t Estimate::activations(int64_t& last_layer) const {
  const int64_t row = N_ * c_.hidden_size * e_;
  int64_t bytes = 0, of_layer = 0;
  bool gradient = full_;
  for (int64_t i = 0; i < c_.num_hidden_layers; ++i) {
    of_layer = layer(i, gradient);
    bytes += !checkpoints_ ? of_layer : gradient ? row : 0;
  }
  last_layer = checkpoints_ ? of_layer : 0;
  return bytes + 2 * row + N_ * c_.head_dim * static_cast<int64_t>(sizeof(float));
}

// The gradients of the hidden states and, if it is trained, of the head, which are there before the backward pass; and
// logits.
int64_t Estimate::loss() const {
  const int64_t head = full_ ? c_.vocab_size * c_.hidden_size * w_ : 0;
  const at::ScalarType type = held_type(c_, options_, shape_);
  const int64_t given = N_ * c_.hidden_size * e_ + head;
  if (options_.distill)  // and what the teacher says
    return given + N_ * c_.hidden_size * e_ +
           linear_distillation_bytes(N_, c_.hidden_size, c_.vocab_size, type, options_.distill->divergence);
  return given + linear_cross_entropy_bytes(N_, c_.hidden_size, c_.vocab_size, type, full_);
}

// The first layer it meets has everything else waiting. Three times the width of the MLP: gradients of the activation,
// of gate and of up; where they are multiplied as another type, one of them as that type too. Beside them the gradient
// of the residual stream, and of the branch.
int64_t Estimate::backward_of_a_layer() const {
  const int64_t D = c_.hidden_size, I = c_.intermediate_size;
  const int64_t head = full_ ? c_.vocab_size * D * w_ : 0;
  const int64_t mlp = e_ == w_ ? 3 * I * e_ : I * (w_ + 2 * e_) + D * w_;
  return head + N_ * (mlp + 2 * D * e_);
}

int64_t Estimate::moments() const {
  const bool eight_bit = options_.train.optimizer == OptimizerKind::kAdamW8bit;
  int64_t bytes = 0;
  for (const int64_t numbers : sizes_.trained_tensors()) bytes += AdamW::moment_bytes(numbers, w_, eight_bit);
  return bytes;
}

MemoryEstimate Estimate::run(int64_t process) const {
  MemoryEstimate m;
  m.process = process;
  // With LoRA a teacher's weights are the model's.
  m.weights = sizes_.model() * e_ * (full_ && options_.distill ? 2 : 1);
  m.adapters = sizes_.adapters() * w_;
  m.gradients = trained();
  m.moments = moments();
  int64_t last_layer = 0;
  m.activations = activations(last_layer);
  const int64_t always = process + m.weights + m.adapters + m.moments;
  const int64_t earlier = shape_.micro_batches > 1 ? m.gradients : 0;  // of the micro-batches before
  // A tied embedding has two gradients, which are added at the end.
  const int64_t second = full_ && c_.tie_word_embeddings ? c_.vocab_size * c_.hidden_size * e_ : 0;
  // Mapped weights are used in place; others lie beside what they are turned into until all are.
  const int64_t stored = shape_.stored ? sizes_.model() * bytes_of(*shape_.stored) : 0;
  const int64_t converted = stored != sizes_.model() * e_ ? stored : 0;

  const auto moment = [&](const char* name, int64_t bytes, int64_t temporaries) {
    m.temporaries = std::max(m.temporaries, temporaries);
    if (bytes + temporaries <= m.peak) return;
    m.peak = bytes + temporaries;
    m.peak_at = name;
  };
  moment("loading", process + m.weights, converted);
  moment("the loss", always + earlier + m.activations, loss());
  moment("the beginning of the backward pass", always + earlier + m.activations, last_layer + backward_of_a_layer());
  moment("the end of the backward pass", always + m.gradients, second);
  moment("writing the result", always + m.gradients, full_ ? converted : 0);
  return m;
}

}  // namespace

std::string not_estimated(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape) {
  if (options.model.device != "cpu") return cat("not foretold on ", options.model.device);
  if (config.backend == Backend::kTorch && config.liger) return "not foretold with model.backend torch";
  if (config.liger && !config.liger->is_compiled()) return "not foretold for layers that have no compiled code";
  if (config.attention_softcap > 0 || config.logit_softcap > 0) return "not foretold with softcaps";
  if (config.recursive && !options.lora) return "not foretold for a recursive model that is trained whole";
  if (options.exits) return "not foretold with exits";
  if (options.distill && options.distill->teacher) return "not foretold with a teacher of its own";
  if (held_type(config, options, shape) == at::kHalf) return "not foretold for float16 on the CPU";
  return "";
}

MemoryEstimate estimate_memory(const ModelConfig& config, const FinetuneOptions& options, const UpdateShape& shape,
                               int64_t process) {
  return Estimate(config, options, shape).run(process);
}

int64_t checkpoint_bytes(const ModelConfig& config, const FinetuneOptions& options) {
  const UpdateShape shape;
  const Estimate estimate(config, options, shape);
  return estimate.trained() + estimate.moments();
}

}  // namespace liger
