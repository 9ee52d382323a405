// Sliding-window attention's CUDA sources, compiled for the host, against the definition (window_attention in ops.h).

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <numeric>
#include <optional>

#include "kernel_testing.h"
#include "liger/ops/ops.h"
#include "window_attention.h"

namespace liger {
namespace {

using kernels::Type;

constexpr double kShare = 0.625, kOtherShare = 0.375;  // exact in every type

struct Shape {
  std::vector<int64_t> lengths;
  int64_t H, Hkv, D, window, sinks;

  int64_t tokens() const { return std::accumulate(lengths.begin(), lengths.end(), int64_t{0}); }
};
void PrintTo(const Shape& s, std::ostream* out) {
  for (const int64_t length : s.lengths) *out << length << " ";
  *out << "tokens, heads " << s.H << ":" << s.Hkv << " of " << s.D << ", window " << s.window << "+" << s.sinks;
}

/// Inputs of a kernel's own precision, but in float64; q, k, v [N, heads, D].
struct Inputs {
  at::Tensor q, k, v, other, d_o;
  Rotation rotation;
};
Inputs make_inputs(const Shape& s, Type type) {
  at::manual_seed(1);
  const auto randn = [&](int64_t heads) {
    return at::randn({s.tokens(), heads, s.D}).to(scalar_type(type)).to(at::kDouble);
  };
  Inputs in = {randn(s.H), randn(s.Hkv), randn(s.Hkv), randn(s.H), randn(s.H), {}};
  const at::Tensor angles = at::rand({s.tokens(), s.D / 2}) * 6.3;
  in.rotation = {at::cos(angles), at::sin(angles)};
  return in;
}
/// Rows begin .. begin + length - 1 of everything.
Inputs part_of(const Inputs& in, int64_t begin, int64_t length) {
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, length); };
  return {part(in.q),     part(in.k),   part(in.v),
          part(in.other), part(in.d_o), {part(in.rotation.cos), part(in.rotation.sin)}};
}
std::vector<int64_t> starts_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> starts = {0};
  for (const int64_t length : lengths) starts.push_back(starts.back() + length);
  return starts;
}

/// One sequence's window output by the definition.
at::Tensor one_sequence(const Shape& s, const Inputs& in) {
  const at::Tensor q = rotate(in.q, in.rotation), k = rotate(in.k, in.rotation);
  WindowContext context;
  if (const int64_t sinks = std::min(s.sinks, k.size(0)); sinks > 0) {
    context.sink_keys = k.narrow(0, 0, sinks).unsqueeze(0);
    context.sink_values = in.v.narrow(0, 0, sinks).unsqueeze(0);
  }
  return window_attention(q.unsqueeze(0), k.unsqueeze(0), in.v.unsqueeze(0), s.window, context).squeeze(0);
}
at::Tensor definition(const Shape& s, const Inputs& in) {
  std::vector<at::Tensor> out;
  for (size_t i = 0; i < s.lengths.size(); ++i)
    if (s.lengths[i] > 0) out.push_back(one_sequence(s, part_of(in, starts_of(s.lengths)[i], s.lengths[i])));
  return at::cat(out);
}

at::Tensor typed(const at::Tensor& x, Type type) { return x.to(scalar_type(type)); }
at::Tensor nothing(const at::Tensor& like, Type type) {
  return at::full(like.sizes(), NAN, like.options().dtype(scalar_type(type)));
}

struct Rings {
  at::Tensor keys, values;    // [sequences, Hkv, window + sinks, D] float32
  std::vector<int64_t> seen;  // tokens before the first one
};
struct Output {
  at::Tensor o, lse;
};

/// o alone, or mixed with `other`, which then lies where o does.
Output run_forward(const Shape& s, const Inputs& in, Type type, bool mixed = false, bool packed = true,
                   const std::optional<Rings>& rings = std::nullopt) {
  const Guarded q(typed(in.q, type)), k(typed(in.k, type)), v(typed(in.v, type));
  const Guarded cos(in.rotation.cos), sin(in.rotation.sin);
  const Guarded o(mixed ? typed(in.other, type) : nothing(in.q, type));
  const Guarded lse(nothing(in.q.select(2, 0), Type::kFloat));
  const Guarded starts(at::tensor(starts_of(s.lengths))), seen(at::tensor(rings ? rings->seen : s.lengths));
  const Guarded ring_keys(rings ? rings->keys : at::Tensor(at::zeros({1}))),
      ring_values(rings ? rings->values : at::Tensor(at::zeros({1})));
  kernels::WindowAttentionForward args = {};
  args.type = type;
  args.sequences = std::ssize(s.lengths);
  args.H = s.H;
  args.Hkv = s.Hkv;
  args.D = s.D;
  args.N = s.tokens();
  args.starts = packed ? starts.as<int64_t>() : nullptr;
  args.window = s.window;
  args.sinks = s.sinks;
  args.q = q.as<void>();
  args.k = k.as<void>();
  args.v = v.as<void>();
  args.cos = cos.as<float>();
  args.sin = sin.as<float>();
  if (rings) {
    args.seen = seen.as<int64_t>();
    args.ring_keys = ring_keys.as<float>();
    args.ring_values = ring_values.as<float>();
  }
  args.share = mixed ? kShare : 1;
  args.other = mixed ? o.as<void>() : nullptr;
  args.other_share = kOtherShare;
  args.o = o.as<void>();
  args.lse = lse.as<float>();
  const char* problem = kernels::window_attention_fwd(args, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;
  return {o.values(), lse.values()};
}

double output_tolerance(Type type) { return type == Type::kFloat ? 1e-5 : 1e-2; }
double gradient_tolerance(Type type) { return type == Type::kFloat ? 1e-5 : 2e-2; }

const auto kTypes = ::testing::Values(Type::kFloat, Type::kBFloat16, Type::kHalf);

class WindowAttentionKernel : public ::testing::TestWithParam<std::tuple<Type, Shape>> {};

TEST_P(WindowAttentionKernel, EqualsTheDefinition) {
  at::NoGradGuard no_grad;
  const auto& [type, shape] = GetParam();
  const Inputs in = make_inputs(shape, type);
  const at::Tensor expected = definition(shape, in);
  testing::expect_close(run_forward(shape, in, type).o, expected, output_tolerance(type), "o");
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, WindowAttentionKernel,
    ::testing::Combine(kTypes, ::testing::Values(Shape{{1}, 1, 1, 64, 1, 0}, Shape{{63}, 2, 2, 64, 17, 4},
                                                 Shape{{65}, 4, 1, 64, 65, 4}, Shape{{257}, 2, 1, 64, 100, 4},
                                                 Shape{{90}, 4, 2, 128, 33, 3}, Shape{{70}, 3, 1, 128, 200, 4},
                                                 Shape{{50}, 2, 1, 256, 20, 2}, Shape{{70}, 1, 1, 64, 9, 40},
                                                 Shape{{20, 1, 0, 75, 16}, 2, 1, 64, 17, 4})));

TEST(WindowAttentionKernel, MixesWithAnotherOutputInItsPlace) {
  at::NoGradGuard no_grad;
  for (const Type type : {Type::kFloat, Type::kBFloat16, Type::kHalf}) {
    const Shape shape = {{40, 40}, 4, 1, 64, 17, 2};
    const Inputs in = make_inputs(shape, type);
    const at::Tensor expected = definition(shape, in) * kShare + in.other * kOtherShare;
    for (const bool packed : {true, false})
      testing::expect_close(run_forward(shape, in, type, true, packed).o, expected, output_tolerance(type), "o");
  }
}

TEST(WindowAttentionKernel, GivesTheLogOfTheSumOfScores) {
  at::NoGradGuard no_grad;
  const Shape shape = {{30}, 2, 1, 64, 64, 0};
  const Inputs in = make_inputs(shape, Type::kFloat);
  const at::Tensor q = rotate(in.q, in.rotation), k = rotate(in.k, in.rotation).expand({30, 2, 64});
  at::Tensor scores = at::einsum("thd,shd->hts", {q, k}) / 8;
  scores.masked_fill_(at::ones({30, 30}).triu(1).to(at::kBool), -INFINITY);
  testing::expect_close(run_forward(shape, in, Type::kFloat).lse, at::logsumexp(scores, {2}).t(), 1e-5, "lse");
}

// A text in pieces: what is remembered of one is what the next one reads.
void remember(const Shape& s, const Inputs& in, Type type, Rings& rings) {
  const Guarded k(typed(in.k, type)), v(typed(in.v, type)), cos(in.rotation.cos), sin(in.rotation.sin);
  const Guarded keys(rings.keys), values(rings.values);
  const Guarded starts(at::tensor(starts_of(s.lengths))), seen(at::tensor(rings.seen));
  kernels::WindowRemember args = {};
  args.type = type;
  args.sequences = std::ssize(s.lengths);
  args.Hkv = s.Hkv;
  args.D = s.D;
  args.N = s.tokens();
  args.starts = starts.as<int64_t>();
  args.window = s.window;
  args.sinks = s.sinks;
  args.k = k.as<void>();
  args.v = v.as<void>();
  args.cos = cos.as<float>();
  args.sin = sin.as<float>();
  args.seen = seen.as<int64_t>();
  args.ring_keys = keys.as<float>();
  args.ring_values = values.as<float>();
  const char* problem = kernels::window_remember(args, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;
  rings.keys = keys.values();
  rings.values = values.values();
  for (size_t i = 0; i < s.lengths.size(); ++i) rings.seen[i] += s.lengths[i];
}
// Positions 0 .. seen - 1 of x [seen, Hkv, D] where they lie in a ring [Hkv, window + sinks, D].
at::Tensor ring_of(const Shape& s, const at::Tensor& x, int64_t seen) {
  at::Tensor ring = at::full({s.Hkv, s.window + s.sinks, s.D}, -7.0);  // what no token was put into
  for (int64_t position = 0; position < seen; ++position) {
    ring.select(1, position % s.window).copy_(x[position]);
    if (position < s.sinks) ring.select(1, s.window + position).copy_(x[position]);
  }
  return ring;
}

class WindowAttentionKernelInPieces : public ::testing::TestWithParam<std::tuple<Type, int64_t>> {};

TEST_P(WindowAttentionKernelInPieces, EqualTheWhole) {
  at::NoGradGuard no_grad;
  const auto& [type, D] = GetParam();
  // Two texts, the pieces of each: shorter than the sinks, than the window, longer, empty.
  const std::vector<std::vector<int64_t>> pieces = {{2, 9}, {1, 0}, {5, 30}, {40, 3}, {7, 7}};
  Shape shape = {{55, 49}, 2, 1, D, 12, 4};
  const Inputs in = make_inputs(shape, type);
  const at::Tensor expected = definition(shape, in), keys = rotate(in.k, in.rotation);
  const at::Tensor blank = at::full({2, shape.Hkv, shape.window + shape.sinks, D}, -7.0f);
  Rings rings = {blank, blank.clone(), {0, 0}};
  for (const std::vector<int64_t>& lengths : pieces) {
    std::vector<Inputs> parts;
    std::vector<at::Tensor> of_whole;
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t begin = i * shape.lengths[0] + rings.seen[i];
      parts.push_back(part_of(in, begin, lengths[i]));
      of_whole.push_back(expected.narrow(0, begin, lengths[i]));
    }
    const auto both = [&](auto member) { return at::cat({member(parts[0]), member(parts[1])}); };
    const Inputs piece = {
        both([](const Inputs& x) { return x.q; }),
        both([](const Inputs& x) { return x.k; }),
        both([](const Inputs& x) { return x.v; }),
        {},
        {},
        {both([](const Inputs& x) { return x.rotation.cos; }), both([](const Inputs& x) { return x.rotation.sin; })}};
    Shape now = shape;
    now.lengths = lengths;
    testing::expect_close(run_forward(now, piece, type, false, true, rings).o, at::cat(of_whole),
                          output_tolerance(type), "o");
    remember(now, piece, type, rings);
    for (int64_t i = 0; i < 2; ++i) {
      const int64_t begin = i * shape.lengths[0], seen = rings.seen[i];
      testing::expect_close(rings.keys[i], ring_of(shape, keys.narrow(0, begin, seen), seen), 1e-6, "keys");
      testing::expect_close(rings.values[i], ring_of(shape, in.v.narrow(0, begin, seen), seen), 1e-6, "values");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, WindowAttentionKernelInPieces, ::testing::Combine(kTypes, ::testing::Values(64, 128)));

struct Gradients {
  at::Tensor dq, dk, dv;
};
Gradients run_backward(const Shape& s, const Inputs& in, Type type, const at::Tensor& lse, bool accumulate,
                       bool packed = true) {
  const Guarded q(typed(in.q, type)), k(typed(in.k, type)), v(typed(in.v, type)), d_o(typed(in.d_o, type));
  const Guarded cos(in.rotation.cos), sin(in.rotation.sin), sums(lse);
  const auto before = [&](const at::Tensor& like) { return accumulate ? typed(like, type) : nothing(like, type); };
  const Guarded dq(before(in.q)), dk(before(in.k)), dv(before(in.v));
  const Guarded starts(at::tensor(starts_of(s.lengths)));
  kernels::WindowAttentionBackward args = {};
  args.type = type;
  args.sequences = std::ssize(s.lengths);
  args.H = s.H;
  args.Hkv = s.Hkv;
  args.D = s.D;
  args.N = s.tokens();
  args.starts = packed ? starts.as<int64_t>() : nullptr;
  args.window = s.window;
  args.sinks = s.sinks;
  args.q = q.as<void>();
  args.k = k.as<void>();
  args.v = v.as<void>();
  args.cos = cos.as<float>();
  args.sin = sin.as<float>();
  args.lse = sums.as<float>();
  args.share = kShare;
  args.d_o = d_o.as<void>();
  args.accumulate = accumulate;
  args.dq = dq.as<void>();
  args.dk = dk.as<void>();
  args.dv = dv.as<void>();
  const Guarded workspace(at::full({kernels::window_attention_bwd_workspace(args) / 4}, NAN));
  args.workspace = workspace.as<float>();
  const char* problem = kernels::window_attention_bwd(args, nullptr);
  EXPECT_EQ(problem, nullptr) << problem;
  return {dq.values(), dk.values(), dv.values()};
}
Gradients gradients_of_definition(const Shape& s, Inputs in) {
  for (at::Tensor* x : {&in.q, &in.k, &in.v}) x->requires_grad_();
  (definition(s, in) * in.d_o * kShare).sum().backward();
  return {in.q.grad(), in.k.grad(), in.v.grad()};
}

void expect_gradients(const Shape& shape, Type type, bool accumulate, bool packed) {
  const Inputs in = make_inputs(shape, type);
  Gradients expected = gradients_of_definition(shape, in);
  at::NoGradGuard no_grad;
  if (accumulate) expected = {expected.dq + in.q, expected.dk + in.k, expected.dv + in.v};
  const at::Tensor lse = run_forward(shape, in, type).lse;
  const Gradients got = run_backward(shape, in, type, lse, accumulate, packed);
  testing::expect_close(got.dq, expected.dq, gradient_tolerance(type), "dq");
  testing::expect_close(got.dk, expected.dk, gradient_tolerance(type), "dk");
  testing::expect_close(got.dv, expected.dv, gradient_tolerance(type), "dv");
}

class WindowAttentionKernelGradients : public ::testing::TestWithParam<std::tuple<Type, Shape>> {};

TEST_P(WindowAttentionKernelGradients, AreThoseOfTheDefinition) {
  const auto& [type, shape] = GetParam();
  expect_gradients(shape, type, false, true);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, WindowAttentionKernelGradients,
    ::testing::Combine(kTypes, ::testing::Values(Shape{{1}, 1, 1, 64, 1, 4}, Shape{{63}, 2, 2, 64, 17, 4},
                                                 Shape{{65}, 4, 1, 64, 65, 0}, Shape{{50}, 3, 1, 64, 1, 4},
                                                 Shape{{60}, 4, 2, 128, 100, 4}, Shape{{65}, 2, 1, 128, 17, 4},
                                                 Shape{{40}, 1, 1, 256, 17, 4}, Shape{{100}, 1, 1, 64, 9, 70},
                                                 Shape{{20, 1, 0, 75, 16}, 2, 1, 64, 17, 4})));

TEST(WindowAttentionKernelGradients, OfSinksComeFromAllOfALongText) {
  expect_gradients({{150, 257}, 4, 1, 64, 100, 4}, Type::kBFloat16, false, true);  // more than one part of rows
}
TEST(WindowAttentionKernelGradients, AddToOthers) {
  for (const Type type : {Type::kFloat, Type::kBFloat16, Type::kHalf})
    for (const int64_t sinks : {0, 4}) expect_gradients({{33, 33}, 2, 1, 64, 17, sinks}, type, true, sinks == 0);
}

TEST(WindowAttentionKernelThreads, OrderChangesNothing) {
  at::NoGradGuard no_grad;
  const Shape shape = {{40, 9}, 4, 2, 64, 17, 4};
  const Inputs in = make_inputs(shape, Type::kBFloat16);
  const Output first = run_forward(shape, in, Type::kBFloat16);
  const Gradients gradients = run_backward(shape, in, Type::kBFloat16, first.lse, false);
  for (const unsigned order : {1u, 2u, 3u}) {
    SCOPED_TRACE(order);
    cuda_on_host::thread_order = order;
    const Output other = run_forward(shape, in, Type::kBFloat16);
    const Gradients others = run_backward(shape, in, Type::kBFloat16, first.lse, false);
    cuda_on_host::thread_order = 0;
    EXPECT_TRUE(other.o.equal(first.o) && other.lse.equal(first.lse));
    EXPECT_TRUE(others.dq.equal(gradients.dq) && others.dk.equal(gradients.dk) && others.dv.equal(gradients.dv));
  }
}

TEST(WindowAttentionKernel, SaysWhatItCannotRun) {
  const auto refused = [](auto change) {
    kernels::WindowAttentionForward args = {};
    args.sequences = 2;
    args.H = args.Hkv = 1;
    args.N = args.D = 64;
    args.window = 1;
    EXPECT_EQ(kernels::window_attention_fwd_refuses(args), nullptr);
    change(args);
    const char* reason = kernels::window_attention_fwd(args, nullptr);
    return std::string(reason ? reason : "");
  };
  using Args = kernels::WindowAttentionForward;
  EXPECT_EQ(refused([](Args& a) { a.D = 96; }), "the size of a head must be 64, 128 or 256");
  EXPECT_EQ(refused([](Args& a) { a.window = 0; }), "a window has at least one key, and sinks are not fewer than none");
  EXPECT_EQ(refused([](Args& a) { a.window = 1 << 25; }), "at most 2^24 keys in the window, and sinks");
  EXPECT_EQ(refused([](Args& a) { a.N = 65; }), "without starts all sequences have the same number of tokens");
  EXPECT_EQ(refused([](Args& a) { a.Hkv = 0; }), "from 1 to 65535 key/value heads");
  EXPECT_EQ(refused([](Args& a) { a.Hkv = 2; }), "query heads must be a multiple of key/value heads");
  EXPECT_EQ(refused([](Args& a) { a.N = int64_t{1} << 31; }), "too many tokens at once");
  const int64_t seen = 0;
  EXPECT_EQ(refused([&](Args& a) { a.seen = &seen; }), "what was seen before needs the rings it lies in");

  kernels::WindowAttentionBackward backward = {};
  backward.sequences = 65536;
  EXPECT_STREQ(kernels::window_attention_bwd(backward, nullptr), "at most 65535 sequences");
  backward.sequences = 0;
  EXPECT_STREQ(kernels::window_attention_bwd(backward, nullptr), "the size of a head must be 64, 128 or 256");
  EXPECT_STREQ(kernels::window_remember({}, nullptr), "the size of a head must be 64, 128 or 256");
}

}  // namespace
}  // namespace liger
