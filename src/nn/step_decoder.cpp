#include "liger/nn/step_decoder.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/cpu_jobs.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "nn/step_mixer.h"
#include "nn/step_weights.h"
#include "ops/rows.h"

namespace liger {
namespace {

// [S, n] activations, rows aligned to 64 bytes.
struct Activations {
  Activations(int64_t sequences, int64_t n)
      : tensor(at::zeros({sequences, (n + 15) / 16 * 16}, at::kFloat)),
        rows{tensor.mutable_data_ptr<float>(), tensor.size(1)} {}
  float* operator[](int64_t s) const { return rows.data + s * rows.stride; }
  at::Tensor tensor;
  ActivationRows rows;
};

}  // namespace

// A token goes through the model on all threads at once: each computes its share of the rows of every product and of
// the heads, and waits where it needs the others' share. What is small each computes for itself.
struct StepDecoder::Implementation {
  Implementation(const CausalLM& model, int64_t sequences);
  const at::Tensor& step(std::span<const int64_t> ids, DecodingState& state);

 private:
  // A thread's own normalized input and low-rank products, and scratch for the mixers.
  struct Member {
    Member(int64_t sequences, int64_t hidden, int64_t rank, int64_t scratch_bytes)
        : normed(sequences, hidden), low_rank(sequences, rank), scratch(at::zeros({scratch_bytes}, at::kByte)) {}
    Activations normed, low_rank;
    at::Tensor scratch;
    int64_t index = 0, count = 1;

    std::pair<int64_t, int64_t> share(int64_t n) const { return {n * index / count, n * (index + 1) / count}; }
  };

  void begin(DecodingState& state) const;
  void embed(std::span<const int64_t> ids);
  void rotate(const DecodingState& state);
  void run(Member& member, const DecodingState& state, std::vector<LayerState>& memory);
  void norm(const at::Tensor& weight, Member& member);
  void linear(const StepLinear& map, const Activations& in, const Activations& to, Member& member);
  void add_linear(const StepLinear& map, const at::Tensor& output_norm, const Activations& in, Member& member);
  void mix(int64_t layer, Member& member, const DecodingState& state, std::vector<LayerState>& memory);
  MixerToken token(int64_t layer, int64_t s, const DecodingState& state) const;

  const CpuKernels& kernels = cpu_kernels();
  ModelConfig config;
  int64_t S, H, Hkv, D, group;
  StepWeights weights;
  StepMixer mixer;
  std::vector<float> cos, sin;  // of each RoPE, [S][D/2]
  GateActivation activation;
  Activations x, q, k, v, mixed, out, gates, ups;
  std::vector<Member> members;
  at::Tensor logits;
};

StepDecoder::Implementation::Implementation(const CausalLM& model, int64_t sequences)
    : config(model.config()),
      S(sequences),
      H(config.num_attention_heads),
      Hkv(config.num_key_value_heads),
      D(config.head_dim),
      group(config.group_size()),
      weights(model),
      mixer(model),
      cos(weights.frequencies.size() * S * D / 2),
      sin(cos.size()),
      activation(activation_named(config.hidden_act)),
      x(S, config.hidden_size),
      q(S, H * D),
      k(S, Hkv * D),
      v(S, Hkv * D),
      mixed(S, H * D),
      out(S, config.hidden_size),
      gates(S, config.intermediate_size),
      ups(S, config.intermediate_size),
      logits(at::empty({S, config.vocab_size}, at::kFloat)) {
  const int64_t rank = std::max<int64_t>(1, weights.largest_rank);
  for (int i = 0; i < at::get_num_threads(); ++i)
    members.emplace_back(S, config.hidden_size, rank, mixer.scratch_bytes());
}

void StepDecoder::Implementation::begin(DecodingState& state) const {
  LIGER_CHECK(!at::GradMode::is_enabled(), "decoding with a state needs NoGradGuard or InferenceMode");
  if (state.layers.empty()) {
    state.layers.resize(config.num_hidden_layers);
    state.seen.assign(S, 0);
  }
  LIGER_CHECK(std::ssize(state.layers) == config.num_hidden_layers && std::ssize(state.seen) == S,
              "decoding state: expected ", config.num_hidden_layers, " layers of ", S, " sequences, got ",
              state.layers.size(), " of ", state.seen.size());
  const int64_t needed = *std::max_element(state.seen.begin(), state.seen.end()) + 1;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) mixer.prepare(i, S, needed, state.layers[i]);
}

void StepDecoder::Implementation::embed(std::span<const int64_t> ids) {
  for (int64_t s = 0; s < S; ++s) {
    LIGER_CHECK(ids[s] >= 0 && ids[s] < config.vocab_size, "token id ", ids[s], ": expected 0 to ",
                config.vocab_size - 1);
    kernels.step.widen_row(weights.embedding.view, ids[s], x[s]);
    for (int64_t d = 0; weights.embedding_scale != 1 && d < config.hidden_size; ++d) x[s][d] *= weights.embedding_scale;
  }
}

void StepDecoder::Implementation::rotate(const DecodingState& state) {
  for (size_t rope = 0; rope < weights.frequencies.size(); ++rope)
    for (int64_t s = 0; s < S; ++s)
      for (int64_t i = 0; i < D / 2; ++i) {
        const float angle = static_cast<float>(state.seen[s]) * weights.frequencies[rope][i];
        const size_t at = (rope * S + s) * D / 2 + i;
        cos[at] = std::cos(angle);
        sin[at] = std::sin(angle);
      }
}

void StepDecoder::Implementation::norm(const at::Tensor& weight, Member& member) {
  for (int64_t s = 0; s < S; ++s)
    kernels.step.rms_norm(x[s], weight.const_data_ptr<float>(), config.hidden_size, static_cast<float>(config.norm_eps),
                          config.family->norm_adds_one, member.normed[s]);
}

// The member's rows of `to`.
void StepDecoder::Implementation::linear(const StepLinear& map, const Activations& in, const Activations& to,
                                         Member& member) {
  const auto [first, last] = member.share(map.view.rows);
  kernels.step.dot_rows(map.view, first, last, S, in.rows, to.rows);
  const int64_t rank = map.rank();
  for (int64_t s = 0; rank > 0 && s < S; ++s) {
    float* low = member.low_rank[s];
    kernels.step.dot_rows({Element::kFloat, map.lora_a.const_data_ptr(), rank, map.view.columns, nullptr}, 0, rank, 1,
                          {in[s], 0}, {low, 0});
    kernels.step.add_low_rank(map.upper(), first, last, 1, {low, 0}, {to[s], 0});
  }
}

// Adds them to the residual stream, normed if there is a norm.
void StepDecoder::Implementation::add_linear(const StepLinear& map, const at::Tensor& output_norm,
                                             const Activations& in, Member& member) {
  linear(map, in, out, member);
  const bool normed = output_norm.defined();
  if (normed) team_barrier();  // which reads all rows
  const auto [first, last] = member.share(map.view.rows);
  for (int64_t s = 0; s < S; ++s) {
    if (normed)
      kernels.step.rms_norm(out[s], output_norm.const_data_ptr<float>(), config.hidden_size, weights.norm_eps,
                            weights.norm_adds_one, member.normed[s]);
    const float* from = normed ? member.normed[s] : out[s];
    for (int64_t r = first; r < last; ++r) x[s][r] += from[r];
  }
}

// The member's heads.
void StepDecoder::Implementation::mix(int64_t layer, Member& member, const DecodingState& state,
                                      std::vector<LayerState>& memory) {
  const StepLayer& of = weights.layers[layer];
  const auto [first, last] = member.share(S * Hkv);
  for (int64_t head = first; head < last; ++head) {
    const int64_t s = head / Hkv, h = head % Hkv;
    weights.finish_heads(of.query_norm, weights.query_factor, group, q[s] + h * group * D);
    weights.finish_heads(of.key_norm, 1, 1, k[s] + h * D);
    mixer.head(layer, s, h, token(layer, s, state), memory[layer], member.scratch.mutable_data_ptr());
  }
}

MixerToken StepDecoder::Implementation::token(int64_t layer, int64_t s, const DecodingState& state) const {
  const int64_t angles = ((config.has_local_rope(layer) ? S : 0) + s) * D / 2;
  return {.q = q[s],
          .k = k[s],
          .v = v[s],
          .o = mixed[s],
          .cos = cos.data() + angles,
          .sin = sin.data() + angles,
          .seen = state.seen[s]};
}

void StepDecoder::Implementation::run(Member& member, const DecodingState& state, std::vector<LayerState>& memory) {
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const StepLayer& layer = weights.layers[i];
    norm(layer.input_norm, member);
    linear(layer.q, member.normed, q, member);
    linear(layer.k, member.normed, k, member);
    linear(layer.v, member.normed, v, member);
    team_barrier();
    mix(i, member, state, memory);
    team_barrier();
    add_linear(layer.o, layer.attention_output_norm, mixed, member);
    team_barrier();
    norm(layer.mlp_norm, member);
    linear(layer.gate, member.normed, gates, member);
    linear(layer.up, member.normed, ups, member);
    const auto [first, last] = member.share(config.intermediate_size);
    for (int64_t s = 0; s < S; ++s) kernels.step.gate_by(activation, ups[s] + first, last - first, gates[s] + first);
    team_barrier();
    add_linear(layer.down, layer.mlp_output_norm, gates, member);
    team_barrier();
  }
  norm(weights.norm, member);
  const auto [first, last] = member.share(weights.head.view.rows);
  kernels.step.dot_rows(weights.head.view, first, last, S, member.normed.rows,
                        {logits.mutable_data_ptr<float>(), config.vocab_size});
}

const at::Tensor& StepDecoder::Implementation::step(std::span<const int64_t> ids, DecodingState& state) {
  LIGER_CHECK(std::ssize(ids) == S, "decoding: expected ", S, " tokens, got ", ids.size());
  begin(state);
  embed(ids);
  rotate(state);
  run_team([&](int64_t index, int64_t count) {
    Member& member = members[index];
    member.index = index;
    member.count = count;
    run(member, state, state.layers);
  });
  for (int64_t& seen : state.seen) ++seen;
  return logits;
}

bool StepDecoder::supports(const CausalLM& model) {
  const auto type = model.dtype();
  const ModelConfig& config = model.config();
  const bool known = !config.family->layer_norm && !config.family->fused_attention() && config.family->gated_mlp() &&
                     config.rotary_dim == 0 && !config.parallel_residual && config.attention_softcap == 0 &&
                     config.logit_softcap == 0;
  return known && model.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16) &&
         config.backend != Backend::kTorch && (!config.liger || config.liger->is_compiled());
}

StepDecoder::StepDecoder(const CausalLM& model, int64_t sequences) {
  LIGER_CHECK(
      supports(model),
      "decoding in steps: expected a float32 or bfloat16 model on the CPU with gated MLPs and RMSNorms, without "
      "softcaps, and a backend that is not torch, got ",
      model.config().family->model_type, ", ", model.dtype(), " on ", model.device().str());
  LIGER_CHECK(sequences >= 1 && sequences <= kMaxSequences, "decoding in steps: expected 1 to ", kMaxSequences,
              " sequences, got ", sequences);
  it_ = std::make_unique<Implementation>(model, sequences);
}

StepDecoder::~StepDecoder() = default;

const at::Tensor& StepDecoder::step(std::span<const int64_t> ids, DecodingState& state) {
  return it_->step(ids, state);
}

}  // namespace liger
