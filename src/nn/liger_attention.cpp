#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "liger/core/dtype.h"
#include "liger/recurrence/recurrence.h"
#include "nn/token_mixer.h"

namespace liger {
namespace {

// Padding at the end of a row must leave the row's last state alone.
void mask_padding(ScanInputs& in, const at::Tensor& row_mask) {
  const at::Tensor real = row_mask.unsqueeze(-1).unsqueeze(-1).to(in.k.scalar_type());
  in.k = in.k * real;
  in.v = in.v * real;
  in.g = in.g * real;
}

// The newest `past.size(1)` rows of past and now together, each sequence's own length counted.
at::Tensor slide(const at::Tensor& past, const at::Tensor& now, const std::vector<int64_t>& lengths) {
  const at::Tensor all = at::cat({past, now}, 1);
  const int64_t kept = past.size(1);
  if (std::adjacent_find(lengths.begin(), lengths.end(), std::not_equal_to<>()) == lengths.end())
    return all.narrow(1, lengths[0], kept).clone(at::MemoryFormat::Contiguous);  // a view would keep `now` alive
  std::vector<at::Tensor> rows;
  for (size_t s = 0; s < lengths.size(); ++s) rows.push_back(all[s].narrow(0, lengths[s], kept));
  return at::stack(rows);
}

// Keeps the keys or values of positions 0 .. sinks - 1.
void keep_sinks(at::Tensor& sinks, const at::Tensor& now, const std::vector<int64_t>& past,
                const std::vector<int64_t>& lengths) {
  for (size_t s = 0; s < lengths.size(); ++s) {
    const int64_t count = std::min(sinks.size(1) - past[s], lengths[s]);
    if (count > 0) sinks[s].narrow(0, past[s], count).copy_(now[s].narrow(0, 0, count));
  }
}

// o = mix * window softmax + (1 - mix) * recurrence, over the same q, k, v (arXiv 2503.01496, equation 10).
// A branch of weight zero is not computed.
class LigerAttention : public TokenMixer {
 public:
  LigerAttention(const ModelConfig& config, const at::TensorOptions& options)
      : TokenMixer(config, options), config_(*config.liger), recurrence_(find_recurrence(config_.recurrence)) {}

 protected:
  at::Tensor mix(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MixerContext& context,
                 LayerState* state) override {
    const Sequences& tokens = context.tokens;
    const at::Tensor values = tokens.rows(v);
    at::Tensor out;
    if (config_.mix > 0) {
      const at::Tensor window = window_branch(tokens.rows(rotate(q, context.rotation)),
                                              tokens.rows(rotate(k, context.rotation)), values, context, state);
      out = window * config_.mix;
    }
    if (config_.mix < 1) {
      const at::Tensor linear =
          linear_branch(tokens.rows(q), tokens.rows(k), values, context, state) * (1 - config_.mix);
      out = out.defined() ? out + linear : linear;
    }
    return tokens.packed(out.to(q.scalar_type()));
  }

 private:
  at::Tensor linear_branch(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MixerContext& context,
                           LayerState* state) const {
    ScanInputs in = recurrence_.gate(q, k, v, config_);
    if (!state) return diagonal_scan(in).o;
    if (context.tokens.row_mask().defined()) mask_padding(in, context.tokens.row_mask());
    if (!state->recurrent.empty()) in.state = state->recurrent[0];
    ScanOutputs out = diagonal_scan(in);
    state->recurrent = {out.state};
    return out.o;
  }

  at::Tensor window_branch(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MixerContext& context,
                           LayerState* state) const {
    WindowContext window;
    const auto& lengths = context.tokens.lengths();
    if (!state) {
      if (const int64_t sinks = std::min(config_.sinks, k.size(1)); sinks > 0) {
        window.sink_keys = k.narrow(1, 0, sinks);
        window.sink_values = v.narrow(1, 0, sinks);
      }
      return window_attention(q, k, v, config_.window, window);
    }
    if (!state->keys.defined()) start(*state, k);
    if (config_.sinks > 0) {
      keep_sinks(state->sink_keys, k, context.past, lengths);
      keep_sinks(state->sink_values, v, context.past, lengths);
      window.sink_keys = state->sink_keys;
      window.sink_values = state->sink_values;
    }
    window.keys = state->keys;
    window.values = state->values;
    window.seen = context.seen;
    const at::Tensor out = window_attention(q, k, v, config_.window, window);
    state->keys = slide(state->keys, k, lengths);
    state->values = slide(state->values, v, lengths);
    return out;
  }

  void start(LayerState& state, const at::Tensor& like) const {
    const auto zeros = [&](int64_t tokens) {
      return at::zeros({like.size(0), tokens, like.size(2), like.size(3)}, like.options());
    };
    state.keys = zeros(config_.window - 1);
    state.values = zeros(config_.window - 1);
    state.sink_keys = zeros(config_.sinks);
    state.sink_values = zeros(config_.sinks);
  }

  LigerConfig config_;
  const Recurrence& recurrence_;
};

}  // namespace

std::shared_ptr<TokenMixer> make_liger_attention(const ModelConfig& config, int64_t /*layer*/,
                                                 const at::TensorOptions& options) {
  return std::make_shared<LigerAttention>(config, options);
}

}  // namespace liger
