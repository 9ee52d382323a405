#include "liger/nn/step_decoder.h"

#include <ATen/Parallel.h>
#include <ATen/TensorIndexing.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/ops/ops.h"
#include "nn/mix_settings.h"
#include "nn/step_weights.h"

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

GateActivation activation_named(const std::string& name) {
  if (name == "gelu") return GateActivation::kGelu;
  return name == "gelu_pytorch_tanh" ? GateActivation::kGeluTanh : GateActivation::kSilu;
}

}  // namespace

struct StepDecoder::Implementation {
  Implementation(const CausalLM& model, int64_t sequences);
  const at::Tensor& step(std::span<const int64_t> ids, DecodingState& state);

 private:
  void begin(DecodingState& state) const;
  void reserve(LayerState& layer, const DecodingState& state) const;
  void embed(std::span<const int64_t> ids);
  void rotate(const DecodingState& state);
  void norm(const at::Tensor& weight);
  void attention(int64_t layer, const DecodingState& state, LayerState& memory);
  void mix(int64_t layer, int64_t s, int64_t h, const DecodingState& state, LayerState& memory);
  void attend(int64_t s, int64_t h, const DecodingState& state, LayerState& memory);
  void mlp(const StepLayer& layer);

  // Runs some linear maps of one input side by side, their rows dealt out evenly. Each thread then calls
  // then(map, first row, last row).
  template <typename Then>
  void linears(std::initializer_list<const StepLinear*> maps, const Activations& x,
               std::initializer_list<const Activations*> y, const Then& then);
  void linears(std::initializer_list<const StepLinear*> maps, const Activations& x,
               std::initializer_list<const Activations*> y) {
    linears(maps, x, y, [](int64_t, int64_t, int64_t) {});
  }
  void add_to_residual(const StepLinear& map, const Activations& x);

  const CpuKernels& kernels = cpu_kernels();
  ModelConfig config;
  int64_t S, H, Hkv, D, group;
  StepWeights weights;
  std::vector<MixSettings> mixes;  // by layer; not used for softmax layers
  std::vector<float> frequencies, cos, sin;  // [D/2], [S][D/2] twice
  float embedding_scale;
  GateActivation activation;
  Activations x, normed, q, k, v, mixed, out, gates, ups, low_rank;
  std::vector<at::Tensor> scratch;  // by thread
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
      cos(S * D / 2),
      sin(S * D / 2),
      embedding_scale(1),
      activation(activation_named(config.hidden_act)),
      x(S, config.hidden_size),
      normed(S, config.hidden_size),
      q(S, H * D),
      k(S, Hkv * D),
      v(S, Hkv * D),
      mixed(S, H * D),
      out(S, config.hidden_size),
      gates(S, config.intermediate_size),
      ups(S, config.intermediate_size),
      low_rank(1, 1),
      logits(at::empty({S, config.vocab_size}, at::kFloat)) {
  const at::Tensor turns = rope_frequencies(config.rope, D, at::kCPU);
  frequencies.assign(turns.const_data_ptr<float>(), turns.const_data_ptr<float>() + D / 2);
  if (config.family->scales_embeddings)  // rounded to the weights' dtype first, as in Embedding
    embedding_scale = at::scalar_tensor(std::sqrt(static_cast<double>(config.hidden_size)),
                                        at::TensorOptions(model.dtype())).item<float>();
  int64_t bytes = 64, rank = 1;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    mixes.push_back(config.is_softmax_layer(i) ? MixSettings{} : mix_settings(config, i));
    const MixSettings& m = mixes.back();
    CacheHead cache = {};
    cache.group = group;
    cache.D = D;
    const MixHead head = {.element = Element::kFloat, .tokens = 1, .group = group, .D = D,
                          .structure = m.recurrence.structure, .divisor = 1, .constant_log_decay = 0,
                          .window = m.window, .sinks = m.sinks, .window_share = 0, .seen = 0,
                          .q = nullptr, .k = nullptr, .v = nullptr, .q_stride = 0, .kv_stride = 0,
                          .cos = nullptr, .sin = nullptr};
    bytes = std::max({bytes, kernels.step.mix_scratch(head), kernels.step.cache_scratch(cache)});
    const StepLayer& layer = weights.layers[i];
    for (const StepLinear* map : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      rank = std::max(rank, map->rank());
  }
  low_rank = Activations(S * 3, rank);
  for (int thread = 0; thread < at::get_num_threads(); ++thread) scratch.push_back(at::zeros({bytes}, at::kByte));
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
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerState& layer = state.layers[i];
    if (config.is_softmax_layer(i)) {
      reserve(layer, state);
      continue;
    }
    const MixSettings& m = mixes[i];
    if (m.recurrence.structure && layer.recurrent.empty())
      for (const StateShape& shape : state_shapes(*m.recurrence.structure, D))
        layer.recurrent.push_back(at::zeros({S, Hkv, shape.rows, shape.columns}, at::kFloat));
    if (m.window > 0 && !layer.keys.defined()) {
      layer.keys = at::zeros({S, Hkv, m.window + m.sinks, D}, at::kFloat);
      layer.values = at::zeros({S, Hkv, m.window + m.sinks, D}, at::kFloat);
    }
  }
}

// Room for one more token in a softmax layer's cache, doubling it.
void StepDecoder::Implementation::reserve(LayerState& layer, const DecodingState& state) const {
  const int64_t needed = *std::max_element(state.seen.begin(), state.seen.end()) + 1;
  for (at::Tensor* cache : {&layer.keys, &layer.values}) {
    const int64_t capacity = cache->defined() ? cache->size(1) : 0;
    if (needed <= capacity) continue;
    const auto type = weights.embedding.weight.scalar_type();
    at::Tensor larger = at::zeros({S, std::max<int64_t>({needed, 2 * capacity, 64}), Hkv, D}, type);
    if (cache->defined()) larger.narrow(1, 0, capacity).copy_(*cache);
    *cache = larger;
  }
}

void StepDecoder::Implementation::embed(std::span<const int64_t> ids) {
  for (int64_t s = 0; s < S; ++s) {
    LIGER_CHECK(ids[s] >= 0 && ids[s] < config.vocab_size, "token id ", ids[s], ": expected 0 to ",
                config.vocab_size - 1);
    kernels.step.widen_row(weights.embedding.view, ids[s], x[s]);
    for (int64_t d = 0; embedding_scale != 1 && d < config.hidden_size; ++d) x[s][d] *= embedding_scale;
  }
}

void StepDecoder::Implementation::rotate(const DecodingState& state) {
  for (int64_t s = 0; s < S; ++s)
    for (int64_t i = 0; i < D / 2; ++i) {
      const float angle = static_cast<float>(state.seen[s]) * frequencies[i];
      cos[s * D / 2 + i] = std::cos(angle);
      sin[s * D / 2 + i] = std::sin(angle);
    }
}

void StepDecoder::Implementation::norm(const at::Tensor& weight) {
  for (int64_t s = 0; s < S; ++s)
    kernels.step.rms_norm(x[s], weight.const_data_ptr<float>(), config.hidden_size,
                          static_cast<float>(config.rms_norm_eps), config.family->norm_adds_one, normed[s]);
}

template <typename Then>
void StepDecoder::Implementation::linears(std::initializer_list<const StepLinear*> maps, const Activations& in,
                                          std::initializer_list<const Activations*> y, const Then& then) {
  int64_t total = 0, which = 0;
  for (const StepLinear* map : maps) {
    total += map->view.rows;
    for (int64_t s = 0; map->rank() > 0 && s < S; ++s)
      kernels.step.dot_rows({Element::kFloat, map->lora_a.const_data_ptr(), map->rank(), map->view.columns, nullptr}, 0,
                            map->rank(), 1, {in[s], 0}, {low_rank[which * S + s], 0});
    ++which;
  }
  const auto part = [&](int64_t thread, int64_t threads) {
    const int64_t begin = total * thread / threads, end = total * (thread + 1) / threads;
    int64_t start = 0, index = 0;
    for (const StepLinear* map : maps) {
      const int64_t rows = map->view.rows, first = std::clamp<int64_t>(begin - start, 0, rows),
                    last = std::clamp<int64_t>(end - start, 0, rows);
      const Activations& to = *(y.begin()[index]);
      if (first < last) {
        kernels.step.dot_rows(map->view, first, last, S, in.rows, to.rows);
        for (int64_t s = 0; map->rank() > 0 && s < S; ++s)
          kernels.step.add_low_rank(map->lora_b.const_data_ptr<float>(), low_rank[index * S + s], map->rank(),
                                    map->lora_scale, first, last, to[s]);
        then(index, first, last);
      }
      start += rows;
      ++index;
    }
  };
  const int64_t threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread) part(thread, threads);
  });
}

void StepDecoder::Implementation::add_to_residual(const StepLinear& map, const Activations& in) {
  linears({&map}, in, {&out}, [&](int64_t, int64_t first, int64_t last) {
    for (int64_t s = 0; s < S; ++s)
      for (int64_t r = first; r < last; ++r) x[s][r] += out[s][r];
  });
}

void StepDecoder::Implementation::mix(int64_t layer, int64_t s, int64_t h, const DecodingState& state,
                                      LayerState& memory) {
  const MixSettings& m = mixes[layer];
  const LayerRecurrence& r = m.recurrence;
  const auto block = [&](const at::Tensor& tensor) -> void* {
    return tensor.mutable_data_ptr<float>() + (s * Hkv + h) * tensor.size(2) * tensor.size(3);
  };
  const auto& states = memory.recurrent;
  const MixHead head = {
      .element = Element::kFloat,
      .tokens = 1,
      .group = group,
      .D = D,
      .structure = r.structure,
      .divisor = r.structure ? r.divisor() : 1.0,
      .constant_log_decay =
          r.structure && !r.structure->gated() ? constant_log_decay(*r.structure, h, Hkv, r.layer, r.layers) : 0.0,
      .window = m.window,
      .sinks = m.sinks,
      .window_share = m.window_share,
      .seen = state.seen[s],
      .q = q[s] + h * group * D,
      .k = k[s] + h * D,
      .v = v[s] + h * D,
      .q_stride = 0,
      .kv_stride = 0,
      .cos = cos.data() + s * D / 2,
      .sin = sin.data() + s * D / 2};
  kernels.step.mix(head,
                   {.o = mixed[s] + h * group * D,
                    .states = {states.empty() ? nullptr : block(states[0]), states.size() < 2 ? nullptr : block(states[1])},
                    .ring_keys = m.window > 0 ? block(memory.keys) : nullptr,
                    .ring_values = m.window > 0 ? block(memory.values) : nullptr,
                    .checkpoints = nullptr,
                    .lse = nullptr},
                   scratch[at::get_thread_num()].mutable_data_ptr());
}

void StepDecoder::Implementation::attend(int64_t s, int64_t h, const DecodingState& state, LayerState& memory) {
  const auto cache = [&](const at::Tensor& tensor) -> void* {
    return static_cast<char*>(tensor.mutable_data_ptr()) +
           (s * tensor.size(1) * Hkv + h) * D * static_cast<int64_t>(tensor.element_size());
  };
  kernels.step.cache({.element = weights.embedding.view.element,
                      .group = group,
                      .D = D,
                      .seen = state.seen[s],
                      .q = q[s] + h * group * D,
                      .k = k[s] + h * D,
                      .v = v[s] + h * D,
                      .cos = cos.data() + s * D / 2,
                      .sin = sin.data() + s * D / 2,
                      .keys = cache(memory.keys),
                      .values = cache(memory.values),
                      .stride = Hkv * D,
                      .o = mixed[s] + h * group * D},
                     scratch[at::get_thread_num()].mutable_data_ptr());
}

void StepDecoder::Implementation::attention(int64_t i, const DecodingState& state, LayerState& memory) {
  const StepLayer& layer = weights.layers[i];
  norm(layer.input_norm);
  linears({&layer.q, &layer.k, &layer.v}, normed, {&q, &k, &v});
  at::parallel_for(0, S * Hkv, 1, [&](int64_t first, int64_t last) {
    for (int64_t job = first; job < last; ++job) {
      if (config.is_softmax_layer(i)) {
        attend(job / Hkv, job % Hkv, state, memory);
      } else {
        mix(i, job / Hkv, job % Hkv, state, memory);
      }
    }
  });
  add_to_residual(layer.o, mixed);
}

void StepDecoder::Implementation::mlp(const StepLayer& layer) {
  norm(layer.post_attention_norm);
  const int64_t n = config.intermediate_size, threads = at::get_num_threads();
  if (layer.gate.rank() > 0 || layer.up.rank() > 0) {
    linears({&layer.gate, &layer.up}, normed, {&gates, &ups});
    for (int64_t s = 0; s < S; ++s) kernels.step.gate_by(activation, ups[s], n, gates[s]);
  } else {
    at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread)
        kernels.step.gated_rows(layer.gate.view, layer.up.view, activation, n * thread / threads,
                                n * (thread + 1) / threads, S, normed.rows, gates.rows, ups.rows);
    });
  }
  add_to_residual(layer.down, gates);
}

const at::Tensor& StepDecoder::Implementation::step(std::span<const int64_t> ids, DecodingState& state) {
  LIGER_CHECK(std::ssize(ids) == S, "decoding: expected ", S, " tokens, got ", ids.size());
  begin(state);
  embed(ids);
  rotate(state);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    attention(i, state, state.layers[i]);
    mlp(weights.layers[i]);
  }
  for (int64_t& seen : state.seen) ++seen;
  norm(weights.norm);
  const ActivationRows to = {logits.mutable_data_ptr<float>(), config.vocab_size};
  const int64_t rows = weights.head.view.rows, threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread)
      kernels.step.dot_rows(weights.head.view, rows * thread / threads, rows * (thread + 1) / threads, S, normed.rows, to);
  });
  return logits;
}

bool StepDecoder::supports(const CausalLM& model) {
  const auto type = model.dtype();
  return model.device().is_cpu() && (type == at::kFloat || type == at::kBFloat16);
}

StepDecoder::StepDecoder(const CausalLM& model, int64_t sequences) {
  LIGER_CHECK(supports(model), "decoding in steps: expected a float32 or bfloat16 model on the CPU, got ", model.dtype(),
              " on ", model.device().str());
  LIGER_CHECK(sequences >= 1 && sequences <= kMaxSequences, "decoding in steps: expected 1 to ", kMaxSequences,
              " sequences, got ", sequences);
  it_ = std::make_unique<Implementation>(model, sequences);
}

StepDecoder::~StepDecoder() = default;

const at::Tensor& StepDecoder::step(std::span<const int64_t> ids, DecodingState& state) { return it_->step(ids, state); }

}  // namespace liger
