// The operations of training against their definitions in float64, values and gradients.

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <functional>

#include "cpu/kernels.h"
#include "liger/error.h"
#include "liger/ops/linear.h"
#include "liger/ops/linear_cross_entropy.h"
#include "liger/ops/ops.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using Tensors = std::vector<at::Tensor>;
using Run = std::function<at::Tensor(const Tensors&)>;

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) { return at::randn(shape, at::kDouble).to(type); }

// `fast` on leaves of their own types, `definition` on the same numbers in float64: values, and gradients of those that
// are trained.
void expect_equal(const Run& fast, const Run& definition, const Tensors& in, const std::vector<bool>& trained,
                  double tolerance) {
  Tensors ours, theirs;
  for (size_t i = 0; i < in.size(); ++i) {
    ours.push_back(in[i].clone().set_requires_grad(trained[i]));
    theirs.push_back(in[i].to(at::kDouble).clone().set_requires_grad(trained[i]));
  }
  const at::Tensor y = fast(ours), expected = definition(theirs);
  testing::expect_close(y, expected, tolerance, "value");
  EXPECT_EQ(y.scalar_type(), in[0].scalar_type());
  if (!expected.requires_grad()) return;
  const at::Tensor d = at::randn(expected.sizes(), at::kDouble).to(y.scalar_type());
  y.backward(d);
  expected.backward(d.to(at::kDouble));
  for (size_t i = 0; i < in.size(); ++i) {
    ASSERT_EQ(ours[i].grad().defined(), trained[i]) << "input " << i;
    if (trained[i]) testing::expect_close(ours[i].grad(), theirs[i].grad(), 2 * tolerance, cat("gradient ", i).c_str());
  }
}

double tolerance_of(at::ScalarType type) { return type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 1.5e-2; }
const at::ScalarType kTypes[] = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf};

TEST(RmsNorm, EqualsItsDefinition) {
  for (const at::ScalarType type : kTypes)
    for (const bool adds_one : {false, true})
      for (const auto& [rows, n] : {std::pair{1, 3}, {3, 7}, {65, 40}, {130, 288}}) {
        SCOPED_TRACE(cat(type, " ", rows, " x ", n, adds_one ? " 1 + w" : ""));
        const auto definition = [&](const Tensors& x) {
          const at::Tensor normal = x[0] / at::sqrt((x[0] * x[0]).mean(-1, true) + 1e-5);
          return normal * (adds_one ? x[1] + 1 : x[1]);
        };
        const auto fast = [&](const Tensors& x) { return rms_norm(x[0], x[1], 1e-5, adds_one); };
        const Tensors in = {random({rows, n}, type), random({n}, type)};
        expect_equal(fast, definition, in, {true, true}, tolerance_of(type));
        expect_equal(fast, definition, in, {true, false}, tolerance_of(type));
      }
}

TEST(GatedActivation, EqualsItsDefinition) {
  const std::map<std::string, std::function<at::Tensor(const at::Tensor&)>> activations = {
      {"silu", [](const at::Tensor& x) { return x * at::sigmoid(x); }},
      {"gelu", [](const at::Tensor& x) { return x * (at::erf(x / std::sqrt(2.0)) + 1) / 2; }},
      {"gelu_pytorch_tanh",
       [](const at::Tensor& x) { return x * (at::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)) + 1) / 2; }}};
  for (const auto& [name, activation] : activations)
    for (const at::ScalarType type : kTypes)
      for (const auto& [rows, n] : {std::pair{1, 9}, {3, 7}, {65, 40}, {2, 2049}}) {
        SCOPED_TRACE(cat(name, " ", type, " ", rows, " x ", n));
        const auto definition = [&](const Tensors& x) { return activation(x[0]) * x[1]; };
        const auto fast = [&](const Tensors& x) { return gated_activation(name, x[0], x[1]); };
        expect_equal(fast, definition, {random({rows, n}, type) * 3, random({rows, n}, type)}, {true, true},
                     tolerance_of(type));
      }
  EXPECT_THROW(gated_activation("relu", at::zeros({1, 1}), at::zeros({1, 1})), Error);
}

TEST(Linear, EqualsItsDefinition) {
  for (const at::ScalarType type : kTypes)
    for (const auto& [N, in, out] : {std::tuple{1, 1, 1}, {5, 7, 3}, {33, 600, 1000}})
      for (const bool bias : {false, true})
        for (const bool frozen : {false, true}) {
          SCOPED_TRACE(cat(type, " ", N, " ", in, " ", out, bias ? " bias" : "", frozen ? " frozen" : ""));
          const auto definition = [&](const Tensors& x) {
            const at::Tensor y = at::mm(x[0], x[1].t());
            return bias ? y + x[2] : y;
          };
          const auto fast = [&](const Tensors& x) { return liger::linear(x[0], x[1], bias ? x[2] : at::Tensor()); };
          Tensors inputs = {random({N, in}, type), random({out, in}, type) / std::sqrt(in)};
          if (bias) inputs.push_back(random({out}, type));
          expect_equal(fast, definition, inputs, std::vector<bool>{true, !frozen, !frozen}, tolerance_of(type));
        }
}

TEST(LoraLinear, EqualsItsDefinition) {
  at::manual_seed(4);
  for (const at::ScalarType type : kTypes)
    for (const auto& [N, in, out, r] : {std::tuple{1, 1, 1, 1}, {5, 7, 3, 2}, {33, 600, 1000, 8}})
      for (const bool bias : {false, true}) {
        SCOPED_TRACE(cat(type, " ", N, " ", in, " ", out, bias ? " bias" : ""));
        const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
        const auto definition = [&](const Tensors& x) {
          const at::Tensor y = at::mm(x[0], x[1].t()) + 0.7 * at::mm(at::mm(x[0], x[2].t()), x[3].t());
          return bias ? y + x[4] : y;
        };
        const auto fast = [&](const Tensors& x) {
          return lora_linear(x[0], x[1], bias ? x[4] : at::Tensor(), x[2], x[3], 0.7);
        };
        Tensors inputs = {random({N, in}, type), random({out, in}, type) / std::sqrt(in),
                          random({r, in}, wide) / std::sqrt(in), random({out, r}, wide)};
        if (bias) inputs.push_back(random({out}, type));
        // A sum of two numbers that all but cancel says nothing of 16 bits.
        for (at::Tensor& x : inputs)
          if (N == 1) x = x.abs();
        expect_equal(fast, definition, inputs, {true, false, true, true, false}, tolerance_of(type));
        expect_equal(fast, definition, inputs, {false, false, true, true, false}, tolerance_of(type));
        expect_equal(fast, definition, inputs, {true, true, true, true, true}, tolerance_of(type));
      }
}

TEST(LoraLinear, RefusesShapesThatDoNotFit) {
  const at::Tensor x = at::zeros({2, 3}), a = at::zeros({1, 3}), b = at::zeros({4, 1});
  EXPECT_THROW(lora_linear(x, at::zeros({4, 3}), {}, b, a, 1), Error);
  EXPECT_THROW(lora_linear(x, at::zeros({3, 4}), {}, a, b, 1), Error);
}

TEST(Linear, TakesAnyNumberOfDimensions) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = random({2, 3, 5}, type), w = random({4, 5}, type), y = liger::linear(x, w);
    EXPECT_TRUE(y.equal(liger::linear(x.view({6, 5}), w).view({2, 3, 4})));
    EXPECT_TRUE(liger::linear(x[1][2], w).allclose(y[1][2], 1e-2, 1e-2));
  }
}

// Every instruction set that this processor runs, lengths that do not fill a vector among them.
TEST(CrossEntropyRow, EqualsItsDefinition) {
  const CpuKernels* all[3];
  const int64_t count = runnable_cpu_kernels(all);
  for (int64_t i = 0; i < count; ++i)
    for (const int64_t n : {1, 2, 7, 8, 9, 33, 1000, 4099})
      for (const double size : {1.0, 300.0}) {
        SCOPED_TRACE(cat(all[i]->name, " n ", n, " size ", size));
        const at::Tensor logits = at::randn({n}, at::kDouble) * size;
        const int64_t target = n / 2;
        at::Tensor p = (logits - logits.max()).exp(), expected = p / p.sum();
        const double loss = (p.sum().log() + logits.max() - logits[target]).item<double>();
        expected[target] -= 1;
        for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
          const Element element = type == at::kFloat ? Element::kFloat : Element::kDouble;
          const double tolerance = type == at::kFloat ? 2e-6 * size : 1e-14 * size;
          at::Tensor row = logits.to(type);
          EXPECT_NEAR(all[i]->rows.cross_entropy(element, row.data_ptr(), n, target, false), loss, tolerance);
          EXPECT_TRUE(row.equal(logits.to(type)));
          EXPECT_NEAR(all[i]->rows.cross_entropy(element, row.data_ptr(), n, target, true), loss, tolerance);
          EXPECT_LE((row.to(at::kDouble) - expected).abs().max().item<double>(), tolerance);  // they are shares of 1
        }
      }
}

TEST(CrossEntropyRow, KeepsWhatIsNotANumber) {
  for (const double bad : {NAN, INFINITY})
    for (const int64_t where : {0, 3, 16}) {
      at::Tensor row = at::randn({17}, at::kFloat);
      row[where] = bad;
      EXPECT_FALSE(std::isfinite(cpu_kernels().rows.cross_entropy(Element::kFloat, row.data_ptr(), 17, 5, true)));
    }
}

TEST(LinearCrossEntropy, RefusesATargetThatIsNoToken) {
  const at::Tensor hidden = at::zeros({2, 3}), weight = at::zeros({4, 3});
  EXPECT_THROW(linear_cross_entropy(hidden, weight, at::full({2}, 4, at::kLong)), Error);
  EXPECT_THROW(linear_cross_entropy(hidden, weight, at::full({2}, -1, at::kLong)), Error);
}

}  // namespace
}  // namespace liger
