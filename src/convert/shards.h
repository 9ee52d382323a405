#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "liger/convert/convert.h"
#include "liger/io/safetensors.h"

namespace liger {

/// The type a tensor will have: `wanted` for weights; integers and derived tensors stay as they are.
Dtype converted_dtype(const TensorInfo& tensor, std::optional<Dtype> wanted);

/// Divides all tensors, in the order they are stored, among files of at most `shard_size` bytes of tensors (a larger
/// tensor gets a file of its own), and appends these files and, if there are several, their index to `files`.
void plan_shards(const WeightFiles& weights, std::optional<Dtype> dtype, uint64_t shard_size,
                 std::vector<PlannedFile>& files);

}  // namespace liger
