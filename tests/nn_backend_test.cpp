// Where a model runs and what computes its linearized layers: what is named is used, or refused with the reason.

#include <ATen/ops/randn.h>

#include "liger/core/device.h"
#include "liger/error.h"
#include "liger/nn/causal_lm.h"
#include "liger/nn/step_decoder.h"
#include "nn/choose_mix.h"
#include "random_model.h"
#include "tensor_testing.h"

namespace liger {
namespace {

using Documents = std::vector<std::vector<int64_t>>;

std::string message_of(const auto& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was thrown";
}

TEST(Device, IsReadFromItsName) {
  EXPECT_EQ(device_from_string("cpu"), at::Device(at::kCPU));
  for (const char* name : {"gpu", "", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0"})
    EXPECT_NE(message_of([&] { device_from_string(name); }).find("expected cpu, cuda or cuda:N"), std::string::npos)
        << name;
  // Whatever this machine has, it has not that many.
  EXPECT_NE(message_of([] { device_from_string("cuda:100"); }).find("device 'cuda:100': "), std::string::npos);
}

TEST(Backend, IsReadFromItsName) {
  EXPECT_EQ(backend_from_string("fused"), Backend::kFused);
  EXPECT_EQ(message_of([] { backend_from_string("triton"); }), "backend 'triton': expected auto, fused or torch");
}

TEST(Backend, NamedIsUsedOrRefused) {
  const MixSettings settings = {.recurrence = {.structure = find_structure("gla")}};
  const auto inputs = [](at::Device device) {
    const at::Tensor x = at::randn({3, 2, 64}, at::device(device));
    return MixInputs{x, x, x, {}, {3}, {}};
  };
  EXPECT_TRUE(runs_fused(Backend::kAuto, settings, inputs(at::kCPU)));
  EXPECT_TRUE(runs_fused(Backend::kFused, settings, inputs(at::kCPU)));
  EXPECT_FALSE(runs_fused(Backend::kTorch, settings, inputs(at::kCPU)));
  const MixInputs nowhere = inputs(at::kMeta);
  EXPECT_FALSE(runs_fused(Backend::kAuto, settings, nowhere));
  EXPECT_EQ(
      message_of([&] { runs_fused(Backend::kFused, settings, nowhere); }),
      "backend fused: linearized layers on meta: there is compiled code for the CPU and CUDA only; with backend auto "
      "LibTorch's operators run them");
}

// A model by each backend, whole and token by token.
TEST(Backend, ComputesTheSame) {
  const at::NoGradGuard no_grad;
  for (const char* structure : {"gla", "gsa", "gated-deltanet", "mlstm"}) {
    SCOPED_TRACE(structure);
    ModelConfig config = test::random_config(50);
    config.liger = LigerConfig{.recurrence = structure, .window = 5, .sinks = 2};
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 23; ++i) ids.push_back((i * i * 7 + i) % 50);
    const auto run = [&](Backend backend) {
      config.backend = backend;
      at::manual_seed(3);
      CausalLM model(config);
      EXPECT_EQ(StepDecoder::supports(model), backend != Backend::kTorch);
      DecodingState state;
      std::vector<at::Tensor> out = {
          model.hidden_states(Sequences(Documents{ids})),
          model.hidden_states(Sequences(Documents{{ids.begin(), ids.begin() + 20}}), &state)};
      for (size_t i = 20; i < ids.size(); ++i)
        out.push_back(model.hidden_states(Sequences(Documents{{ids[i]}}), &state));
      return out;
    };
    const auto fused = run(Backend::kFused), torch = run(Backend::kTorch);
    for (size_t i = 0; i < fused.size(); ++i) testing::expect_close(fused[i], torch[i], 2e-5, "hidden states");
  }
}

}  // namespace
}  // namespace liger
