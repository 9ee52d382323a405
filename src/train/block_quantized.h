#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace liger {

/// The 256 values a byte of a BlockQuantized stands for, ascending, float32: dynamic tree quantization (arXiv
/// 2110.02861, section 2.2). Seven decades down from 1; the numbers of decade i (0.1 to 1 times 10^(i - 6)) are the
/// middles of 2^i equal parts of it, of 2^(i + 1) without signs; and 0 and 1.
at::Tensor dynamic_quantization_map(bool is_signed);

/// Numbers in one byte each, relative to the largest magnitude of their block of 256 (block-wise quantization, section
/// 2.1 of the same paper): 1.016 bytes a number.
class BlockQuantized {
 public:
  static constexpr int64_t kBlock = 256;

  /// Zeros in the shape and on the device of `like`.
  BlockQuantized(const at::Tensor& like, bool is_signed);
  /// `count` numbers from `begin`, a multiple of kBlock, on; in float32.
  at::Tensor read(int64_t begin, int64_t count) const;
  /// Replaces them, each by the nearest there is.
  void write(int64_t begin, const at::Tensor& values);

  const at::Tensor& codes() const { return codes_; }      ///< bytes, in the shape of `like`
  const at::Tensor& largest() const { return largest_; }  ///< [blocks] float32

 private:
  at::Tensor map_, midpoints_;  // [256], [255]
  at::Tensor codes_, largest_;
};

}  // namespace liger
