#include "nn/step_weights.h"

#include "liger/error.h"
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

StepWeights::StepWeights(const CausalLM& model) : head(model.head_weight()) {
  const auto modules = model.named_modules("", /*include_self=*/false);
  const auto parameters = model.named_parameters();
  const auto linear = [&](const std::string& name) {
    const auto* found = modules[name]->as<Linear>();
    LIGER_CHECK(found != nullptr, "decoding: ", name, " is not a linear module");
    return StepLinear(*found);
  };
  embedding = StepLinear(parameters["model.embed_tokens.weight"]);
  norm = as_float(parameters["model.norm.weight"]);
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i) {
    const std::string layer = cat("model.layers.", i, ".");
    const DecoderLayer& decoder = *model.decoder().layers()[i];
    layers.push_back({.input_norm = as_float(decoder.input_norm().weight),
                      .post_attention_norm = as_float(decoder.post_attention_norm().weight),
                      .q = linear(layer + "self_attn.q_proj"),
                      .k = linear(layer + "self_attn.k_proj"),
                      .v = linear(layer + "self_attn.v_proj"),
                      .o = linear(layer + "self_attn.o_proj"),
                      .gate = linear(layer + "mlp.gate_proj"),
                      .up = linear(layer + "mlp.up_proj"),
                      .down = linear(layer + "mlp.down_proj")});
  }
}

}  // namespace liger
