#include "nn/step_weights.h"

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <cmath>

#include "liger/models/family.h"
#include "liger/ops/ops.h"
#include "nn/decoder.h"

namespace liger {
namespace {

at::Tensor as_float(const at::Tensor& x) { return x.defined() ? x.detach().to(at::kFloat).contiguous() : x; }

WeightView view_of(const at::Tensor& weight, const at::Tensor& bias) {
  return {.element = weight.scalar_type() == at::kBFloat16 ? Element::kBFloat16 : Element::kFloat,
          .data = weight.const_data_ptr(),
          .rows = weight.size(0),
          .columns = weight.size(1),
          .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr};
}

}  // namespace

StepLinear::StepLinear(const at::Tensor& matrix) : weight(matrix.detach().contiguous()) { view = view_of(weight, {}); }

StepLinear::StepLinear(const Linear& linear)
    : weight(linear.weight.detach().contiguous()), bias(as_float(linear.bias)) {
  if (linear.has_dora()) {  // scales whole rows, which the kernels do not: one weight in float32 takes the place of all
    weight = as_float(
        merged_rows(weight, 0, linear.lora_a(), linear.lora_b(), linear.lora_scale(), linear.lora_magnitude()));
  } else {
    lora_a = as_float(linear.lora_a());
    if (linear.has_lora()) lora_b = as_float(linear.lora_b().t());
    lora_scale = static_cast<float>(linear.lora_scale());
  }
  view = view_of(weight, bias);
}

StepWeights::StepWeights(const CausalLM& model)
    : head(model.head_weight()),
      D(model.config().head_dim),
      norm_eps(static_cast<float>(model.config().norm_eps)),
      query_factor(static_cast<float>(model.config().query_factor())),
      norm_adds_one(model.config().family->norm_adds_one) {
  const ModelConfig& config = model.config();
  const auto gain = [](const Norm* norm) { return norm ? as_float(norm->weight) : at::Tensor(); };
  embedding = StepLinear(model.decoder().embedding());
  norm = as_float(model.named_parameters()["model.norm.weight"]);
  for (const auto& layer : model.decoder().layers()) {
    const auto& attention = layer->attention().inputs();
    const auto& mlp = layer->mlp().inputs();
    layers.push_back({.input_norm = as_float(layer->input_norm().weight),
                      .mlp_norm = as_float(layer->mlp_norm().weight),
                      .attention_output_norm = gain(layer->attention_output_norm()),
                      .mlp_output_norm = gain(layer->mlp_output_norm()),
                      .query_norm = gain(layer->attention().query_norm()),
                      .key_norm = gain(layer->attention().key_norm()),
                      .q = StepLinear(*attention[0]),
                      .k = StepLinear(*attention[1]),
                      .v = StepLinear(*attention[2]),
                      .o = StepLinear(layer->attention().output_projection()),
                      .gate = StepLinear(*mlp[0]),
                      .up = StepLinear(*mlp[1]),
                      .down = StepLinear(layer->mlp().output())});
    const StepLayer& made = layers.back();
    for (const StepLinear* map : {&made.q, &made.k, &made.v, &made.o, &made.gate, &made.up, &made.down})
      largest_rank = std::max(largest_rank, map->rank());
  }
  const auto add_rope = [&](const RopeConfig& rope) {
    const at::Tensor turns = rope_frequencies(rope, config.head_dim, at::kCPU);
    frequencies.emplace_back(turns.const_data_ptr<float>(), turns.const_data_ptr<float>() + turns.numel());
  };
  add_rope(config.rope);
  if (config.local_rope) add_rope(*config.local_rope);
  if (config.family->scales_embeddings)  // rounded to the weights' dtype first, as in Embedding
    embedding_scale =
        at::scalar_tensor(std::sqrt(static_cast<double>(config.hidden_size)), at::TensorOptions(model.dtype()))
            .item<float>();
}

void StepWeights::finish_heads(const at::Tensor& weight, float factor, int64_t heads, float* x) const {
  for (int64_t h = 0; weight.defined() && h < heads; ++h)
    cpu_kernels().step.rms_norm(x + h * D, weight.const_data_ptr<float>(), D, norm_eps, norm_adds_one, x + h * D);
  for (int64_t i = 0; factor != 1 && i < heads * D; ++i) x[i] *= factor;
}

}  // namespace liger
