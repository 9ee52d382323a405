#include "models/attention_keys.h"

#include <algorithm>

#include "liger/models/family.h"

namespace liger {
namespace {

constexpr const char *kSliding = "sliding_attention", *kFull = "full_attention";
constexpr int64_t kMaxWindow = int64_t{1} << 40;

// One RoPE's "rope_scaling" or "rope_parameters".
RopeConfig read_scaling(const ConfigReader& reader, RopeConfig rope) {
  // "rope_type" in new files, "type" in old ones.
  const std::string type = reader.has("rope_type") ? reader.text("rope_type") : reader.text_or("type", "default");
  if (type == "default") return rope;
  if (type == "linear") {
    rope.type = RopeConfig::Type::kLinear;
    rope.factor = reader.positive("factor");
  } else if (type == "llama3") {
    rope.type = RopeConfig::Type::kLlama3;
    rope.factor = reader.positive("factor");
    rope.low_freq_factor = reader.positive("low_freq_factor");
    rope.high_freq_factor = reader.positive("high_freq_factor");
    rope.original_max_position_embeddings = reader.integer("original_max_position_embeddings", 1, int64_t{1} << 40);
    if (rope.high_freq_factor <= rope.low_freq_factor) reader.bad("high_freq_factor", "more than low_freq_factor");
  } else {
    fail(ErrorCode::kBadInput, reader.source(), ": rope type '", type,
         "' is not supported (default, linear and llama3 are)");
  }
  return rope;
}

RopeConfig read_parameters(const ConfigReader& reader, RopeConfig rope) {
  rope.theta = reader.positive_or("rope_theta", rope.theta);
  return read_scaling(reader, rope);
}

ConfigReader inner(const ConfigReader& config, const char* key) {
  return ConfigReader(config.at(key), config.source() + ": '" + key + "'");
}

void read_rope(const ConfigReader& config, ModelConfig& c) {
  c.rope.theta = config.positive_or("rope_theta", config.positive_or("rotary_emb_base", c.family->rope_theta));
  if (config.has("rope_scaling")) c.rope = read_parameters(inner(config, "rope_scaling"), c.rope);  // v4
  const bool local = c.family->local_rope_theta != 0;
  if (local) c.local_rope = RopeConfig{.theta = config.positive_or("rope_local_base_freq", c.family->local_rope_theta)};
  if (!config.has("rope_parameters")) return;
  const ConfigReader parameters = inner(config, "rope_parameters");  // v5
  const bool by_type = parameters.has(kFull) || parameters.has(kSliding),
             plain = parameters.has("rope_type") || parameters.has("rope_theta");
  if (by_type != local && (by_type || plain))
    config.bad("rope_parameters", local
                                      ? cat("an object for ", kFull, " and one for ", kSliding)
                                      : cat("one RoPE for all layers, as model_type '", c.family->model_type, "' has"));
  if (!by_type) {
    c.rope = read_parameters(parameters, c.rope);
    return;
  }
  if (parameters.has(kFull)) c.rope = read_parameters(inner(parameters, kFull), c.rope);
  if (parameters.has(kSliding)) c.local_rope = read_parameters(inner(parameters, kSliding), *c.local_rope);
}

// A number that is null for "none", and has a default where nothing is said.
double read_cap(const ConfigReader& config, const char* key, double by_default) {
  return config.is_null(key) ? 0 : config.positive_or(key, by_default);
}

int64_t read_window(const ConfigReader& config, const Family& family) {
  const bool off = family.windows == Windows::kUpper && !config.boolean_or("use_sliding_window", false);
  if (off || config.is_null("sliding_window")) return 0;
  return config.integer_or("sliding_window", family.sliding_window, 1, kMaxWindow);
}

// Of the stored layers, where config.json names each.
std::vector<bool> read_layer_types(const ConfigReader& config, int64_t layers) {
  const Json& types = config.at("layer_types");
  if (!types.is_array() || std::ssize(types) != layers)
    config.bad("layer_types", cat("a name for each of ", layers, " layers"));
  std::vector<bool> out;
  for (const Json& type : types) {
    if (type != kSliding && type != kFull)
      config.bad("layer_types", cat(kFull, " or ", kSliding, " for each layer, not ", type.dump().substr(0, 40)));
    out.push_back(type == kSliding);
  }
  return out;
}

// Of the stored layers, those that see the last keys only.
std::vector<bool> sliding_slots(const ConfigReader& config, const ModelConfig& c) {
  const Family& family = *c.family;
  const int64_t layers = c.stored_layers();
  const bool named = config.has("layer_types");
  std::vector<bool> out;
  if (named && family.windows != Windows::kAll) return read_layer_types(config, layers);
  const int64_t first =
      family.windows == Windows::kUpper ? config.integer_or("max_window_layers", 28, 0, kMaxWindow) : 0;
  const int64_t pattern = family.window_pattern_key
                              ? config.integer_or("sliding_window_pattern", family.window_pattern, 1, kMaxWindow)
                              : family.window_pattern;
  for (int64_t i = 0; i < layers; ++i)
    out.push_back(family.windows == Windows::kAlternating ? (i + 1) % pattern != 0
                                                          : c.sliding_window > 0 && i >= first);
  if (named && read_layer_types(config, layers) != out)
    config.bad("layer_types", cat(out.front() ? kSliding : kFull, " for each layer of model_type '", family.model_type,
                                  "', whose layers are alike, as sliding_window says"));
  return out;
}

void read_windows(const ConfigReader& config, ModelConfig& c) {
  if (c.family->windows == Windows::kNone) return;
  c.sliding_window = read_window(config, *c.family);
  const std::vector<bool> slots = sliding_slots(config, c);
  const bool any = std::find(slots.begin(), slots.end(), true) != slots.end();
  if (any && c.sliding_window == 0)
    config.bad(c.family->windows == Windows::kUpper ? "use_sliding_window" : "sliding_window",
               cat("a window, as there are layers of the type ", kSliding));
  if (!any) c.sliding_window = 0;
  for (int64_t depth = 0; any && depth < c.num_hidden_layers; ++depth)
    c.sliding_layers.push_back(slots[static_cast<size_t>(c.slot(depth))]);
}

OrderedJson rope_json(const RopeConfig& rope) {
  if (rope.type == RopeConfig::Type::kLinear) return {{"rope_type", "linear"}, {"factor", rope.factor}};
  if (rope.type == RopeConfig::Type::kLlama3)
    return {{"rope_type", "llama3"},
            {"factor", rope.factor},
            {"low_freq_factor", rope.low_freq_factor},
            {"high_freq_factor", rope.high_freq_factor},
            {"original_max_position_embeddings", rope.original_max_position_embeddings}};
  return {{"rope_type", "default"}};
}

void write_rope(const ModelConfig& c, OrderedJson& out) {
  OrderedJson parameters = rope_json(c.rope);
  if (c.family->rotary_share != 1) {  // read by its older versions alone
    const double share = c.rotary_dim == 0 ? 1 : static_cast<double>(c.rotary_dim) / static_cast<double>(c.head_dim);
    out["rotary_emb_base"] = c.rope.theta;
    out["rotary_pct"] = parameters["partial_rotary_factor"] = share;
  } else {
    out["rope_theta"] = c.rope.theta;
  }
  out["rope_scaling"] = c.rope.type == RopeConfig::Type::kDefault ? OrderedJson(nullptr) : parameters;
  parameters["rope_theta"] = c.rope.theta;
  if (!c.local_rope) {
    out["rope_parameters"] = parameters;
    return;
  }
  out["rope_local_base_freq"] = c.local_rope->theta;
  OrderedJson local = rope_json(*c.local_rope);
  local["rope_theta"] = c.local_rope->theta;
  out["rope_parameters"] = {{kSliding, local}, {kFull, parameters}};
}

void write_windows(const ModelConfig& c, OrderedJson& out) {
  const Windows windows = c.family->windows;
  if (windows == Windows::kNone) return;
  const bool any = !c.sliding_layers.empty();
  out["sliding_window"] = any ? OrderedJson(c.sliding_window) : OrderedJson(nullptr);
  if (windows == Windows::kAll) return;
  out["layer_types"] = layer_types_json(c);
  if (windows != Windows::kUpper) return;
  int64_t full = 0;
  while (full < c.stored_layers() && out["layer_types"][static_cast<size_t>(full)] == kFull) ++full;
  out["use_sliding_window"] = any;
  out["max_window_layers"] = full;
}

}  // namespace

OrderedJson layer_types_json(const ModelConfig& c) {
  OrderedJson out = OrderedJson::array();
  for (int64_t depth = 0; depth < c.num_hidden_layers; ++depth)
    if (c.slot(depth) == std::ssize(out)) out.push_back(c.is_sliding(depth) ? kSliding : kFull);
  return out;
}

void read_attention(const ConfigReader& config, ModelConfig& c) {
  const Family& family = *c.family;
  if (config.boolean_or("use_bidirectional_attention", false))
    config.bad("use_bidirectional_attention", "false, as these models read from left to right");
  read_rope(config, c);
  read_windows(config, c);
  if (family.query_pre_attn_scalar != 0)
    c.query_pre_attn_scalar = config.positive_or("query_pre_attn_scalar", family.query_pre_attn_scalar);
  if (family.logit_softcap_key) c.logit_softcap = read_cap(config, "final_logit_softcapping", family.logit_softcap);
  if (family.attention_softcap_key)
    c.attention_softcap = read_cap(config, "attn_logit_softcapping", family.attention_softcap);
  else if (family.logit_softcap_key && config.has("attn_logit_softcapping"))
    config.bad("attn_logit_softcapping",
               cat("null, as transformers does not apply it to model_type '", family.model_type, "'"));
}

void write_attention(const ModelConfig& c, OrderedJson& out) {
  write_rope(c, out);
  write_windows(c, out);
  const auto cap = [&](const char* key, double value) {
    out[key] = value == 0 ? OrderedJson(nullptr) : OrderedJson(value);
  };
  if (c.query_pre_attn_scalar != 0) out["query_pre_attn_scalar"] = c.query_pre_attn_scalar;
  if (c.family->attention_softcap_key) cap("attn_logit_softcapping", c.attention_softcap);
  if (c.family->logit_softcap_key) cap("final_logit_softcapping", c.logit_softcap);
}

}  // namespace liger
