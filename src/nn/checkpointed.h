#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace liger {

/// y = run(x), keeping x alone for the backward pass, which runs `run` again, with the random numbers it drew before,
/// and differentiates that: once, in x and in `parameters`, which are all tensors `run` reads whose gradient may be
/// wanted. What `run` refers to must live as long as y. Without gradients it is run(x).
at::Tensor checkpointed(const std::function<at::Tensor(const at::Tensor&)>& run, const at::Tensor& x,
                        const std::vector<at::Tensor>& parameters);

}  // namespace liger
