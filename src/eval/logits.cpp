#include "liger/eval/logits.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <string>

#include "liger/core/dtype.h"
#include "liger/core/sequences.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/io/safetensors.h"
#include "liger/nn/causal_lm.h"

namespace liger {
namespace {

at::Tensor read_matrix(const SafetensorsFile& file, const TensorInfo& info) {
  LIGER_CHECK(info.shape.size() == 2, file.path().string(), ": tensor '", info.name, "': expected [B, T], got ",
              shape_to_string(info.shape));
  at::Tensor tensor = at::empty(info.shape, at::TensorOptions(to_scalar_type(info.dtype)));
  file.read(info, {static_cast<std::byte*>(tensor.mutable_data_ptr()), info.bytes});
  return tensor;
}

at::Tensor read_ids(const SafetensorsFile& file) {
  const TensorInfo* info = file.find("input_ids");
  LIGER_CHECK(info != nullptr, file.path().string(), ": tensor 'input_ids' [B, T] int64 is missing");
  LIGER_CHECK(info->dtype == Dtype::kI64, file.path().string(), ": tensor 'input_ids': expected I64, got ",
              to_string(info->dtype));
  const at::Tensor ids = read_matrix(file, *info);
  LIGER_CHECK(ids.numel() > 0, file.path().string(), ": tensor 'input_ids' is empty: ", shape_to_string(info->shape));
  return ids;
}

at::Tensor read_mask(const SafetensorsFile& file, const at::Tensor& ids) {
  const TensorInfo* info = file.find("attention_mask");
  if (info == nullptr) return {};
  LIGER_CHECK(!at::isFloatingType(to_scalar_type(info->dtype)), file.path().string(),
              ": tensor 'attention_mask': expected integers or BOOL, got ", to_string(info->dtype));
  const at::Tensor mask = read_matrix(file, *info);
  LIGER_CHECK(mask.sizes() == ids.sizes(), file.path().string(), ": tensor 'attention_mask': expected ",
              shape_to_string(ids.sizes()), " as 'input_ids', got ", shape_to_string(info->shape));
  return mask.ne(0).to(at::kLong);
}

// Ids at padding are never looked at, so only the others must exist.
void check_range(const at::Tensor& ids, const at::Tensor& mask, int64_t vocab, const std::string& where) {
  const at::Tensor seen = mask.defined() ? ids * mask : ids;
  const int64_t low = seen.min().item<int64_t>(), high = seen.max().item<int64_t>();
  LIGER_CHECK(low >= 0 && high < vocab, where, ": tensor 'input_ids': id ", low < 0 ? low : high,
              " is outside of the model's vocabulary of ", vocab);
}

}  // namespace

void write_logits(CausalLM& model, const std::filesystem::path& input, const std::filesystem::path& output) {
  const c10::InferenceMode inference;
  model.eval();
  const int64_t vocab = model.config().vocab_size;
  const SafetensorsFile file(input);
  at::Tensor ids = read_ids(file);
  const at::Tensor mask = read_mask(file, ids);
  check_range(ids, mask, vocab, input.string());
  if (mask.defined()) ids = ids * mask;

  with_context(input.string(),
               [&] { return Sequences::from_padded(ids, mask); });  // refused before anything is written
  TensorInfo info;
  info.name = "logits";
  info.dtype = to_file_dtype(model.dtype());
  info.shape = {ids.size(0), ids.size(1), vocab};
  SafetensorsWriter writer(output, {info});
  for (int64_t row = 0; row < ids.size(0); ++row) {
    throw_if_interrupted();
    const at::Tensor row_mask = mask.defined() ? mask.narrow(0, row, 1) : at::Tensor();
    const Sequences one = Sequences::from_padded(ids.narrow(0, row, 1), row_mask);
    const at::Tensor logits = one.to_padded(model.logits(model.hidden_states(one))).cpu().contiguous();
    writer.write({static_cast<const std::byte*>(logits.const_data_ptr()), logits.nbytes()});
  }
  writer.finish();
}

}  // namespace liger
