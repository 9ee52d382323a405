#include "nn/checkpointed.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>

#include "liger/error.h"

namespace liger {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Run = std::function<at::Tensor(const at::Tensor&)>;

struct Recipe : torch::CustomClassHolder {
  explicit Recipe(const Run& run) : run(run) {}
  Run run;
};

at::Tensor random_state(at::Device device) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(at::Device device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

/// Draws the random numbers that `state` leads to; then those go on that would have come without it.
class RandomNumbersAgain {
 public:
  RandomNumbersAgain(at::Device device, const at::Tensor& state) : device_(device), now_(random_state(device)) {
    set_random_state(device, state);
  }
  ~RandomNumbersAgain() { set_random_state(device_, now_); }
  RandomNumbersAgain(const RandomNumbersAgain&) = delete;

 private:
  at::Device device_;
  at::Tensor now_;
};

class Checkpointed : public torch::autograd::Function<Checkpointed> {
 public:
  static at::Tensor forward(AutogradContext* context, const Run& run, const at::Tensor& x,
                            const at::TensorList& parameters) {
    context->save_for_backward({x});
    context->saved_data["run"] = c10::IValue::make_capsule(c10::make_intrusive<Recipe>(run));
    context->saved_data["random"] = random_state(x.device());
    context->saved_data["parameters"] = parameters.vec();
    return run(x);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    LIGER_CHECK(!at::GradMode::is_enabled(), "activation checkpointing: differentiable once");
    const auto recipe = c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["run"].toCapsule());
    const at::Tensor x = context->get_saved_variables()[0].detach();
    variable_list inputs = context->saved_data["parameters"].toTensorVector();
    inputs.insert(inputs.begin(), x.set_requires_grad(context->needs_input_grad(0)));
    at::Tensor y;
    {
      const at::AutoGradMode enabled(true);
      const RandomNumbersAgain again(x.device(), context->saved_data["random"].toTensor());
      y = recipe->run(x);
    }
    variable_list wanted;
    for (size_t i = 0; i < inputs.size(); ++i)
      if (context->needs_input_grad(i)) wanted.push_back(inputs[i]);
    variable_list found = torch::autograd::grad({y}, wanted, grads, /*retain_graph=*/false, /*create_graph=*/false,
                                                /*allow_unused=*/true);
    variable_list out = {{}};  // of `run`
    for (size_t i = 0, next = 0; i < inputs.size(); ++i)
      out.push_back(context->needs_input_grad(i) ? std::move(found[next++]) : at::Tensor());
    return out;
  }
};

}  // namespace

at::Tensor checkpointed(const Run& run, const at::Tensor& x, const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> wanted;
  for (const at::Tensor& parameter : parameters)
    if (parameter.requires_grad()) wanted.push_back(parameter);
  if (!at::GradMode::is_enabled() || (wanted.empty() && !x.requires_grad())) return run(x);
  return Checkpointed::apply(run, x, at::TensorList(wanted));
}

}  // namespace liger
