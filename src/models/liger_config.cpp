#include <algorithm>
#include <cmath>

#include "liger/core/model_config.h"
#include "liger/error.h"
#include "liger/io/settings.h"
#include "liger/models/structure.h"

namespace liger {
LigerConfig liger_config_from_json(const Json& object, const std::string& source, const LigerConfig& defaults) {
  LIGER_CHECK(object.is_object(), source, ": expected an object, got ", object.type_name());
  LigerConfig c = defaults;
  bool says_divisor = false;
  try {
    const Settings settings = Settings::from_json(object, source);
    settings.get("recurrence", c.recurrence);
    settings.get("window", c.window);
    settings.get("sinks", c.sinks);
    settings.get("mix", c.mix);
    settings.get("gate_divisor", c.gate_divisor);
    settings.get("softmax_layers", c.softmax_layers);
    says_divisor = settings.has("gate_divisor");
    settings.reject_unknown();
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
  return out;
}

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
  const std::string reason = unsupported_reason(c.recurrence, model);
  require(reason.empty(), "recurrence", reason);
}

}  // namespace liger
