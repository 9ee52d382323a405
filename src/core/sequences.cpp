#include "liger/core/sequences.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "liger/error.h"

namespace liger {
namespace {

at::Tensor to_tensor(const std::vector<int64_t>& values, at::Device device) {
  at::Tensor out = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), out.mutable_data_ptr<int64_t>());
  return out.to(device);
}

std::vector<int64_t> with_leading(int64_t a, int64_t b, at::IntArrayRef sizes) {
  std::vector<int64_t> out = {a, b};
  out.insert(out.end(), sizes.begin() + 1, sizes.end());
  return out;
}

}  // namespace

Sequences::Sequences(const std::vector<std::vector<int64_t>>& documents, at::Device device) {
  std::vector<int64_t> ids;
  for (const auto& document : documents) {
    LIGER_CHECK(!document.empty(), "sequence ", lengths_.size(), " has no tokens");
    ids.insert(ids.end(), document.begin(), document.end());
    lengths_.push_back(static_cast<int64_t>(document.size()));
  }
  LIGER_CHECK(!ids.empty(), "no sequences given");
  ids_ = to_tensor(ids, device);
  index(device);
}

Sequences Sequences::from_padded(const at::Tensor& input_ids, const at::Tensor& attention_mask) {
  LIGER_CHECK(input_ids.dim() == 2 && input_ids.scalar_type() == at::kLong && input_ids.numel() > 0,
              "input_ids: expected a non-empty int64 tensor [B, T], got ", input_ids.scalar_type(), " ",
              input_ids.sizes());
  const int64_t batch = input_ids.size(0), length = input_ids.size(1);
  Sequences out;
  out.padded_shape_ = {batch, length};
  if (!attention_mask.defined()) {
    out.lengths_.assign(batch, length);
    out.ids_ = input_ids.reshape({-1});
    out.index(input_ids.device());
    return out;
  }
  LIGER_CHECK(attention_mask.sizes() == input_ids.sizes(), "attention_mask: expected the shape of input_ids, ",
              input_ids.sizes(), ", got ", attention_mask.sizes());
  const at::Tensor mask = attention_mask.to(at::kCPU).to(at::kBool).contiguous();
  const bool* real = mask.const_data_ptr<bool>();
  std::vector<int64_t> kept;
  for (int64_t b = 0; b < batch; ++b) {
    const size_t before = kept.size();
    for (int64_t t = 0; t < length; ++t)
      if (real[b * length + t]) kept.push_back(b * length + t);
    LIGER_CHECK(kept.size() > before, "attention_mask: row ", b, " masks every token");
    out.lengths_.push_back(static_cast<int64_t>(kept.size() - before));
  }
  if (static_cast<int64_t>(kept.size()) < batch * length) out.packed_to_padded_ = to_tensor(kept, input_ids.device());
  const at::Tensor flat = input_ids.reshape({-1});
  out.ids_ = out.packed_to_padded_.defined() ? flat.index_select(0, out.packed_to_padded_) : flat;
  out.index(input_ids.device());
  return out;
}

void Sequences::index(at::Device device) {
  const int64_t count = this->count(), total = ids_.size(0);
  max_length_ = *std::max_element(lengths_.begin(), lengths_.end());
  std::vector<int64_t> positions(total), starts = {0};
  for (int64_t length : lengths_) {
    std::iota(positions.begin() + starts.back(), positions.begin() + starts.back() + length, 0);
    starts.push_back(starts.back() + length);
  }
  positions_ = to_tensor(positions, device);
  if (count * max_length_ == total) return;  // uniform: rows are a view

  std::vector<int64_t> row_to_packed(count * max_length_, 0), packed_to_row(total);
  at::Tensor mask = at::zeros({count, max_length_}, at::kBool);
  bool* real = mask.mutable_data_ptr<bool>();
  int64_t token = 0;
  for (int64_t s = 0; s < count; ++s)
    for (int64_t t = 0; t < lengths_[s]; ++t, ++token) {
      const int64_t cell = s * max_length_ + t;
      row_to_packed[cell] = token;
      packed_to_row[token] = cell;
      real[cell] = true;
    }
  row_to_packed_ = to_tensor(row_to_packed, device);
  packed_to_row_ = to_tensor(packed_to_row, device);
  row_mask_ = mask.to(device);
  starts_ = to_tensor(starts, device);
}

at::Tensor Sequences::rows(const at::Tensor& packed) const {
  const auto shape = with_leading(count(), max_length_, packed.sizes());
  if (!row_to_packed_.defined()) return packed.reshape(shape);
  return packed.index_select(0, row_to_packed_).view(shape);
}

at::Tensor Sequences::packed(const at::Tensor& rows) const {
  const at::Tensor flat = rows.flatten(0, 1);
  return packed_to_row_.defined() ? flat.index_select(0, packed_to_row_) : flat;
}

at::Tensor Sequences::to_padded(const at::Tensor& packed) const {
  LIGER_CHECK(!padded_shape_.empty(), "to_padded: these sequences did not come from a padded batch");
  const auto shape = with_leading(padded_shape_[0], padded_shape_[1], packed.sizes());
  if (!packed_to_padded_.defined()) return packed.reshape(shape);
  at::Tensor out = at::zeros(shape, packed.options());
  out.flatten(0, 1).index_copy_(0, packed_to_padded_, packed);
  return out;
}

at::Tensor Sequences::last_tokens() const {
  std::vector<int64_t> last(lengths_.size());
  std::partial_sum(lengths_.begin(), lengths_.end(), last.begin());
  for (int64_t& index : last) --index;
  return to_tensor(last, ids_.device());
}

}  // namespace liger
