#include "liger/convert/tie.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <cmath>

#include "core/names.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/nn/lora.h"

namespace liger {
namespace {

constexpr Name<TieInit> kInits[] = {{TieInit::kStepwise, "stepwise"},
                                    {TieInit::kAverage, "average"},
                                    {TieInit::kLower, "lower"},
                                    {TieInit::kUpper, "upper"},
                                    {TieInit::kRandom, "random"}};
constexpr Name<TieNorms> kNorms[] = {
    {TieNorms::kFolded, "folded"}, {TieNorms::kTied, "tied"}, {TieNorms::kDepth, "depth"}};

// `count` of the numbers first .. last at equal distances, both ends among them; halves go to the even one.
std::vector<int64_t> spread(int64_t first, int64_t last, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) {
    const double at = count == 1 ? 0 : static_cast<double>(i * (last - first)) / static_cast<double>(count - 1);
    out.push_back(first + static_cast<int64_t>(std::nearbyint(at)));
  }
  return out;
}

// "mlp.down_proj" or "down_proj" of "model.layers.3.mlp.down_proj"; never of one layer.
bool is_named(const std::string& linear, const std::string& name) {
  const size_t layer = linear.find("layers.");
  const std::string within = layer == std::string::npos ? linear : linear.substr(linear.find('.', layer + 7) + 1);
  return within == name || within.ends_with("." + name);
}

}  // namespace

const char* to_string(TieInit init) { return name_of(kInits, init); }
const char* to_string(TieNorms norms) { return name_of(kNorms, norms); }
TieInit tie_init_from_name(const std::string& name) { return value_of(kInits, name, "init"); }
TieNorms tie_norms_from_name(const std::string& name) { return value_of(kNorms, name, "norms"); }

namespace {

// Depths of one slot that differ in what layer_types says, if there are any.
std::optional<std::pair<int64_t, int64_t>> unlike(const Recursion& recursion, const std::vector<bool>& sliding) {
  const int64_t L = std::ssize(sliding);
  std::vector<int64_t> first(static_cast<size_t>(L), -1);
  for (int64_t depth = 0; depth < L; ++depth) {
    int64_t& of_slot = first[static_cast<size_t>(recursion.slot(depth, L))];
    if (of_slot < 0) of_slot = depth;
    if (sliding[static_cast<size_t>(of_slot)] != sliding[static_cast<size_t>(depth)]) return std::pair(of_slot, depth);
  }
  return {};
}

// Layers that share weights must see the same of the text, and have the same RoPE.
void check_windows(const ModelConfig& tied, const std::vector<int64_t>& layers) {
  const auto pair = unlike(*tied.recursive, tied.sliding_layers);
  if (!pair) return;
  const int64_t L = tied.num_hidden_layers;
  std::string possible;
  Recursion other = *tied.recursive;
  for (other.loops = 2; other.loops <= L; ++other.loops)
    if (other.refuses(L).empty() && !unlike(other, tied.sliding_layers))
      possible += cat(possible.empty() ? "" : ", ", other.loops);
  const int64_t wide = tied.sliding_layers[static_cast<size_t>(pair->first)] ? pair->second : pair->first;
  const int64_t narrow = wide == pair->first ? pair->second : pair->first;
  fail(ErrorCode::kUsage, "loops: layers ", layers[static_cast<size_t>(narrow)], " and ",
       layers[static_cast<size_t>(wide)], " would share weights, and the one sees the last ", tied.sliding_window,
       " tokens, the other all; expected blocks that their pattern repeats in",
       possible.empty() ? cat(", and with sharing ", to_string(tied.recursive->sharing), " there are none")
                        : cat(": loops ", possible));
}

}  // namespace

std::vector<int64_t> tied_layers(const TieOptions& options, const ModelConfig& model) {
  const int64_t L = model.num_hidden_layers;
  const Recursion& recursion = options.recursion;
  int64_t kept = L;
  LIGER_CHECK_USAGE(!options.drop_layers || recursion.loops <= L, "loops: expected at most ", L,
                    ", the number of layers, got ", recursion.loops);
  if (options.drop_layers && recursion.loops >= 2) {
    const int64_t ends = recursion.keeps_ends() ? 2 : 0;
    kept = ends + (L - ends) / recursion.loops * recursion.loops;
  }
  const std::string reason = recursion.refuses(kept);
  const bool can_drop = !options.drop_layers && recursion.loops >= 2 && L > recursion.loops + 2;
  LIGER_CHECK_USAGE(reason.empty(), reason, can_drop ? ", or --drop-layers to leave some out" : "");
  return spread(0, L - 1, kept);
}

ModelConfig tied_config(const TieOptions& options, const ModelConfig& model) {
  LIGER_CHECK_USAGE(!model.recursive, "this model's layers are tied already; untie them first (--untie)");
  ModelConfig out = model;
  const std::vector<int64_t> layers = tied_layers(options, model);
  out.num_hidden_layers = std::ssize(layers);
  LIGER_CHECK_USAGE(!model.liger || out.num_hidden_layers == model.num_hidden_layers,
                    "--drop-layers: a linearized model has settings of single layers; drop layers of its base model");
  for (const auto& [name, rank] : options.rank_pattern) {
    const auto linears = linear_shapes(model);
    LIGER_CHECK_USAGE(std::any_of(linears.begin(), linears.end(),
                                  [&named = name](const auto& linear) { return is_named(linear.first, named); }),
                      "rank pattern: '", name, "' is no matrix of a layer; expected for example down_proj");
  }
  out.recursive = options.recursion;
  if (!model.sliding_layers.empty()) {
    out.sliding_layers.clear();
    for (const int64_t layer : layers) out.sliding_layers.push_back(model.is_sliding(layer));
    check_windows(out, layers);
  }
  const bool keeps_some = options.norms == TieNorms::kFolded && options.rank > 0 && !model.family->more_norms().empty();
  out.recursive->depth_norms = options.norms == TieNorms::kDepth || keeps_some;
  out.recursive->depth_biases = options.rank > 0 && model.has_biases();
  out.recursive->adapter = options.rank > 0;
  LIGER_CHECK_USAGE(options.norms != TieNorms::kFolded || !model.family->layer_norm || model.attention_bias,
                    "norms: folded has no place for LayerNorm's bias, as this model's attention has none; choose tied "
                    "or depth");
  LIGER_CHECK_USAGE(!out.recursive->depth_norms || options.rank > 0,
                    "norms: depth needs an adapter to hold them; set a rank, or fold them");
  return out;
}

std::vector<std::vector<int64_t>> slot_sources(const TieOptions& options, const std::vector<int64_t>& layers) {
  const int64_t L = std::ssize(layers), ends = options.recursion.keeps_ends() ? 1 : 0;
  const int64_t slots = options.recursion.slots(L), shared = slots - 2 * ends;
  std::vector<std::vector<int64_t>> out(static_cast<size_t>(slots));
  const TieInit init = options.chosen_init();
  const std::vector<int64_t> steps = spread(ends, L - 1 - ends, shared);
  for (int64_t depth = 0; depth < L; ++depth) {
    const auto slot = static_cast<size_t>(options.recursion.slot(depth, L));
    const bool is_end = ends == 1 && (depth == 0 || depth == L - 1);
    if (init == TieInit::kAverage || is_end) out[slot].push_back(layers[static_cast<size_t>(depth)]);
  }
  for (int64_t i = 0; i < shared; ++i) {
    auto& sources = out[static_cast<size_t>(ends + i)];
    const auto take = [&](int64_t depth) { sources = {layers[static_cast<size_t>(depth)]}; };
    if (init == TieInit::kStepwise) take(steps[static_cast<size_t>(i)]);
    if (init == TieInit::kLower) take(ends + i);
    if (init == TieInit::kUpper) take(L - ends - shared + i);
  }
  return out;
}

int64_t adapter_rank(const TieOptions& options, const std::string& linear, const std::vector<int64_t>& shape) {
  // One pair for queries, keys and values has as many numbers as three: with out = in, 1.5 r (in + 3 out) = 3 r (in +
  // out).
  const bool fused = linear.ends_with(".query_key_value");
  int64_t rank = fused ? options.rank + options.rank / 2 : options.rank;
  for (const auto& [name, given] : options.rank_pattern) {
    if (!is_named(linear, name)) continue;
    rank = given;
    break;
  }
  return std::min({rank, shape[0], shape[1]});
}

TiedSizes tied_sizes(const TieOptions& options, const ModelConfig& model) {
  const ModelConfig tied = tied_config(options, model);
  TiedSizes out;
  for (const ExpectedTensor& tensor : expected_tensors(tied)) {
    const int64_t numbers = c10::multiply_integers(tensor.shape);
    out.base += numbers;
    const bool is_embedding =
        tensor.name == model.family->embedding_weight() || tensor.name == model.family->head_weight();
    if (is_embedding) out.embedding += numbers;
  }
  if (options.rank == 0) return out;
  for (const auto& [path, shape] : linear_shapes(tied))
    if (!is_head(path)) out.adapters += adapter_rank(options, path, shape) * (shape[0] + shape[1]);
  if (tied.recursive->depth_norms)
    for (const auto& [name, shape] : norm_shapes(tied)) out.adapters += c10::multiply_integers(shape);
  if (tied.recursive->depth_biases)
    for (const auto& [name, shape] : bias_shapes(tied)) out.adapters += c10::multiply_integers(shape);
  return out;
}

}  // namespace liger
