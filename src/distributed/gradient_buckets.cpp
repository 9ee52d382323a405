#include "distributed/gradient_buckets.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

namespace liger {
namespace {

/// Runs when a parameter's gradient is complete for a backward pass.
class WhenComplete : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit WhenComplete(std::function<void()> body) : body_(std::move(body)) {}
  void operator()(const torch::autograd::Variable&) override { body_(); }

 private:
  std::function<void()> body_;
};

int64_t bytes(const at::Tensor& tensor) { return static_cast<int64_t>(tensor.nbytes()); }

}  // namespace

struct GradientBuckets::Bucket {
  std::vector<at::Tensor> parameters;
  at::Tensor flat;  // their gradients one after the other, as what `gradients` are views of
  std::vector<at::Tensor> gradients;
  std::vector<bool> complete;  // which of them the last backward pass has brought
  std::function<void()> wait;
};

GradientBuckets::GradientBuckets(const std::vector<at::Tensor>& parameters, const Ranks& ranks)
    : ranks_(ranks), parameters_(parameters) {
  if (ranks.size() == 1) return;
  // Enough buckets to overlap with, none so small that a message's latency is its price.
  constexpr int64_t kBuckets = 16, kLeast = int64_t{256} << 10, kMost = int64_t{25} << 20;
  int64_t all = 0;
  for (const at::Tensor& parameter : parameters) all += bytes(parameter);
  const int64_t limit = std::clamp(all / kBuckets, kLeast, kMost);
  std::vector<at::Tensor> open;
  int64_t size = 0;
  for (auto parameter = parameters.rbegin(); parameter != parameters.rend(); ++parameter) {
    const bool other = !open.empty() && open.back().scalar_type() != parameter->scalar_type();
    if (!open.empty() && (other || size + bytes(*parameter) > limit)) {
      close(open);
      size = 0;
    }
    open.push_back(*parameter);
    size += bytes(*parameter);
  }
  if (!open.empty()) close(open);
}

GradientBuckets::~GradientBuckets() {
  for (const Bucket& bucket : buckets_) {
    for (const at::Tensor& parameter : bucket.parameters)
      torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientBuckets::close(std::vector<at::Tensor>& parameters) {
  Bucket bucket;
  int64_t numbers = 0;
  for (const at::Tensor& parameter : parameters) numbers += parameter.numel();
  bucket.flat = at::zeros({numbers}, parameters[0].options().requires_grad(false));
  int64_t begin = 0;
  for (const at::Tensor& parameter : parameters) {
    bucket.gradients.push_back(bucket.flat.narrow(0, begin, parameter.numel()).view(parameter.sizes()));
    begin += parameter.numel();
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameter, std::make_unique<WhenComplete>(
                       [this, index = buckets_.size(), i = bucket.gradients.size() - 1] { complete(index, i); }));
  }
  bucket.parameters = std::exchange(parameters, {});
  buckets_.push_back(std::move(bucket));
}

void GradientBuckets::begin() {
  if (ranks_.size() == 1) {
    for (const at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
    return;
  }
  for (Bucket& bucket : buckets_) {
    bucket.flat.zero_();
    for (size_t i = 0; i < bucket.parameters.size(); ++i) bucket.parameters[i].mutable_grad() = bucket.gradients[i];
    bucket.complete.assign(bucket.parameters.size(), false);
    bucket.wait = nullptr;
  }
  started_ = 0;
  last_ = false;
}

void GradientBuckets::last_backward() { last_ = true; }

void GradientBuckets::complete(size_t index, size_t parameter) {
  if (!last_) return;
  const auto is_complete = [](const Bucket& b) {
    return std::find(b.complete.begin(), b.complete.end(), false) == b.complete.end();
  };
  if (buckets_[index].complete[parameter]) {
    fail(ErrorCode::kInternal, "a gradient came twice in one backward pass; its sum over the ranks may have begun");
  }
  buckets_[index].complete[parameter] = true;
  while (started_ < buckets_.size() && is_complete(buckets_[started_])) start_next();
}

void GradientBuckets::start_next() {
  Bucket& bucket = buckets_[started_++];
  bucket.wait = ranks_.start_sum(bucket.flat);
}

void GradientBuckets::finish() {
  while (started_ < buckets_.size()) start_next();
  for (const Bucket& bucket : buckets_) bucket.wait();
}

}  // namespace liger
