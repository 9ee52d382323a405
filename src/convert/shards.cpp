#include "convert/shards.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "liger/io/json.h"
#include "liger/models/check_weights.h"

namespace liger {
namespace {

TensorInfo converted(const TensorInfo& tensor, std::optional<Dtype> dtype) {
  TensorInfo to{.name = tensor.name, .dtype = converted_dtype(tensor, dtype), .shape = tensor.shape};
  to.bytes = tensor.bytes / item_size(tensor.dtype) * item_size(to.dtype);
  return to;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

PlannedFile index_file(const std::vector<PlannedFile>& shards) {
  Json weight_map = Json::object();  // sorted by name, as everyone writes it
  uint64_t elements = 0, bytes = 0;
  for (const PlannedFile& shard : shards) {
    for (const TensorInfo& tensor : shard.tensors) {
      weight_map[tensor.name] = shard.name;
      elements += tensor.bytes / item_size(tensor.dtype);
      bytes += tensor.bytes;
    }
  }
  const Json index = {{"metadata", {{"total_parameters", elements}, {"total_size", bytes}}},
                      {"weight_map", std::move(weight_map)}};
  PlannedFile file{.name = "model.safetensors.index.json", .content = index.dump(2) + "\n"};
  file.bytes = file.content.size();
  return file;
}

}  // namespace

Dtype converted_dtype(const TensorInfo& tensor, std::optional<Dtype> wanted) {
  return wanted && is_weight_dtype(tensor.dtype) && !is_derived_tensor(tensor.name) ? *wanted : tensor.dtype;
}

std::vector<TensorInfo> converted_tensors(const WeightFiles& weights, std::optional<Dtype> dtype) {
  std::vector<TensorInfo> out;
  for (const auto& file : weights.files())
    for (const TensorInfo& stored : file->tensors()) out.push_back(converted(stored, dtype));
  return out;
}

void plan_shards(std::vector<TensorInfo> tensors, uint64_t shard_size, FileAction action,
                 std::vector<PlannedFile>& files) {
  std::vector<PlannedFile> shards;
  uint64_t room = 0;
  for (TensorInfo& tensor : tensors) {
    if (shards.empty() || tensor.bytes > room) {
      shards.push_back({.action = action});
      room = shard_size;
    }
    room -= std::min(room, tensor.bytes);
    shards.back().bytes += tensor.bytes;
    shards.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < shards.size(); ++i) shards[i].name = shard_name(i, shards.size());
  const size_t count = shards.size();
  PlannedFile index = index_file(shards);
  files.insert(files.end(), std::make_move_iterator(shards.begin()), std::make_move_iterator(shards.end()));
  if (count > 1) files.push_back(std::move(index));
}

}  // namespace liger
