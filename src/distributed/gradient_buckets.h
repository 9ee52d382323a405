#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "distributed/ranks.h"

namespace liger {

/// The gradients of parameters, summed over all ranks bucket by bucket, while the backward pass still computes those of
/// the layers below (PyTorch Distributed, arXiv 2006.15704, section 3.2). c10d's own Reducer is not used: it averages,
/// waits for ever for a rank that has no micro-batch left in an update, and cuts its buckets anew after the first one,
/// so that a resumed run would add up in another order.
///
/// An update: begin(), backward passes, of which last_backward() announces the last one, finish().
class GradientBuckets {
 public:
  /// `parameters` in the order of the forward pass. Alone, gradients are left to autograd.
  GradientBuckets(const std::vector<at::Tensor>& parameters, const Ranks& ranks);
  ~GradientBuckets();

  /// All gradients are zero from here on (none, if alone).
  void begin();
  /// A bucket's sum may begin as soon as the next backward pass has been through it.
  void last_backward();
  /// Begins the sums that have not, and waits for all. Also without any backward pass.
  void finish();

 private:
  struct Bucket;
  void close(std::vector<at::Tensor>& parameters);
  void complete(size_t bucket, size_t parameter);
  void start_next();

  const Ranks& ranks_;
  std::vector<at::Tensor> parameters_;
  std::vector<Bucket> buckets_;  // from the last layers, whose gradients come first, to the first ones
  size_t started_ = 0;           // every rank begins them in this order
  bool last_ = false;
};

}  // namespace liger
