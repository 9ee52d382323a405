#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "liger/convert/convert.h"
#include "liger/io/safetensors.h"

namespace liger {

/// The type a tensor will have: `wanted` for weights; integers and derived tensors stay as they are.
Dtype converted_dtype(const TensorInfo& tensor, std::optional<Dtype> wanted);

/// All tensors as they will be, in the order they are stored.
std::vector<TensorInfo> converted_tensors(const WeightFiles& weights, std::optional<Dtype> dtype);

/// Divides tensors, in this order, among files of at most `shard_size` bytes of tensors (a larger tensor gets a file of
/// its own), and appends these files and, if there are several, their index to `files`.
void plan_shards(std::vector<TensorInfo> tensors, uint64_t shard_size, FileAction action,
                 std::vector<PlannedFile>& files);

}  // namespace liger
