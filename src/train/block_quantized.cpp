#include "train/block_quantized.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bucketize.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace liger {
namespace {

constexpr int64_t kBlock = BlockQuantized::kBlock;

int64_t blocks_of(int64_t numbers) { return (numbers + kBlock - 1) / kBlock; }

/// [n] -> [blocks, kBlock], the last one filled up with zeros.
at::Tensor in_blocks(const at::Tensor& x) {
  return at::constant_pad_nd(x, {0, blocks_of(x.numel()) * kBlock - x.numel()}).view({-1, kBlock});
}

}  // namespace

at::Tensor dynamic_quantization_map(bool is_signed) {
  constexpr int kDecades = 7;
  std::vector<double> values = {0.0, 1.0};
  for (int decade = 0; decade < kDecades; ++decade) {
    const int parts = 1 << (is_signed ? decade : decade + 1);
    for (int i = 0; i < parts; ++i) {
      const double middle = (0.1 + 0.9 * (i + 0.5) / parts) * std::pow(10.0, decade - (kDecades - 1));
      values.push_back(middle);
      if (is_signed) values.push_back(-middle);
    }
  }
  std::sort(values.begin(), values.end());
  return at::tensor(values, at::kDouble).to(at::kFloat);
}

BlockQuantized::BlockQuantized(const at::Tensor& like, bool is_signed) {
  map_ = dynamic_quantization_map(is_signed).to(like.device());
  midpoints_ = (map_.narrow(0, 0, 255) + map_.narrow(0, 1, 255)) / 2;
  const auto zero = static_cast<int64_t>(is_signed ? 127 : 0);  // as many negative numbers stand before it
  codes_ = at::full(like.sizes(), zero, like.options().dtype(at::kByte).requires_grad(false));
  largest_ = at::zeros({blocks_of(like.numel())}, like.options().dtype(at::kFloat).requires_grad(false));
}

at::Tensor BlockQuantized::read(int64_t begin, int64_t count) const {
  const at::Tensor values = map_.index_select(0, codes_.view(-1).narrow(0, begin, count).to(at::kInt));
  const at::Tensor largest = largest_.narrow(0, begin / kBlock, blocks_of(count)).unsqueeze(1);
  return (in_blocks(values) * largest).view(-1).narrow(0, 0, count);
}

void BlockQuantized::write(int64_t begin, const at::Tensor& values) {
  const at::Tensor rows = in_blocks(values.to(at::kFloat)), largest = rows.abs().amax(1);
  const at::Tensor relative = rows / largest.clamp_min(std::numeric_limits<float>::min()).unsqueeze(1);
  const at::Tensor codes = at::bucketize(relative, midpoints_, /*out_int32=*/true).view(-1);
  codes_.view(-1).narrow(0, begin, values.numel()).copy_(codes.narrow(0, 0, values.numel()));
  largest_.narrow(0, begin / kBlock, largest.numel()).copy_(largest);
}

}  // namespace liger
