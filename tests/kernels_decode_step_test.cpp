// The decoding step's CUDA kernel, compiled for the host, against the definition token by token.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>

#include <optional>

#include "decode_step.h"
#include "kernel_testing.h"
#include "nn/cuda_calls.h"
#include "nn/reference_mix.h"

namespace liger {
namespace {

using kernels::DecodeStep;
using kernels::Type;

struct Shape {
  std::vector<int64_t> seen;  // of each sequence
  int64_t H, Hkv, D, window, sinks;
};

MixSettings settings_of(const char* name, const Shape& shape) {
  const Structure* structure = find_structure(name);
  return {{.structure = structure->window_only ? nullptr : structure, .layer = 1, .layers = 4},
          shape.window,
          shape.sinks,
          0.3};
}

// What a layer remembers, at random: also in slots that nothing has been written to, which may not count.
LayerState random_state(const MixSettings& s, const Shape& shape) {
  LayerState out;
  const int64_t S = std::ssize(shape.seen);
  if (s.recurrence.structure)
    for (const StateShape& state : state_shapes(*s.recurrence.structure, shape.D))
      out.recurrent.push_back(at::randn({S, shape.Hkv, state.rows, state.columns}));
  if (s.window > 0) {
    out.keys = at::randn({S, shape.Hkv, s.window + s.sinks, shape.D});
    out.values = at::randn(out.keys.sizes());
  }
  return out;
}
LayerState exact(const LayerState& state) {
  LayerState out;
  for (const at::Tensor& x : state.recurrent) out.recurrent.push_back(x.to(at::kDouble));
  if (state.keys.defined()) {
    out.keys = state.keys.to(at::kDouble);
    out.values = state.values.to(at::kDouble);
  }
  return out;
}

// One token of each sequence, of the kernel's own precision but in float32.
MixInputs random_token(const Shape& shape, Type type) {
  const int64_t S = std::ssize(shape.seen);
  const auto randn = [&](int64_t heads) { return at::randn({S, heads, shape.D}).to(scalar_type(type)).to(at::kFloat); };
  const at::Tensor angles = at::randn({S, shape.D / 2}) * 10;
  return {randn(shape.H),
          randn(shape.Hkv),
          randn(shape.Hkv),
          {at::cos(angles), at::sin(angles)},
          std::vector<int64_t>(static_cast<size_t>(S), 1),
          {}};
}

// A layer's memory as the kernel has it.
class Kernel {
 public:
  Kernel(const MixSettings& settings, const Shape& shape, Type type, const LayerState& before)
      : shape_(shape), type_(type), seen_(at::tensor(shape.seen)) {
    args_.type = type;
    args_.sequences = std::ssize(shape.seen);
    args_.H = shape.H;
    args_.Hkv = shape.Hkv;
    args_.D = shape.D;
    for (const at::Tensor& state : before.recurrent) {
      states_.push_back(std::make_unique<Guarded>(state));
      args_.states[states_.size() - 1] = states_.back()->as<float>();
    }
    if (const Structure* structure = settings.recurrence.structure) {
      args_.features = kernel_features(settings.recurrence, shape.Hkv, kKernelDevice);
      args_.delta_rule = structure->delta_rule;
      args_.reads_before_decay = structure->reads_before_decay;
      args_.normalizes = structure->normalizes();
      args_.slots = structure->slots;
    }
    args_.window = settings.window;
    args_.sinks = settings.sinks;
    args_.share = static_cast<float>(settings.window_share);
    if (settings.window > 0) {
      keys_ = std::make_unique<Guarded>(before.keys);
      values_ = std::make_unique<Guarded>(before.values);
      args_.ring_keys = keys_->as<float>();
      args_.ring_values = values_->as<float>();
      args_.seen = seen_.as<int64_t>();
    }
  }

  at::Tensor step(const MixInputs& in) {
    const auto typed = [&](const at::Tensor& x) { return x.to(scalar_type(type_)); };
    const Guarded q(typed(in.q)), k(typed(in.k)), v(typed(in.v)), cos(in.rotation.cos), sin(in.rotation.sin);
    const Guarded o(typed(at::full(in.q.sizes(), NAN)));
    args_.q = q.as<void>();
    args_.k = k.as<void>();
    args_.v = v.as<void>();
    args_.cos = shape_.window > 0 ? cos.as<float>() : nullptr;
    args_.sin = shape_.window > 0 ? sin.as<float>() : nullptr;
    args_.o = o.as<void>();
    const char* problem = kernels::decode_step(args_, nullptr);
    EXPECT_EQ(problem, nullptr) << problem;
    problem = kernels::decode_advance(seen_.as<int64_t>(), args_.sequences, nullptr);
    EXPECT_EQ(problem, nullptr) << problem;
    return o.values();
  }
  LayerState state() const {
    LayerState out;
    for (const auto& state : states_) out.recurrent.push_back(state->values());
    if (keys_) {
      out.keys = keys_->values();
      out.values = values_->values();
    }
    return out;
  }
  at::Tensor seen() const { return seen_.values(); }

 private:
  Shape shape_;
  Type type_;
  DecodeStep args_ = {};
  Guarded seen_;
  std::vector<std::unique_ptr<Guarded>> states_;
  std::unique_ptr<Guarded> keys_, values_;
};

void expect_equal_to_definition(const char* name, const Shape& shape, Type type, int steps) {
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  const MixSettings settings = settings_of(name, shape);
  const LayerState before = random_state(settings, shape);
  LayerState expected = exact(before);
  Kernel kernel(settings, shape, type, before);
  std::vector<int64_t> seen = shape.seen;
  for (int step = 0; step < steps; ++step) {
    SCOPED_TRACE(step);
    MixInputs in = random_token(shape, type);
    const at::Tensor got = kernel.step(in);
    for (at::Tensor* x : {&in.q, &in.k, &in.v}) *x = x->to(at::kDouble);
    const at::Tensor o = reference_mix(settings, in, seen, expected);
    testing::expect_close(got, o, type == Type::kFloat ? 1e-5 : 1e-2, "o");
    for (int64_t& n : seen) ++n;
  }
  EXPECT_TRUE(kernel.seen().equal(at::tensor(seen)));
  const LayerState after = kernel.state();
  for (size_t i = 0; i < after.recurrent.size(); ++i)
    testing::expect_close(after.recurrent[i], expected.recurrent[i], 1e-5, "state");
  if (settings.window > 0) {
    testing::expect_close(after.keys, expected.keys, 1e-5, "keys");
    testing::expect_close(after.values, expected.values, 1e-5, "values");
  }
}

class DecodeStepKernel : public ::testing::TestWithParam<std::tuple<const char*, Type>> {};

TEST_P(DecodeStepKernel, EqualsTheDefinition) {
  const auto& [name, type] = GetParam();
  // The ring wraps and sinks leave the window during these steps; a new sequence has an empty one.
  expect_equal_to_definition(name, {{0, 7, 9, 43}, 4, 2, 64, 8, 3}, type, type == Type::kFloat ? 3 : 2);
  if (type != Type::kHalf) expect_equal_to_definition(name, {{2, 199}, 2, 1, 128, 75, 0}, type, 1);  // not all at once
  if (type != Type::kBFloat16) expect_equal_to_definition(name, {{63}, 1, 1, 256, 65, 3}, type, 1);
  if (type == Type::kFloat && std::string(name) != "swa")
    expect_equal_to_definition(name, {{5}, 4, 2, 64, 0, 0}, type, 2);  // recurrence only
}

constexpr const char* kNames[] = {
    "gla",       "hgrn2",  "gsa",    "rwkv6", "gated-retention", "mamba2",         "mlstm",
    "lightning", "retnet", "linear", "kda",   "deltanet",        "gated-deltanet", "swa"};
INSTANTIATE_TEST_SUITE_P(Structures, DecodeStepKernel,
                         ::testing::Combine(::testing::ValuesIn(kNames),
                                            ::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf)));

TEST(DecodeStepKernel, KnowsEveryStructure) {
  for (const Structure& structure : structures())
    EXPECT_NE(std::find(std::begin(kNames), std::end(kNames), std::string(structure.name)), std::end(kNames))
        << structure.name;
}

TEST(DecodeStepKernel, TakesGroupsOfAnySize) {
  for (const char* name : {"gla", "kda", "gsa", "mlstm", "rwkv6"})
    for (const int64_t group : {3, 6}) {
      SCOPED_TRACE(name);
      expect_equal_to_definition(name, {{70}, group, 1, 64, 70, 2}, Type::kFloat, 1);
    }
  expect_equal_to_definition("kda", {{300}, 7, 1, 256, 100, 0}, Type::kFloat, 1);
}

TEST(DecodeStepKernel, ReadsEveryWindow) {
  expect_equal_to_definition("gla", {{0, 1, 4}, 1, 1, 64, 1, 0}, Type::kFloat, 2);     // the token alone
  expect_equal_to_definition("swa", {{0, 1, 2, 5}, 1, 1, 64, 2, 5}, Type::kFloat, 6);  // more sinks than window
  expect_equal_to_definition("swa", {{299}, 2, 1, 64, 300, 0}, Type::kFloat, 1);
}

// So many heads that a block has all columns of one.
TEST(DecodeStepKernel, TakesManyHeads) {
  expect_equal_to_definition("kda", {{0}, 128, 128, 128, 0, 0}, Type::kBFloat16, 1);
}

TEST(DecodeStepKernelThreads, OrderChangesNothing) {
  at::NoGradGuard no_grad;
  const Shape shape = {{90}, 5, 1, 128, 80, 2};
  for (const char* name : {"gla", "kda", "gsa", "mlstm"}) {
    const MixSettings settings = settings_of(name, shape);
    const auto run = [&](unsigned order) {
      at::manual_seed(1);
      Kernel kernel(settings, shape, Type::kBFloat16, random_state(settings, shape));
      cuda_on_host::thread_order = order;
      std::vector<at::Tensor> all = {kernel.step(random_token(shape, Type::kBFloat16))};
      cuda_on_host::thread_order = 0;
      const LayerState state = kernel.state();
      all.insert(all.end(), {state.keys, state.values});
      all.insert(all.end(), state.recurrent.begin(), state.recurrent.end());
      return all;
    };
    const std::vector<at::Tensor> first = run(0);
    for (const unsigned order : {1u, 2u, 3u}) {
      const std::vector<at::Tensor> other = run(order);
      for (size_t i = 0; i < first.size(); ++i)
        EXPECT_TRUE(other[i].equal(first[i])) << name << ", order " << order << ", tensor " << i;
    }
  }
}

TEST(DecodeStepKernel, SaysWhatItCannotRun) {
  float nothing = 0;
  DecodeStep args = {};
  args.sequences = 1;
  args.H = args.Hkv = 2;
  args.D = 64;
  args.states[0] = &nothing;
  EXPECT_EQ(kernels::decode_step_refuses(args), nullptr);
  const auto expect = [](const DecodeStep& changed, const char* reason) {
    EXPECT_STREQ(kernels::decode_step(changed, nullptr), reason);
  };
  DecodeStep changed = args;
  changed.D = 80;
  expect(changed, "the size of a head must be 64, 128 or 256");
  changed = args;
  changed.H = 3;
  expect(changed, "query heads must be a multiple of key/value heads");
  changed = args;
  changed.states[0] = nullptr;
  expect(changed, "neither a window nor a state to read");
  changed = args;
  changed.window = -1;
  expect(changed, "a window and its sinks have no negative sizes");
  changed.window = 100'000;
  expect(changed, "the window's scores do not fit into shared memory");
  changed = args;
  changed.delta_rule = changed.slots = true;
  expect(changed, "at most one of delta rule, reading before the decay, normalizer and slots");
}

}  // namespace
}  // namespace liger
