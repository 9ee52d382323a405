#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "liger/core/model_config.h"
#include "liger/core/sequences.h"

namespace liger {

class CausalLM;

struct CalibrationOptions {
  int64_t steps = 60;  ///< updates of a layer's numbers after the search, one batch each; 0 = the search alone
  double lr = 0.05;    ///< of the first; it falls to 0 linearly
  /// Each layer gets those of these that explain most of its attention; empty = the features that are wanted.
  std::vector<FeatureMap> features = {};
  /// Told after each layer.
  std::function<void(int64_t layers_done)> progress = {};
};

/// How much of the teacher's attention output, after o_proj, a layer gives: 1 - |difference|^2 / |output|^2 over all
/// tokens.
struct LayerFit {
  int64_t layer = 0;
  double window = 0;  ///< the window alone, with its sinks
  double before = 0;  ///< with those features, and the numbers of heads that `wanted` has, or their defaults
  double after = 0;   ///< with those found
  std::optional<FeatureMap> features = {};  ///< found best; absent = as wanted
};

struct Calibration {
  LigerConfig liger;  ///< as wanted, with numbers for every head and the features that were searched for
  std::vector<LayerFit> layers;
  int64_t tokens = 0;  ///< of one pass over the batches
};

/// Finds the numbers of heads (core/head_scalars.h) with which linearized layers come closest to the softmax attention
/// they replace: layer by layer over the teacher's own hidden states, a search over temperature, gate and shares by
/// least squares of each head's output, then a few updates of Adam (arXiv 1412.6980) on the error after o_proj. A head
/// that does no better than its window alone is left with the window. Memory: the hidden states of all batches, and
/// what one layer's attention reads and writes. `teacher` has softmax attention; `wanted` suits it (validate()), and
/// has a recurrence and a window. The first batch is what the search sees. Nothing is drawn at random.
Calibration calibrate(const CausalLM& teacher, const LigerConfig& wanted, const std::vector<Sequences>& batches,
                      const CalibrationOptions& options = {});

/// What a model makes of some text, beside a teacher.
struct ModelGap {
  double loss = 0;        ///< cross-entropy of the next token, nats a token
  double divergence = 0;  ///< KL(teacher || model), nats a token
  double largest = 0;     ///< the largest difference of two logits
};
ModelGap compare(CausalLM& model, CausalLM& teacher, const std::vector<Sequences>& batches);

}  // namespace liger
