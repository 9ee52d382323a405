#include <ATen/ops/empty.h>

#include <algorithm>

#include "liger/core/checkpoint.h"
#include "liger/core/structure.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/state.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

constexpr const char* kFormat = "liger-conversation-1";

// Of the configuration and a few bytes of every weight, an adapter's included: cheap, and enough to tell models apart.
std::string fingerprint(const CausalLM& model) {
  std::string text = model.config().to_json().dump();
  for (const auto& item : model.named_parameters()) {
    const at::Tensor flat = item.value().detach().flatten();
    constexpr int64_t kEnd = 16;
    const int64_t count = std::min(kEnd, flat.numel());
    for (const at::Tensor& part : {flat.narrow(0, 0, count), flat.narrow(0, flat.numel() - count, count)}) {
      const at::Tensor bytes = part.to(at::kCPU).contiguous();
      text += item.key();
      text.append(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes());
    }
  }
  return sha256_hex(text);
}

at::Tensor number(int64_t value) {
  at::Tensor out = at::empty({1}, at::kLong);
  return out.fill_(value);
}

// Shapes and types are those this model would have made; `tokens` is what softmax layers must hold.
void check_layer(const LayerState& layer, const CausalLM& model, int64_t index, int64_t tokens,
                 const std::string& file) {
  const ModelConfig& config = model.config();
  const auto fail_at = [&](const char* what) {
    fail(ErrorCode::kBadInput, file, ": layers.", index, ".", what, " does not suit this model; the file is damaged");
  };
  const auto fits = [](const at::Tensor& x, at::ScalarType type, at::IntArrayRef shape) {
    return x.defined() && x.scalar_type() == type && x.sizes() == shape;
  };
  const int64_t Hkv = config.num_key_value_heads, D = config.head_dim;
  const at::ScalarType wide = model.dtype() == at::kDouble ? at::kDouble : at::kFloat;
  if (config.is_softmax_layer(index)) {
    for (const at::Tensor& cache : {layer.keys, layer.values})
      if (!fits(cache, model.dtype(), {1, tokens, Hkv, D})) fail_at("keys");
    return;
  }
  const MixSettings mix = mix_settings(config, index);
  const auto check_ring = [&](const at::Tensor& ring, bool wanted, const char* what) {
    if (wanted ? !fits(ring, wide, {1, Hkv, mix.window + mix.sinks, D}) : ring.defined()) fail_at(what);
  };
  check_ring(layer.keys, mix.window > 0, "keys");
  check_ring(layer.values, mix.window > 0, "values");
  check_ring(layer.raw_keys, mix.beyond_window, "raw_keys");
  const Structure* structure = mix.recurrence.structure;
  const auto shapes = structure ? state_shapes(*structure, D) : std::vector<StateShape>{};
  if (layer.recurrent.size() != shapes.size()) fail_at("recurrent");
  for (size_t i = 0; i < shapes.size(); ++i)
    if (!fits(layer.recurrent[i], wide, {1, Hkv, shapes[i].rows, shapes[i].columns})) fail_at("recurrent");
}

}  // namespace

void save_conversation(const std::filesystem::path& file, const Conversation& conversation, const CausalLM& model) {
  const DecodingState& state = conversation.state;
  LIGER_CHECK(state.seen.size() == 1, "save_conversation: expected one sequence, got ", state.seen.size());
  std::map<std::string, at::Tensor> tensors = {{"seen", number(state.seen[0])}};
  if (conversation.next) tensors["next"] = number(*conversation.next);
  for (size_t i = 0; i < state.layers.size(); ++i) {
    const LayerState& layer = state.layers[i];
    const std::string name = cat("layers.", i, ".");
    for (size_t j = 0; j < layer.recurrent.size(); ++j) tensors[cat(name, "recurrent.", j)] = layer.recurrent[j];
    if (layer.raw_keys.defined()) tensors[name + "raw_keys"] = layer.raw_keys;
    if (!layer.keys.defined()) continue;
    const bool all = model.config().is_softmax_layer(static_cast<int64_t>(i));
    tensors[name + "keys"] = all ? layer.keys.narrow(1, 0, state.seen[0]) : layer.keys;
    tensors[name + "values"] = all ? layer.values.narrow(1, 0, state.seen[0]) : layer.values;
  }
  save_tensors(file, tensors, {{"format", kFormat}, {"model", fingerprint(model)}});
}

Conversation load_conversation(const std::filesystem::path& file, const CausalLM& model) {
  const SafetensorsFile source(file);
  const auto& metadata = source.metadata();
  const std::string where = file.string();
  LIGER_CHECK(metadata.contains("format") && metadata.at("format") == kFormat, where,
              ": not a saved conversation; expected a file written by --state-out");
  LIGER_CHECK(metadata.contains("model") && metadata.at("model") == fingerprint(model), where,
              ": was saved with another model, adapter or dtype; a state is of no use to any but its own");
  std::map<std::string, at::Tensor> tensors;
  for (const TensorInfo& info : source.tensors())
    tensors[info.name] = map_tensor(source, info).clone().to(model.device());
  const auto take = [&](const std::string& name) {
    auto it = tensors.find(name);
    return it == tensors.end() ? at::Tensor() : it->second;
  };
  const auto integer = [&](const std::string& name) {
    const at::Tensor value = take(name);
    LIGER_CHECK(value.defined() && value.scalar_type() == at::kLong && value.numel() == 1 && value.item<int64_t>() >= 0,
                where, ": '", name, "': expected one count");
    return value.item<int64_t>();
  };
  Conversation out;
  out.state.seen = {integer("seen")};
  if (tensors.contains("next")) out.next = integer("next");
  LIGER_CHECK(!out.next || *out.next < model.config().vocab_size, where, ": 'next': token ", *out.next,
              " is not in the vocabulary of ", model.config().vocab_size);
  for (int64_t i = 0; i < model.config().num_hidden_layers; ++i) {
    const std::string name = cat("layers.", i, ".");
    LayerState layer;
    for (int64_t j = 0; tensors.contains(cat(name, "recurrent.", j)); ++j)
      layer.recurrent.push_back(take(cat(name, "recurrent.", j)));
    layer.keys = take(name + "keys");
    layer.values = take(name + "values");
    layer.raw_keys = take(name + "raw_keys");
    check_layer(layer, model, i, out.state.seen[0], where);
    out.state.layers.push_back(layer);
  }
  return out;
}

}  // namespace liger
