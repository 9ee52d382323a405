#include "liger/generate/engine.h"

#include <c10/core/InferenceMode.h>

#include "core/names.h"
#include "generate/engine_run.h"
#include "generate/verdict.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

constexpr Name<Batching> kBatchings[] = {
    {Batching::kStatic, "static"}, {Batching::kSequence, "sequence"}, {Batching::kDepth, "depth"}};

}  // namespace

const char* to_string(Batching batching) { return name_of(kBatchings, batching); }
Batching batching_from_name(const std::string& name) { return value_of(kBatchings, name, "batching"); }

Engine::Engine(CausalLM& model, EngineOptions options) : model_(model), options_(std::move(options)) {
  LIGER_CHECK_USAGE(options_.batch >= 1, "batch: expected 1 or more, got ", options_.batch);
  LIGER_CHECK_USAGE(options_.memory >= 0, "memory: expected bytes, 0 for no limit, got ", options_.memory);
  const ModelConfig& config = model.config();
  if (options_.exit) {
    check_exits(config);
    validate(*options_.exit);
  }
  for (const auto& module : model.named_modules("", /*include_self=*/false)) {
    const auto* linear = module.value()->as<Linear>();
    LIGER_CHECK_USAGE(linear == nullptr || !linear->has_dora(), "engine: ", module.key(),
                      ": expected LoRA, got DoRA; merge the adapter");
  }
  LIGER_CHECK_USAGE(!config.liger || config.liger->is_compiled(),
                    "engine: expected the key's gate and no learned features");
  model.eval();
}

std::vector<Answer> Engine::run(const std::vector<Request>& requests,
                                const std::function<void(size_t, const Answer&)>& on_answer) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const Request& request = requests[i];
    LIGER_CHECK_USAGE(!request.prompt.empty(), "request ", i, ": the prompt has no tokens");
    LIGER_CHECK_USAGE(request.max_tokens >= 1, "request ", i, ": max_tokens must be 1 or more, got ",
                      request.max_tokens);
    const int64_t bytes = text_bytes(request);
    LIGER_CHECK_USAGE(options_.memory == 0 || bytes <= options_.memory, "request ", i, ": may come to ", bytes,
                      " bytes of keys, values and states, and the limit is ", options_.memory);
  }
  const c10::InferenceMode inference;
  stats_ = {};
  return EngineRun(model_, *this, options_, stats_, requests, on_answer).run();
}

int64_t Engine::text_bytes(const Request& request) const {
  const ModelConfig& config = model_.config();
  // The last token is not read. A token that has left waits before one loop at a time.
  int64_t bytes = state_bytes(model_, std::ssize(request.prompt) + request.max_tokens - 1);
  if (options_.exit && options_.backfill == Backfill::kExact)
    bytes += request.max_tokens * config.hidden_size *
             static_cast<int64_t>(std::max(sizeof(float), c10::elementSize(model_.dtype())));
  return bytes;
}

int64_t Engine::state_bytes(const CausalLM& model, int64_t tokens) {
  const ModelConfig& config = model.config();
  const int64_t row = config.num_key_value_heads * config.head_dim;
  int64_t bytes = 0;
  for (int64_t depth = 0; depth < config.num_hidden_layers; ++depth) {
    if (config.is_softmax_layer(depth)) {
      bytes += 2 * tokens * row * static_cast<int64_t>(c10::elementSize(model.dtype()));
      continue;
    }
    const int64_t number = model.dtype() == at::kDouble ? 8 : 4;
    const MixSettings settings = mix_settings(config, depth);
    if (settings.window > 0)
      bytes += (settings.window + settings.sinks) * row * number * (settings.beyond_window ? 3 : 2);
    if (!settings.recurrence.structure) continue;
    for (const StateShape& shape : state_shapes(*settings.recurrence.structure, config.head_dim))
      bytes += config.num_key_value_heads * shape.rows * shape.columns * number;
  }
  return bytes;
}

}  // namespace liger
