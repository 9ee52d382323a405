#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "convert/merge.h"
#include "liger/io/safetensors.h"

namespace liger {

/// Memory rewrite_file() uses beyond the tensors' headers.
uint64_t rewrite_buffer_bytes(bool with_edits);

/// Writes one safetensors file with `tensors` (names, types, shapes) from `weights`, converting where the type differs;
/// a tensor with an edit goes through float32 and is rounded once.
/// One thread reads and converts while the other writes; large tensors go in pieces, so memory is bounded.
/// `on_progress` gets the bytes written since the last call. Throws Error(kBadInput) if a value is too large for the
/// new type or, edited, not finite, Error(kCancelled) on a signal; the file appears whole or not at all.
/// `model`: of the weights; a tied one's are written once for each depth that `tensors` names.
void rewrite_file(const WeightFiles& weights, const ModelConfig& model, const std::filesystem::path& file,
                  std::vector<TensorInfo> tensors, const std::map<std::string, RowEdit>& edits,
                  const std::function<void(uint64_t)>& on_progress);

}  // namespace liger
