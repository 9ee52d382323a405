#include "convert/merge.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "liger/convert/convert.h"
#include "liger/error.h"
#include "liger/io/tokenizer.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/lora.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

at::Tensor probe_logits(const fs::path& model, const fs::path& adapter, const Sequences& tokens) {
  LoadOptions options;
  options.adapter = adapter;
  const at::NoGradGuard no_grad;
  const auto loaded = CausalLM::load(model, options);
  return loaded->logits(loaded->hidden_states(tokens)).to(at::kFloat);
}

}  // namespace

fs::path merged_adapter(const ConvertOptions& options) {
  if (!options.untie || !options.merge.empty()) return options.merge;
  return own_adapter(options.model, ModelConfig::read(options.model));
}

Merge read_merge(const fs::path& adapter, const ModelConfig& model) {
  Merge out;
  if (adapter.empty()) return out;
  const Adapter read = read_adapter(adapter, model);
  if (read.config.mixer) out.liger = model.liger;
  LIGER_CHECK(!out.liger || !out.liger->has_new_parameters(), adapter.string(),
              ": holds parameters of its layers that a "
              "merged model has no place for (a learned gate or learned features); keep it as an adapter");
  for (const auto& [name, saved] : read.saved) {
    if (const auto layer = layer_of_head_numbers(name)) {
      set_head_scalars(*out.liger, model, *layer, saved);
      continue;
    }
    out.rows[name] = [norm = saved.to(at::kFloat).contiguous()](int64_t, std::span<float> row) {
      std::copy_n(norm.const_data_ptr<float>(), row.size(), row.begin());
    };
  }
  for (const LoraTensors& module : read.modules) {
    const at::Tensor a = module.a.to(at::kFloat), b = module.b.to(at::kFloat);
    const at::Tensor magnitude = module.magnitude.defined() ? module.magnitude.to(at::kFloat) : at::Tensor();
    out.rows[module.module.path + ".weight"] = [=, scale = module.module.scale](int64_t first, std::span<float> rows) {
      const int64_t columns = a.size(1);
      const at::Tensor weight = at::from_blob(rows.data(), {std::ssize(rows) / columns, columns}, at::kFloat);
      weight.copy_(merged_rows(weight, first, a, b, scale, magnitude));
    };
  }
  return out;
}

MergeProbe probe_merge(const fs::path& model, const fs::path& adapter, const fs::path& merged,
                       const std::string& text) {
  constexpr size_t kMostTokens = 512;
  std::vector<int64_t> ids = encode_whole(*Tokenizer::load(model), text);
  LIGER_CHECK_USAGE(!ids.empty(), "--probe: the text has no token");
  ids.resize(std::min(ids.size(), kMostTokens));
  const Sequences tokens({ids});
  const at::Tensor before = probe_logits(model, adapter, tokens), after = probe_logits(merged, {}, tokens);
  MergeProbe probe;
  probe.tokens = std::ssize(ids);
  probe.largest_change = (after - before).abs().max().item<double>();
  probe.largest_logit = before.abs().max().item<double>();
  probe.same_choice = before.argmax(-1).eq(after.argmax(-1)).sum().item<int64_t>();
  return probe;
}

}  // namespace liger
