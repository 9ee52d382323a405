#include "liger/nn/calibrate.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "liger/core/dtype.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/nn/causal_lm.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/ops/linear_distillation.h"
#include "nn/choose_mix.h"
#include "nn/decoder.h"
#include "nn/mix_settings.h"

namespace liger {
namespace {

// What one layer's attention reads and should write, of one batch; of the weights' type.
struct Batch {
  MixerContext context;
  Projections in;
  at::Tensor taught;   // [N, H, D]
  at::Tensor written;  // after o_proj, [N, hidden_size]
};

at::Tensor error_of_heads(const at::Tensor& mixed, const at::Tensor& taught) {
  return (mixed - taught).to(at::kDouble).square().sum({0, 2});
}

// One layer on its way to its numbers.
class LayerSearch {
 public:
  LayerSearch(const ModelConfig& config, int64_t layer, TokenMixer& attention, std::vector<Batch>& batches)
      : config_(config),
        settings_(mix_settings(config, layer)),
        attention_(attention),
        batches_(batches),
        type_(wide_type(batches.front().in.q)) {
    numbers = head_scalars(config, layer);
  }

  at::Tensor numbers;  ///< [kHeadScalars, H] float64

  double explained(const at::Tensor& scalars) const {
    double error = 0, all = 0;
    for (const Batch& batch : batches_) {
      const at::Tensor written = batch.written.to(at::kDouble);
      error += (attention_.output(mix(batch, scalars)).to(at::kDouble) - written).square().sum().item<double>();
      all += written.square().sum().item<double>();
    }
    return 1 - error / all;
  }
  double window_explains() const { return explained(window_alone(kNothing)); }

  /// Temperatures and gates from a grid, the same for query and key, and with each of them the best shares.
  void search() {
    const int64_t H = numbers.size(1), Hkv = config_.num_key_value_heads;
    const at::Tensor start = numbers.clone();
    std::vector<double> best(Hkv, std::numeric_limits<double>::infinity());
    for (const double scale : scales())
      for (const double gate : gates()) {
        at::Tensor tried = start.clone();
        tried[kQueryScale].mul_(scale);
        tried[kKeyScale].mul_(scale);
        tried[kLogGate].add_(gate);
        const at::Tensor errors = set_shares(tried).view({Hkv, H / Hkv}).sum(1);
        for (int64_t h = 0; h < Hkv; ++h) {
          const auto error = errors[h].item<double>();
          if (!(error < best[h])) continue;
          best[h] = error;
          take_over(tried, h);
        }
      }
  }

  /// Adam on what the layer gives after o_proj. Scales stay positive: their logarithms are what changes.
  void descend(int64_t steps, double lr) {
    constexpr double kBeta1 = 0.9, kBeta2 = 0.99;
    const at::Tensor x = logarithmic(numbers).requires_grad_(true), m = at::zeros_like(x), v = at::zeros_like(x);
    for (int64_t step = 0; step < steps; ++step) {
      throw_if_interrupted();
      const Batch& batch = batches_[static_cast<size_t>(step) % batches_.size()];
      const at::AutoGradMode grad(true);
      const at::Tensor difference = attention_.output(mix(batch, exponential(x))) - batch.written;
      const at::Tensor loss = difference.to(at::kFloat).square().mean();
      const at::Tensor g = torch::autograd::grad({loss}, {x})[0];
      const at::NoGradGuard no_grad;
      m.mul_(kBeta1).add_(g, 1 - kBeta1);
      v.mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
      const double n = static_cast<double>(step + 1), left = 1 - static_cast<double>(step) / static_cast<double>(steps);
      const at::Tensor size = (v / (1 - std::pow(kBeta2, n))).sqrt() + 1e-12;
      x.sub_(m / (1 - std::pow(kBeta1, n)) / size * (lr * left));
    }
    const at::NoGradGuard no_grad;
    numbers = exponential(x).detach();
  }

  /// Heads whose window alone is no worse get it.
  void keep_what_helps() {
    // Next to nothing, and yet training can find its way back from there.
    const at::Tensor alone = window_alone(unit_log_weight() - 10), helps = errors(numbers) < errors(alone);
    for (const HeadScalar row : {kWindowWeight, kLinearWeight})
      numbers[row] = at::where(helps, numbers[row], alone[row]);
  }

 private:
  static constexpr double kNothing = -80;  // logarithm of a state's share that no window notices

  bool shares() const { return settings_.shares_normalizer(); }

  at::Tensor mix(const Batch& batch, const at::Tensor& scalars) const {
    return run_mix(config_.backend, settings_, mix_inputs(attention_, batch.in, batch.context, scalars.to(type_))).o;
  }
  at::Tensor errors(const at::Tensor& scalars) const {
    at::Tensor out;
    for (const Batch& batch : batches_) {
      const at::Tensor errors = error_of_heads(mix(batch, scalars), batch.taught);
      out = out.defined() ? out + errors : errors;
    }
    return out;
  }
  at::Tensor window_alone(double log_weight) const {
    at::Tensor out = numbers.clone();
    out[kWindowWeight].fill_(1.0);
    out[kLinearWeight].fill_(shares() ? log_weight : 0.0);
    return out;
  }

  // Factors of what the scales are: exp(x) and exp(-x) are like softmax attention to second order near D^(1/4), and
  // keep to that order further below it; features of a softmax are good as they are, or somewhat flatter or sharper.
  std::vector<double> scales() const {
    const FeatureMap map = settings_.recurrence.structure->key;
    const double unit = std::pow(static_cast<double>(config_.head_dim), 0.25);
    if (map == FeatureMap::kExpPair) return {unit / 16, unit / 8, unit / 5, unit / 3, unit / 2, unit};
    if (map == FeatureMap::kSoftmax || map == FeatureMap::kSoftmaxPair) return {0.5, 1, 2};
    return {1};
  }
  std::vector<double> gates() const {
    if (settings_.recurrence.structure->decay == Decay::kNone) return {0};
    return {0, -1.5, -3, -5};
  }

  // The best shares of all heads for these temperatures and gates; returns the heads' errors.
  at::Tensor set_shares(at::Tensor& tried) const { return shares() ? set_log_weights(tried) : set_weights(tried); }
  // A key beyond the window counts as much as one in it does, where no score says otherwise.
  double unit_log_weight() const { return -std::log(2.0 * static_cast<double>(config_.head_dim)); }
  // From three outputs, of the window, of the state and of both: each query's share s of the window, which a change of
  // the logarithm moves along a sigmoid. With d = w - l and e = l - t the error is |e|^2 + 2 s e.d + s^2 |d|^2.
  at::Tensor set_log_weights(at::Tensor& tried) const {
    const Batch& batch = batches_.front();
    const auto output = [&](double log_weight) {
      tried[kLinearWeight].fill_(log_weight);
      return mix(batch, tried).to(at::kDouble);
    };
    if (!window_.defined()) window_ = output(kNothing);
    const at::Tensor l = output(-kNothing), d = window_ - l, e = l - batch.taught.to(at::kDouble);
    const auto sum = [](const at::Tensor& x, const at::Tensor& y) { return (x * y).sum(2); };
    const at::Tensor dd = sum(d, d).clamp_min(1e-30), ed = sum(e, d), ee = sum(e, e);
    const at::Tensor logit = (sum(output(unit_log_weight()) - l, d) / dd).clamp(1e-9, 1 - 1e-9).logit();
    at::Tensor best, weights;
    for (double below = 2; below >= -8; below -= 1) {
      const at::Tensor s = (logit - below).sigmoid();
      const at::Tensor errors = (ee + 2 * s * ed + s * s * dd).sum(0);
      const at::Tensor weight = at::full_like(errors, unit_log_weight() + below);
      weights = weights.defined() ? at::where(errors < best, weight, weights) : weight;
      best = best.defined() ? at::minimum(best, errors) : errors;
    }
    tried[kLinearWeight].copy_(weights);
    return best;
  }
  // Least squares: t = a w + b l for each head, from the sums of products of the three.
  at::Tensor set_weights(at::Tensor& tried) const {
    const Batch& batch = batches_.front();
    const auto branch = [&](double window, double linear) {
      tried[kWindowWeight].fill_(window);
      tried[kLinearWeight].fill_(linear);
      return mix(batch, tried).to(at::kDouble);
    };
    const at::Tensor w = branch(1, 0), l = branch(0, 1), t = batch.taught.to(at::kDouble);
    const auto sum = [](const at::Tensor& x, const at::Tensor& y) { return (x * y).sum({0, 2}); };
    const at::Tensor ww = sum(w, w), wl = sum(w, l), ll = sum(l, l), wt = sum(w, t), lt = sum(l, t);
    const at::Tensor determinant = ww * ll - wl * wl;
    const at::Tensor apart = determinant > 1e-9 * ww * ll;  // else the branches are one
    const at::Tensor safe = at::where(apart, determinant, at::ones_like(determinant));
    const at::Tensor a = at::where(apart, (wt * ll - lt * wl) / safe, wt / ww);
    const at::Tensor b = at::where(apart, (lt * ww - wt * wl) / safe, at::zeros_like(a));
    tried[kWindowWeight].copy_(a);
    tried[kLinearWeight].copy_(b);
    return sum(t, t) - a * wt - b * lt;
  }

  void take_over(const at::Tensor& tried, int64_t kv_head) {
    const int64_t group = config_.group_size();
    for (int64_t row = 0; row < kHeadScalars; ++row) {
      const bool of_key = is_of_kv_head(static_cast<HeadScalar>(row));
      const int64_t first = of_key ? kv_head : kv_head * group, count = of_key ? 1 : group;
      numbers[row].narrow(0, first, count).copy_(tried[row].narrow(0, first, count));
    }
  }

  static at::Tensor logarithmic(const at::Tensor& scalars) {
    at::Tensor out = scalars.clone();
    for (const HeadScalar row : {kQueryScale, kKeyScale}) out[row] = scalars[row].log();
    return out;
  }
  static at::Tensor exponential(const at::Tensor& x) {
    return at::stack({x[kWindowWeight], x[kLinearWeight], x[kQueryScale].exp(), x[kKeyScale].exp(), x[kLogGate]});
  }

  const ModelConfig& config_;
  MixSettings settings_;
  TokenMixer& attention_;
  std::vector<Batch>& batches_;
  at::ScalarType type_;
  mutable at::Tensor window_;  // the window's output for the first batch
};

struct FoundLayer {
  LayerFit fit;
  at::Tensor numbers;
};

FoundLayer find_numbers(const ModelConfig& config, int64_t i, TokenMixer& attention, std::vector<Batch>& data,
                        const CalibrationOptions& options) {
  LayerSearch search(config, i, attention, data);
  FoundLayer out{.fit = {.layer = i, .window = search.window_explains(), .before = search.explained(search.numbers)}};
  search.search();
  search.descend(options.steps, options.lr);
  search.keep_what_helps();
  out.fit.after = search.explained(search.numbers);
  out.numbers = search.numbers;
  return out;
}

// Of the features that may be chosen, if any may, those that explain most.
FoundLayer find_layer(const ModelConfig& config, int64_t i, TokenMixer& attention, std::vector<Batch>& data,
                      const CalibrationOptions& options) {
  if (options.features.empty()) return find_numbers(config, i, attention, data, options);
  ModelConfig tried = config;
  tried.liger->layer_features.clear();
  std::optional<FoundLayer> best;
  for (const FeatureMap map : options.features) {
    tried.liger->features = map;
    FoundLayer found = find_numbers(tried, i, attention, data, options);
    found.fit.features = map;
    if (!best || std::isnan(best->fit.after) || found.fit.after > best->fit.after) best = std::move(found);
  }
  return *best;
}

// One name where all layers have the same.
void set_features(LigerConfig& liger, const std::vector<LayerFit>& layers, int64_t count) {
  const FeatureMap first = *layers.front().features;
  liger.layer_features.clear();
  const auto is_first = [&](const LayerFit& fit) { return *fit.features == first; };
  if (std::all_of(layers.begin(), layers.end(), is_first)) {
    liger.features = first;
    return;
  }
  liger.features.reset();
  liger.layer_features.assign(static_cast<size_t>(count), first);
  for (const LayerFit& fit : layers) liger.layer_features[static_cast<size_t>(fit.layer)] = *fit.features;
}

}  // namespace

Calibration calibrate(const CausalLM& teacher, const LigerConfig& wanted, const std::vector<Sequences>& batches,
                      const CalibrationOptions& options) {
  LIGER_CHECK(!teacher.config().liger, "calibrate: expected a teacher with softmax attention");
  LIGER_CHECK(wanted.recurrence != kWindowOnly && wanted.window > 0,
              "calibrate: expected a recurrence and a window, whose shares are to be found");
  LIGER_CHECK(wanted.is_compiled(), "calibrate: expected the key's gate and no learned features");
  LIGER_CHECK(!batches.empty(), "calibrate: expected some text");
  for (const FeatureMap map : options.features) {
    const std::string reason = refuses_choices(*find_structure(wanted.recurrence), map, wanted.normalizer);
    LIGER_CHECK(reason.empty(), "calibrate: features: ", reason);
  }
  const at::NoGradGuard no_grad;
  ModelConfig config = teacher.config();
  config.liger = wanted;
  Calibration out{.liger = wanted};
  Decoder& decoder = teacher.decoder();
  std::vector<MixerContext> contexts;
  std::vector<at::Tensor> hidden;
  for (const Sequences& tokens : batches) {
    contexts.push_back(decoder.context(tokens));
    hidden.push_back(decoder.embed(tokens));
    out.tokens += tokens.tokens();
  }
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    DecoderLayer& layer = *decoder.layers()[i];
    if (!wanted.is_softmax_layer(i)) {
      std::vector<Batch> data;
      for (size_t b = 0; b < batches.size(); ++b) {
        const Projections in = layer.attention().project(layer.attention_input(hidden[b]));
        const at::Tensor taught = layer.attention().mix(in, contexts[b], nullptr);
        data.push_back({contexts[b], in, taught, layer.attention().output(taught)});
      }
      const FoundLayer found = find_layer(config, i, layer.attention(), data, options);
      out.layers.push_back(found.fit);
      set_head_scalars(out.liger, config, i, found.numbers);
    }
    for (size_t b = 0; b < batches.size(); ++b) hidden[b] = layer.forward(hidden[b], contexts[b], nullptr);
    if (options.progress) options.progress(i + 1);
    throw_if_interrupted();
  }
  for (auto& [scalar, rows] : out.liger.heads) rows.resize(config.num_hidden_layers);
  if (!options.features.empty()) set_features(out.liger, out.layers, config.num_hidden_layers);
  return out;
}

ModelGap compare(CausalLM& model, CausalLM& teacher, const std::vector<Sequences>& batches) {
  const at::NoGradGuard no_grad;
  ModelGap gap;
  int64_t tokens = 0;
  for (const Sequences& text : batches) {
    const at::Tensor ours = model.hidden_states(text), theirs = teacher.hidden_states(text);
    at::Tensor targets = text.ids().roll(-1);
    targets.index_fill_(0, text.last_tokens(), kIgnoredTarget);
    const auto sum = [](const at::Tensor& x) { return x.item<double>(); };
    gap.loss += sum(linear_cross_entropy(ours, model.head_weight(), targets, model.config().logit_softcap));
    gap.divergence += sum(linear_distillation(ours, model.head_weight(), theirs, teacher.head_weight(), targets, {},
                                              model.config().logit_softcap, teacher.config().logit_softcap));
    tokens += text.tokens() - text.count();
    constexpr int64_t kRows = 256;
    for (int64_t first = 0; first < ours.size(0); first += kRows) {
      const auto logits = [&](CausalLM& lm, const at::Tensor& x) {
        return lm.logits(x.narrow(0, first, std::min(kRows, x.size(0) - first))).to(at::kFloat);
      };
      gap.largest = std::max(gap.largest, (logits(model, ours) - logits(teacher, theirs)).abs().max().item<double>());
    }
  }
  gap.loss /= static_cast<double>(tokens);
  gap.divergence /= static_cast<double>(tokens);
  return gap;
}

}  // namespace liger
