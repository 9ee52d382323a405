#include "nn/step_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/cpu_jobs.h"
#include "liger/error.h"
#include "liger/models/family.h"
#include "liger/nn/step_decoder.h"
#include "nn/step_mixer.h"
#include "nn/step_weights.h"
#include "ops/rows.h"

namespace liger {
namespace {

// [rows, n] activations, rows aligned to 64 bytes.
class Activations {
 public:
  explicit Activations(int64_t n) : stride_((n + 15) / 16 * 16) {}
  void reserve(int64_t rows) {
    if (rows <= rows_) return;
    rows_ = std::max(rows, 2 * rows_);
    tensor_ = at::zeros({rows_, stride_}, at::kFloat);
    data_ = tensor_.mutable_data_ptr<float>();
  }
  float* operator[](int64_t row) const { return data_ + row * stride_; }
  ActivationRows from(int64_t row) const { return {data_ + row * stride_, stride_}; }

 private:
  int64_t stride_, rows_ = 0;
  at::Tensor tensor_;
  float* data_ = nullptr;
};

// Neighbouring rows at one depth.
struct DepthGroup {
  int64_t depth, begin, count;
};

struct Member {
  int64_t index, count;
  std::pair<int64_t, int64_t> share(int64_t n) const { return {n * index / count, n * (index + 1) / count}; }
};

constexpr int64_t kTogether = StepDecoder::kMaxSequences;  // rows that a kernel takes
constexpr int64_t kBlockBytes = 1 << 16;                   // of a weight, read from memory for the first rows only

}  // namespace

// As in StepDecoder, all threads go through a pass at once: each computes its share of the columns of every product for
// all rows, or its share of the rows, and waits where it needs the others' share.
struct StepRows::Implementation {
  explicit Implementation(const CausalLM& model);

  struct Pass {
    const std::vector<TextRows>& texts;
    int64_t layers, N;
    bool only_remember;
    ActivationRows x;
    std::vector<DepthGroup> groups = {};
    std::vector<std::pair<int64_t, int64_t>> place = {};  // of each row: its text, and position
    float* row(int64_t i) const { return x.data + i * x.stride; }
  };

  void run(Pass pass);
  std::vector<RowChoice> choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows);

  using Map = StepLinear StepLayer::*;
  void begin(Pass& pass);
  void run_member(const Member& member, const Pass& pass);
  void rotate(const Member& member, const Pass& pass);
  void norm(const Member& member, const Pass& pass, int64_t layer, at::Tensor StepLayer::* weight,
            const Activations& to);
  void low_rank(const Member& member, const Pass& pass, int64_t layer, Map map, const Activations& in, size_t slot);
  void linear(const Member& member, const Pass& pass, int64_t layer, Map map, const Activations& in, size_t slot,
              const Activations& to);
  void products(const Member& member, const StepLinear& map, ActivationRows in, int64_t N, ActivationRows to) const;
  void add(const Member& member, const Pass& pass, int64_t layer, at::Tensor StepLayer::* output_norm,
           const Activations& from);
  void mix(const Member& member, const Pass& pass, int64_t layer);
  void attention(const Member& member, const Pass& pass, int64_t layer);
  void mlp(const Member& member, const Pass& pass, int64_t layer);

  const CpuKernels& kernels = cpu_kernels();
  ModelConfig config;
  const int64_t H, Hkv, D;
  StepWeights weights;
  StepMixer mixer;
  GateActivation activation;
  Activations normed, q, k, v, mixed, out, gates, ups;
  Activations cos, sin;             // of each RoPE, one after the other
  std::array<Activations, 3> low;   // x A^T, of up to three maps that read the same
  std::vector<at::Tensor> scratch;  // of each thread
  at::Tensor logits;
};

StepRows::Implementation::Implementation(const CausalLM& model)
    : config(model.config()),
      H(config.num_attention_heads),
      Hkv(config.num_key_value_heads),
      D(config.head_dim),
      weights(model),
      mixer(model),
      activation(activation_named(config.hidden_act)),
      normed(config.hidden_size),
      q(H * D),
      k(Hkv * D),
      v(Hkv * D),
      mixed(H * D),
      out(config.hidden_size),
      gates(config.intermediate_size),
      ups(config.intermediate_size),
      cos(static_cast<int64_t>(weights.frequencies.size()) * D / 2),
      sin(static_cast<int64_t>(weights.frequencies.size()) * D / 2),
      low{Activations(0), Activations(0), Activations(0)} {
  low.fill(Activations(weights.largest_rank));
  for (int i = 0; i < at::get_num_threads(); ++i) scratch.push_back(at::zeros({mixer.scratch_bytes()}, at::kByte));
}

void StepRows::Implementation::begin(Pass& pass) {
  for (size_t i = 0; i < pass.texts.size(); ++i) {
    const TextRows& text = pass.texts[i];
    TORCH_INTERNAL_ASSERT(text.begin == pass.N);
    if (pass.groups.empty() || pass.groups.back().depth != text.depth)
      pass.groups.push_back({text.depth, text.begin, 0});
    pass.groups.back().count += text.count;
    for (int64_t t = 0; t < text.count; ++t) pass.place.emplace_back(i, text.seen + t);
    pass.N += text.count;
    for (int64_t depth = text.depth; depth < text.depth + pass.layers; ++depth)
      mixer.prepare(depth, 1, text.seen + text.count, text.text->layers[static_cast<size_t>(depth)]);
  }
  for (Activations* buffer : {&normed, &q, &k, &v, &mixed, &out, &gates, &ups, &cos, &sin, &low[0], &low[1], &low[2]})
    buffer->reserve(pass.N);
}

void StepRows::Implementation::run(Pass pass) {
  begin(pass);
  run_team([&](int64_t index, int64_t count) { run_member({index, count}, pass); });
}

void StepRows::Implementation::run_member(const Member& member, const Pass& pass) {
  rotate(member, pass);
  for (int64_t layer = 0; layer < pass.layers; ++layer) {
    attention(member, pass, layer);
    if (!pass.only_remember) mlp(member, pass, layer);
  }
}

void StepRows::Implementation::attention(const Member& member, const Pass& pass, int64_t layer) {
  norm(member, pass, layer, &StepLayer::input_norm, normed);
  if (!pass.only_remember) low_rank(member, pass, layer, &StepLayer::q, normed, 0);
  low_rank(member, pass, layer, &StepLayer::k, normed, 1);
  low_rank(member, pass, layer, &StepLayer::v, normed, 2);
  team_barrier();
  if (!pass.only_remember) linear(member, pass, layer, &StepLayer::q, normed, 0, q);
  linear(member, pass, layer, &StepLayer::k, normed, 1, k);
  linear(member, pass, layer, &StepLayer::v, normed, 2, v);
  team_barrier();
  mix(member, pass, layer);
  team_barrier();
  if (pass.only_remember) return;
  if (weights.largest_rank > 0) {
    low_rank(member, pass, layer, &StepLayer::o, mixed, 0);
    team_barrier();
  }
  linear(member, pass, layer, &StepLayer::o, mixed, 0, out);
  add(member, pass, layer, &StepLayer::attention_output_norm, out);
  team_barrier();
}

void StepRows::Implementation::mlp(const Member& member, const Pass& pass, int64_t layer) {
  norm(member, pass, layer, &StepLayer::mlp_norm, normed);
  low_rank(member, pass, layer, &StepLayer::gate, normed, 0);
  low_rank(member, pass, layer, &StepLayer::up, normed, 1);
  team_barrier();
  linear(member, pass, layer, &StepLayer::gate, normed, 0, gates);
  linear(member, pass, layer, &StepLayer::up, normed, 1, ups);
  const auto [first, last] = member.share(config.intermediate_size);
  for (int64_t i = 0; i < pass.N; ++i) kernels.step.gate_by(activation, ups[i] + first, last - first, gates[i] + first);
  team_barrier();
  if (weights.largest_rank > 0) {
    low_rank(member, pass, layer, &StepLayer::down, gates, 0);
    team_barrier();
  }
  linear(member, pass, layer, &StepLayer::down, gates, 0, out);
  add(member, pass, layer, &StepLayer::mlp_output_norm, out);
  team_barrier();
}

void StepRows::Implementation::rotate(const Member& member, const Pass& pass) {
  const auto [first, last] = member.share(pass.N);
  for (int64_t i = first; i < last; ++i) {
    float *to_cos = cos[i], *to_sin = sin[i];
    for (const std::vector<float>& rope : weights.frequencies)
      for (const float frequency : rope) {
        const float angle = static_cast<float>(pass.place[static_cast<size_t>(i)].second) * frequency;
        *to_cos++ = std::cos(angle);
        *to_sin++ = std::sin(angle);
      }
  }
}

// The member's rows.
void StepRows::Implementation::norm(const Member& member, const Pass& pass, int64_t layer,
                                    at::Tensor StepLayer::* weight, const Activations& to) {
  const auto [first, last] = member.share(pass.N);
  for (const DepthGroup& group : pass.groups) {
    const float* of_depth = (weights.layers[group.depth + layer].*weight).const_data_ptr<float>();
    for (int64_t i = std::max(first, group.begin); i < std::min(last, group.begin + group.count); ++i)
      kernels.step.rms_norm(pass.row(i), of_depth, config.hidden_size, static_cast<float>(config.norm_eps),
                            config.family->norm_adds_one, to[i]);
  }
}

// x A^T of the member's rows, each with its depth's A.
void StepRows::Implementation::low_rank(const Member& member, const Pass& pass, int64_t layer, Map map,
                                        const Activations& in, size_t slot) {
  const auto [first, last] = member.share(pass.N);
  for (const DepthGroup& group : pass.groups) {
    const StepLinear& of_depth = weights.layers[group.depth + layer].*map;
    const int64_t rank = of_depth.rank(), end = std::min(last, group.begin + group.count);
    if (rank == 0) continue;
    const WeightView a = {Element::kFloat, of_depth.lora_a.const_data_ptr(), rank, of_depth.view.columns, nullptr};
    for (int64_t i = std::max(first, group.begin); i < end; i += kTogether)
      kernels.step.dot_rows(a, 0, rank, std::min(kTogether, end - i), in.from(i), low[slot].from(i));
  }
}

// The member's columns of x W^T + bias, for all rows: a block of the weight stays near while they pass.
void StepRows::Implementation::products(const Member& member, const StepLinear& map, ActivationRows in, int64_t N,
                                        ActivationRows to) const {
  const auto [first, last] = member.share(map.view.rows);
  const int64_t row_bytes = map.view.columns * (map.view.element == Element::kBFloat16 ? 2 : 4);
  const int64_t block = std::max<int64_t>(8, kBlockBytes / row_bytes / 8 * 8);
  for (int64_t begin = first; begin < last; begin += block)
    for (int64_t i = 0; i < N; i += kTogether)
      kernels.step.dot_rows(map.view, begin, std::min(last, begin + block), std::min(kTogether, N - i),
                            {in.data + i * in.stride, in.stride}, {to.data + i * to.stride, to.stride});
}

void StepRows::Implementation::linear(const Member& member, const Pass& pass, int64_t layer, Map map,
                                      const Activations& in, size_t slot, const Activations& to) {
  const bool of_depths = config.recursive && config.recursive->depth_biases;
  if (!of_depths)
    products(member, weights.layers[pass.groups.front().depth + layer].*map, in.from(0), pass.N, to.from(0));
  for (const DepthGroup& group : pass.groups) {
    if (of_depths)  // biases: the weight is read for each depth
      products(member, weights.layers[group.depth + layer].*map, in.from(group.begin), group.count,
               to.from(group.begin));
    const StepLinear& of_depth = weights.layers[group.depth + layer].*map;
    if (of_depth.rank() == 0) continue;
    const auto [first, last] = member.share(of_depth.view.rows);
    kernels.step.add_low_rank(of_depth.upper(), first, last, group.count, low[slot].from(group.begin),
                              to.from(group.begin));
  }
}

// To the residual stream: the member's columns, or where they are normed first, for which all must be there, its rows.
void StepRows::Implementation::add(const Member& member, const Pass& pass, int64_t layer,
                                   at::Tensor StepLayer::* output_norm, const Activations& from) {
  if (config.family->output_norms) {
    team_barrier();
    for (const DepthGroup& group : pass.groups) {
      const at::Tensor& weight = weights.layers[group.depth + layer].*output_norm;
      const auto [first, last] = member.share(pass.N);
      for (int64_t i = std::max(first, group.begin); i < std::min(last, group.begin + group.count); ++i) {
        kernels.step.rms_norm(from[i], weight.const_data_ptr<float>(), config.hidden_size, weights.norm_eps,
                              weights.norm_adds_one, normed[i]);
        for (int64_t d = 0; d < config.hidden_size; ++d) pass.row(i)[d] += normed[i][d];
      }
    }
    return;
  }
  const auto [first, last] = member.share(config.hidden_size);
  for (int64_t i = 0; i < pass.N; ++i)
    for (int64_t d = first; d < last; ++d) pass.row(i)[d] += from[i][d];
}

// Tokens of a text follow each other; texts and heads are independent.
void StepRows::Implementation::mix(const Member& member, const Pass& pass, int64_t layer) {
  const auto [first, last] = member.share(std::ssize(pass.texts) * Hkv);
  for (int64_t job = first; job < last; ++job) {
    const TextRows& text = pass.texts[static_cast<size_t>(job / Hkv)];
    const int64_t depth = text.depth + layer;
    const bool reads = !pass.only_remember || !config.is_softmax_layer(depth);  // the others' state is made on the way
    const StepLayer& of = weights.layers[static_cast<size_t>(depth)];
    const int64_t h = job % Hkv, group = config.group_size(), angles = config.has_local_rope(depth) ? D / 2 : 0;
    for (int64_t i = text.begin; i < text.begin + text.count; ++i) {
      if (reads) weights.finish_heads(of.query_norm, weights.query_factor, group, q[i] + h * group * D);
      weights.finish_heads(of.key_norm, 1, 1, k[i] + h * D);
      mixer.head(depth, 0, h,
                 {.q = reads ? q[i] : nullptr,
                  .k = k[i],
                  .v = v[i],
                  .o = mixed[i],
                  .cos = cos[i] + angles,
                  .sin = sin[i] + angles,
                  .seen = pass.place[static_cast<size_t>(i)].second},
                 text.text->layers[static_cast<size_t>(depth)],
                 scratch[static_cast<size_t>(member.index)].mutable_data_ptr());
    }
  }
}

std::vector<RowChoice> StepRows::Implementation::choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows) {
  const int64_t n = std::ssize(rows), V = config.vocab_size;
  normed.reserve(n);
  if (!logits.defined() || logits.size(0) < n) logits = at::empty({n, V}, at::kFloat);
  float* const to = logits.mutable_data_ptr<float>();
  std::vector<RowChoice> out(rows.size());
  run_team([&](int64_t index, int64_t count) {
    const Member member{index, count};
    const auto [first, last] = member.share(n);
    for (int64_t i = first; i < last; ++i)
      kernels.step.rms_norm(x.const_data_ptr<float>() + rows[i].row * config.hidden_size,
                            weights.norm.const_data_ptr<float>(), config.hidden_size,
                            static_cast<float>(config.norm_eps), config.family->norm_adds_one, normed[i]);
    team_barrier();
    products(member, weights.head, normed.from(0), n, {to, V});
    team_barrier();
    for (int64_t i = first; i < last; ++i) out[i] = kernels.rows.choose(Element::kFloat, to + i * V, V, rows[i].sums);
  });
  for (const RowChoice& choice : out) check_finite(choice);
  return out;
}

bool StepRows::supports(const CausalLM& model) { return StepDecoder::supports(model); }

StepRows::StepRows(const CausalLM& model) : it_(std::make_unique<Implementation>(model)) {}
StepRows::~StepRows() = default;

at::Tensor StepRows::embed(std::span<const int64_t> ids) const {
  const int64_t hidden = it_->config.hidden_size;
  at::Tensor x = at::empty({std::ssize(ids), hidden}, at::kFloat);
  float* row = x.mutable_data_ptr<float>();
  for (const int64_t id : ids) {
    it_->kernels.step.widen_row(it_->weights.embedding.view, id, row);
    for (int64_t d = 0; it_->weights.embedding_scale != 1 && d < hidden; ++d) row[d] *= it_->weights.embedding_scale;
    row += hidden;
  }
  return x;
}

void StepRows::run(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x) {
  it_->run({texts, layers, 0, false, {x.mutable_data_ptr<float>(), x.size(1)}});
}

void StepRows::remember(const std::vector<TextRows>& texts, int64_t layers, const at::Tensor& x) {
  it_->run({texts, layers, 0, true, {x.mutable_data_ptr<float>(), x.size(1)}});
}

std::vector<RowChoice> StepRows::choose(const at::Tensor& x, const std::vector<ChoiceRow>& rows) {
  return it_->choose(x, rows);
}

}  // namespace liger
