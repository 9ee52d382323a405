#include <algorithm>
#include <cmath>

#include "core/names.h"
#include "liger/core/model_config.h"
#include "liger/error.h"
#include "liger/io/settings.h"
#include "liger/models/structure.h"

namespace liger {
namespace {

constexpr Name<FeatureMap> kFeatureNames[] = {{FeatureMap::kIdentity, "identity"},
                                              {FeatureMap::kSoftmax, "softmax"},
                                              {FeatureMap::kSoftmaxPair, "softmax-pair"},
                                              {FeatureMap::kExpPair, "exp-pair"}};
constexpr Name<Normalizer> kNormalizerNames[] = {
    {Normalizer::kNone, "none"}, {Normalizer::kOwn, "own"}, {Normalizer::kShared, "shared"}};
constexpr Name<GateSource> kGateNames[] = {{GateSource::kKey, "key"},
                                           {GateSource::kQuery, "query"},
                                           {GateSource::kValue, "value"},
                                           {GateSource::kRandom, "random"}};
constexpr Name<bool> kStateNames[] = {{false, "all"}, {true, "beyond-window"}};

// [layers][heads], as the object "heads" has them under a scalar's name.
std::vector<std::vector<double>> numbers_of_layers(const Json& rows, const std::string& where) {
  LIGER_CHECK(rows.is_array(), where, ": expected a list of a layer's numbers each, got ", rows.type_name());
  std::vector<std::vector<double>> out;
  for (const Json& row : rows) {
    LIGER_CHECK(row.is_array(), where, ": layer ", out.size(), ": expected a list, got ", row.type_name());
    out.emplace_back();
    for (const Json& number : row) {
      LIGER_CHECK(number.is_number() && std::isfinite(number.get<double>()), where, ": layer ", out.size() - 1,
                  ": expected numbers, got ", number.dump());
      out.back().push_back(number.get<double>());
    }
  }
  return out;
}

void read_heads(const Json& object, const std::string& source, LigerConfig& config) {
  LIGER_CHECK(object.is_object(), source, ": heads: expected an object, got ", object.type_name());
  std::string known;
  for (int64_t i = 0; i < kHeadScalars; ++i) {
    const auto scalar = static_cast<HeadScalar>(i);
    if (scalar == kWindowWeight && config.shares_normalizer()) continue;
    const char* name = head_scalar_name(scalar, config.shares_normalizer());
    known += cat(known.empty() ? "" : ", ", name);
    if (object.contains(name)) config.heads[scalar] = numbers_of_layers(object[name], cat(source, ": heads: ", name));
  }
  LIGER_CHECK(object.size() == config.heads.size(), source, ": heads: expected of ", known, ", got ",
              object.dump(-1, ' ', true).substr(0, 80));
}

std::vector<FeatureMap> features_of_layers(const Json& names, const std::string& source) {
  std::vector<FeatureMap> out;
  for (const Json& name : names) {
    LIGER_CHECK(name.is_string(), source, ": features: expected a name for each layer, got ",
                name.dump(-1, ' ', true).substr(0, 80));
    with_context(source, [&] { out.push_back(feature_map_from_name(name.get<std::string>())); });
  }
  LIGER_CHECK(!out.empty(), source, ": features: expected a name, or one for each layer, got []");
  return out;
}

}  // namespace

LigerConfig liger_config_from_json(const Json& object, const std::string& source, const LigerConfig& defaults) {
  LIGER_CHECK(object.is_object(), source, ": expected an object, got ", object.type_name());
  LigerConfig c = defaults;
  bool says_divisor = false;
  try {
    Json plain = object;
    plain.erase("heads");
    const bool by_layer = object.contains("features") && object["features"].is_array();
    if (by_layer) plain.erase("features");
    const Settings settings = Settings::from_json(plain, source);
    settings.get("recurrence", c.recurrence);
    settings.get("window", c.window);
    settings.get("sinks", c.sinks);
    settings.get("mix", c.mix);
    settings.get("gate_divisor", c.gate_divisor);
    settings.get("softmax_layers", c.softmax_layers);
    says_divisor = settings.has("gate_divisor");
    std::optional<std::string> features, normalizer, state, gate;
    settings.get("features", features);
    settings.get("normalizer", normalizer);
    settings.get("state", state);
    settings.get("gate", gate);
    settings.get("rope_features", c.rope_features);
    settings.get("learned_features", c.learned_features);
    settings.reject_unknown();
    const auto named = [&](const std::optional<std::string>& name, const auto& read) {
      if (name) with_context(source, [&] { read(*name); });
    };
    named(features, [&](const std::string& name) { c.features = feature_map_from_name(name); });
    if (by_layer) c.layer_features = features_of_layers(object["features"], source);
    named(normalizer, [&](const std::string& name) { c.normalizer = normalizer_from_name(name); });
    named(state, [&](const std::string& name) { c.beyond_window = beyond_window_from_name(name); });
    named(gate, [&](const std::string& name) { c.gate = gate_source_from_name(name); });
    if (object.contains("heads")) read_heads(object["heads"], source, c);
  } catch (const Error& e) {  // Settings takes what it reads for the user's, this is a model's
    throw Error(e.what(), ErrorCode::kBadInput);
  }
  std::sort(c.softmax_layers.begin(), c.softmax_layers.end());
  validate(c, source, ErrorCode::kBadInput);
  const Structure& structure = *find_structure(c.recurrence);
  LIGER_CHECK(!says_divisor || structure.uses_divisor, source, ": gate_divisor: ", structure.name, " has none, as ",
              structure.forgets);
  return c;
}

OrderedJson to_json(const LigerConfig& c) {
  const Structure* structure = find_structure(c.recurrence);
  OrderedJson out = {{"recurrence", c.recurrence}, {"window", c.window}, {"sinks", c.sinks}};
  if (c.has_mix()) out["mix"] = c.mix;
  if (structure == nullptr || structure->uses_divisor) out["gate_divisor"] = c.gate_divisor;
  if (!c.softmax_layers.empty()) out["softmax_layers"] = c.softmax_layers;
  if (c.features) out["features"] = name_of(kFeatureNames, *c.features);
  for (const FeatureMap map : c.layer_features) out["features"].push_back(name_of(kFeatureNames, map));
  if (c.rope_features) out["rope_features"] = true;
  if (c.normalizer) out["normalizer"] = name_of(kNormalizerNames, *c.normalizer);
  if (c.beyond_window) out["state"] = name_of(kStateNames, true);
  if (c.gate != GateSource::kKey) out["gate"] = name_of(kGateNames, c.gate);
  if (c.learned_features) out["learned_features"] = true;
  for (const auto& [scalar, numbers] : c.heads) out["heads"][head_scalar_name(scalar, c.shares_normalizer())] = numbers;
  return out;
}

FeatureMap feature_map_from_name(const std::string& name) { return value_of(kFeatureNames, name, "features"); }
Normalizer normalizer_from_name(const std::string& name) { return value_of(kNormalizerNames, name, "normalizer"); }
bool beyond_window_from_name(const std::string& name) { return value_of(kStateNames, name, "state"); }
GateSource gate_source_from_name(const std::string& name) { return value_of(kGateNames, name, "gate"); }

void validate(const LigerConfig& c, const std::string& source, ErrorCode code) {
  constexpr int64_t kMaxKeys = int64_t{1} << 24;
  const auto require = [&](bool holds, const char* key, const auto&... parts) {
    if (!holds) fail(code, source, ": ", key, ": ", parts...);
  };
  const Structure* structure = find_structure(c.recurrence);
  if (structure == nullptr) fail(code, source, ": recurrence: ", unknown_structure(c.recurrence));
  require(c.window >= 0 && c.window <= kMaxKeys, "window", "expected from 0 to ", kMaxKeys, " keys, got ", c.window);
  require(c.window > 0 || c.recurrence != kWindowOnly, "window", "expected 1 or more keys, as ", kWindowOnly,
          " has nothing but the window, got 0");
  require(c.sinks >= 0 && c.sinks <= kMaxKeys, "sinks", "expected from 0 to ", kMaxKeys, " keys, got ", c.sinks);
  require(c.sinks == 0 || c.window > 0, "sinks",
          "expected 0, as the softmax branch that would see them is absent with window 0, got ", c.sinks);
  require(c.mix >= 0 && c.mix <= 1, "mix", "expected a share from 0 to 1, got ", c.mix);
  require(c.gate_divisor > 0 && std::isfinite(c.gate_divisor), "gate_divisor", "expected a positive number, got ",
          c.gate_divisor);
  require(structure->uses_divisor || c.gate_divisor == LigerConfig{}.gate_divisor, "gate_divisor", c.recurrence,
          " has none, as ", structure->forgets);
  require(!c.features || c.layer_features.empty(), "features", "expected those of all layers or of each, got both");
  std::vector<std::optional<FeatureMap>> features;
  for (size_t i = 0; i < c.layer_features.size(); ++i)
    if (!c.is_softmax_layer(static_cast<int64_t>(i))) features.push_back(c.layer_features[i]);
  if (c.layer_features.empty()) features.push_back(c.features);
  for (const std::optional<FeatureMap>& map : features) {
    const std::string reason = refuses_choices(*structure, map, c.normalizer);
    require(reason.empty(), map ? "features" : "normalizer", reason);
  }
  require(!c.shares_normalizer() || c.window > 0, "normalizer", "'shared' is shared with the window, which is 0");
  const bool window_only = c.recurrence == kWindowOnly;
  require(!c.rope_features || !window_only, "rope_features", kWindowOnly, " has no features");
  require(!c.beyond_window || (c.window > 0 && !window_only), "state",
          "expected 'all', as 'beyond-window' needs a window and a recurrence");
  require(c.heads.empty() || !window_only, "heads", kWindowOnly, " has no numbers of heads");
  require(c.gate == GateSource::kKey || structure->gated(), "gate", c.recurrence, " has none that a token decides");
  require(c.gate == GateSource::kKey || !c.beyond_window || c.rope_features, "gate",
          "state 'beyond-window' remembers the gate where it would remember keys before RoPE; turn rope_features on");
  require(!c.learned_features || !window_only, "learned_features", kWindowOnly, " has no features");
  std::vector<int64_t> layers = c.softmax_layers;
  std::sort(layers.begin(), layers.end());
  const auto twice = std::adjacent_find(layers.begin(), layers.end());
  if (twice != layers.end()) fail(code, source, ": softmax_layers: expected each layer once, got ", *twice, " twice");
}

void validate(const LigerConfig& c, const ModelConfig& model, const std::string& source, ErrorCode code) {
  validate(c, source, code);
  const auto require = [&](bool holds, const char* key, const auto&... parts) {
    if (!holds) fail(code, source, ": ", key, ": ", parts...);
  };
  const int64_t layers = model.num_hidden_layers;
  for (const int64_t layer : c.softmax_layers) {
    require(layer >= 0 && layer < layers, "softmax_layers", "expected layers from 0 to ", layers - 1, ", got ", layer);
  }
  require(std::ssize(c.softmax_layers) < layers, "softmax_layers", "all ", layers,
          " layers would stay softmax attention, with none to linearize; that is --arch softmax");
  require(c.layer_features.empty() || std::ssize(c.layer_features) == layers, "features",
          "expected a name for each of ", layers, " layers, got ", c.layer_features.size());
  const std::string reason = unsupported_reason(c.recurrence, model);
  require(reason.empty(), "recurrence", reason);
  for (const auto& [scalar, rows] : c.heads) {
    const char* name = head_scalar_name(scalar, c.shares_normalizer());
    const int64_t heads = is_of_kv_head(scalar) ? model.num_key_value_heads : model.num_attention_heads;
    require(std::ssize(rows) == layers, "heads", name, ": expected a list for each of ", layers, " layers, got ",
            rows.size());
    for (int64_t layer = 0; layer < layers; ++layer) {
      const int64_t expected = c.is_softmax_layer(layer) ? 0 : heads;
      require(std::ssize(rows[layer]) == expected, "heads", name, ": layer ", layer, ": expected ", expected,
              " numbers, got ", rows[layer].size());
    }
  }
}

}  // namespace liger
