#include "liger/models/family.h"

#include "models/families.h"

namespace liger {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&kLlama, &kGemma};
  return all;
}

const Family* find_family(const std::string& model_type) {
  for (const Family* family : families())
    if (model_type == family->model_type) return family;
  return nullptr;
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& c) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<ExpectedTensor> out = {{"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}}};
  for (int64_t i = 0; i < c.stored_layers(); ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    auto linear = [&](const char* name, int64_t rows, int64_t columns, bool bias) {
      out.push_back({layer + name + ".weight", {rows, columns}});
      if (bias) out.push_back({layer + name + ".bias", {rows}});
    };
    linear("self_attn.q_proj", q, c.hidden_size, c.attention_bias);
    linear("self_attn.k_proj", kv, c.hidden_size, c.attention_bias);
    linear("self_attn.v_proj", kv, c.hidden_size, c.attention_bias);
    linear("self_attn.o_proj", c.hidden_size, q, c.attention_bias);
    linear("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    out.push_back({layer + "input_layernorm.weight", {c.hidden_size}});
    out.push_back({layer + "post_attention_layernorm.weight", {c.hidden_size}});
  }
  out.push_back({"model.norm.weight", {c.hidden_size}});
  if (!c.tie_word_embeddings) out.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}});
  return out;
}

bool is_layer_norm(const std::string& name) {
  return name.starts_with("model.layers.") && name.find("layernorm.") != std::string::npos;
}

}  // namespace liger
