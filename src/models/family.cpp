#include "liger/models/family.h"

#include <algorithm>
#include <cctype>

#include "liger/error.h"
#include "models/families.h"

namespace liger {

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&kLlama, &kMistral, &kQwen2,  &kQwen3,
                                                 &kGemma, &kGemma2,  &kGemma3, &kGptNeoX};
  return all;
}

std::vector<std::string> Family::more_norms() const {
  std::vector<std::string> out;
  if (output_norms) out = {"post_feedforward_layernorm", "pre_feedforward_layernorm"};
  if (query_key_norms) out.insert(out.end(), {"k_norm", "q_norm"});
  std::sort(out.begin(), out.end());
  return out;
}

const Family* find_family(const std::string& model_type) {
  for (const Family* family : families())
    if (model_type == family->model_type) return family;
  return nullptr;
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& c) {
  const Family& family = *c.family;
  const int64_t D = c.hidden_size, I = c.intermediate_size;
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<ExpectedTensor> out = {{family.embedding_weight(), {c.vocab_size, D}}};
  const auto norm = [&](const std::string& name) {
    out.push_back({name + ".weight", {D}});
    if (family.layer_norm) out.push_back({name + ".bias", {D}});
  };
  for (int64_t i = 0; i < c.stored_layers(); ++i) {
    const std::string layer = cat(family.layers(), i, "."), attention = cat(layer, family.attention, ".");
    const auto linear = [&](const std::string& name, int64_t rows, int64_t columns, bool bias) {
      out.push_back({name + ".weight", {rows, columns}});
      if (bias) out.push_back({name + ".bias", {rows}});
    };
    const int64_t rows[] = {q, kv, kv};
    for (size_t j = 0; j < family.attention_inputs.size(); ++j)
      linear(attention + family.attention_inputs[j], family.fused_attention() ? q + 2 * kv : rows[j], D,
             c.attention_bias);
    linear(attention + family.attention_output, D, q, c.output_bias());
    if (family.query_key_norms)
      for (const char* name : {"q_norm.weight", "k_norm.weight"}) out.push_back({attention + name, {c.head_dim}});
    for (const std::string& name : family.mlp_inputs) linear(layer + "mlp." + name, I, D, c.mlp_bias);
    linear(layer + "mlp." + family.mlp_output, D, I, c.mlp_bias);
    norm(layer + "input_layernorm");
    norm(layer + "post_attention_layernorm");
    if (!family.output_norms) continue;
    norm(layer + "pre_feedforward_layernorm");
    norm(layer + "post_feedforward_layernorm");
  }
  norm(cat(family.model, ".", family.final_norm));
  if (!c.tie_word_embeddings) out.push_back({family.head_weight(), {c.vocab_size, D}});
  return out;
}

std::optional<std::pair<int64_t, std::string>> layer_and_name(const std::string& name) {
  const std::string before = ".layers.";
  const size_t at = name.find(before);
  if (at == std::string::npos) return {};
  size_t end = at + before.size();
  while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
  const size_t digits = end - at - before.size();
  if (digits == 0 || digits > 6 || end == name.size() || name[end] != '.') return {};
  return std::pair(std::stoll(name.substr(at + before.size(), digits)), name.substr(end + 1));
}

bool is_layer_norm(const std::string& name) { return layer_and_name(name) && name.find("norm.") != std::string::npos; }

bool is_layer_bias(const std::string& name) {
  return layer_and_name(name) && name.ends_with(".bias") && !is_layer_norm(name);
}

}  // namespace liger
