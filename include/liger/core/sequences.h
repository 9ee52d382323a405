#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace liger {

/// The tokens of several sequences, one after the other without padding: everything that works token by token sees
/// [N, ...], and only attention and the recurrences ask for rows. So padding (left, right or inside) and packing
/// cannot change a result: neither exists beyond this class.
class Sequences {
 public:
  /// Documents as they are. Throws Error if one is empty.
  explicit Sequences(const std::vector<std::vector<int64_t>>& documents, at::Device device = at::kCPU);
  /// input_ids [B, T] int64 and, optionally, attention_mask [B, T] (0 = padding, anywhere in the row). A row without
  /// a single token throws Error.
  static Sequences from_padded(const at::Tensor& input_ids, const at::Tensor& attention_mask = {});

  const at::Tensor& ids() const { return ids_; }              ///< [N] int64
  const at::Tensor& positions() const { return positions_; }  ///< [N] int64, from 0 in each sequence
  const std::vector<int64_t>& lengths() const { return lengths_; }
  int64_t count() const { return static_cast<int64_t>(lengths_.size()); }  ///< S sequences
  int64_t tokens() const { return ids_.size(0); }                          ///< N
  int64_t max_length() const { return max_length_; }                       ///< T

  /// [S + 1] int64: where each sequence begins in N, and the last one ends; undefined where all are equally long.
  const at::Tensor& starts() const { return starts_; }

  /// [N, ...] -> [S, T, ...]: one row per sequence, filled up on the right (with copies of some token, to be ignored).
  /// A view where all sequences are equally long.
  at::Tensor rows(const at::Tensor& packed) const;
  /// [S, T, ...] -> [N, ...]: the inverse.
  at::Tensor packed(const at::Tensor& rows) const;
  /// [S, T] bool, true at real tokens; undefined where all sequences are equally long.
  const at::Tensor& row_mask() const { return row_mask_; }

  /// [N, ...] -> [B, T, ...] in the layout from_padded() was given, zeros at padding.
  at::Tensor to_padded(const at::Tensor& packed) const;
  /// Indices [S] into N of each sequence's last token.
  at::Tensor last_tokens() const;

 private:
  Sequences() = default;
  void index(at::Device device);
  at::Tensor ids_, positions_, starts_;
  std::vector<int64_t> lengths_;
  int64_t max_length_ = 0;
  at::Tensor row_to_packed_;  // [S*T], undefined when uniform
  at::Tensor packed_to_row_;  // [N], undefined when uniform
  at::Tensor row_mask_;
  std::vector<int64_t> padded_shape_;  // {B, T}; empty unless from_padded
  at::Tensor packed_to_padded_;        // [N], undefined when there was no padding
};

}  // namespace liger
