#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "family_traits.h"
#include "liger/core/model_config.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"
#include "liger/models/family.h"

namespace liger::test {

/// A Hugging Face folder with a model of a few thousand random weights, for tests of what reads and writes folders.
struct TinyModel {
  std::string model_type = "llama";
  bool tied = false;
  Dtype dtype = Dtype::kBF16;
  int shards = 1;

  ModelConfig config() const {
    ModelConfig c;
    c.family = find_family(model_type);
    c.vocab_size = 96;
    c.hidden_size = 32;
    c.intermediate_size = 48;
    c.num_hidden_layers = 3;
    c.num_attention_heads = 4;
    c.num_key_value_heads = 2;
    c.head_dim = 8;
    c.max_position_embeddings = 256;
    become(c, model_type.c_str());
    c.tie_word_embeddings = tied;
    c.bos_token_id = 1;
    c.eos_token_ids = {2};
    c.stored_dtype = dtype == Dtype::kBF16 ? "bfloat16" : dtype == Dtype::kF16 ? "float16" : "float32";
    return c;
  }

  /// What the files will hold; tests change it to make a folder that is wrong.
  std::vector<TensorInfo> tensors() const {
    std::vector<TensorInfo> list;
    for (const ExpectedTensor& t : expected_tensors(config())) {
      list.push_back({.name = t.name, .dtype = dtype, .shape = t.shape});
    }
    return list;
  }

  void write(const std::filesystem::path& dir) const { write(dir, tensors()); }
  void write(const std::filesystem::path& dir, const std::vector<TensorInfo>& tensors) const;
};

inline void write_file(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary) << text;
}

inline std::string read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Every path below a folder: to see that nothing was added or removed.
inline std::set<std::string> listing(const std::filesystem::path& dir) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    names.insert(entry.path().lexically_relative(dir).string());
  }
  return names;
}

/// n weights of about N(0, 0.05), the same for the same seed.
inline std::vector<std::byte> random_weights(Dtype dtype, uint64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n * item_size(dtype));
  for (uint64_t i = 0; i < n; ++i) {
    const float x = (static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f) * 0.2f;
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint16_t half = static_cast<uint16_t>((bits >> 16 & 0x8000) | (0x2c00 + (bits >> 13 & 0x3ff)));
    const uint16_t top = static_cast<uint16_t>(bits >> 16);
    const void* from = dtype == Dtype::kF32 ? static_cast<const void*>(&bits) : dtype == Dtype::kF16 ? &half : &top;
    std::memcpy(&bytes[i * item_size(dtype)], from, item_size(dtype));
  }
  return bytes;
}

inline void write_weights(const std::filesystem::path& file, const std::vector<TensorInfo>& tensors) {
  SafetensorsWriter writer(file, tensors);
  for (const TensorInfo& t : writer.order()) {
    const uint32_t seed = static_cast<uint32_t>(std::hash<std::string>{}(t.name));
    writer.write(random_weights(t.dtype, t.bytes / item_size(t.dtype), seed));
  }
  writer.finish();
}

inline void TinyModel::write(const std::filesystem::path& dir, const std::vector<TensorInfo>& tensors) const {
  std::filesystem::create_directories(dir);
  write_file(dir / "config.json", config().to_json().dump(2) + "\n");
  write_file(dir / "tokenizer.json", "{\"version\": \"1.0\"}\n");
  if (shards == 1) return write_weights(dir / "model.safetensors", tensors);
  Json weight_map = Json::object();
  for (int i = 0; i < shards; ++i) {
    std::vector<TensorInfo> part;
    for (size_t j = static_cast<size_t>(i); j < tensors.size(); j += static_cast<size_t>(shards)) {
      part.push_back(tensors[j]);
    }
    const std::string name =
        "model-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(shards) + ".safetensors";
    write_weights(dir / name, part);
    for (const TensorInfo& t : part) weight_map[t.name] = name;
  }
  write_file(dir / "model.safetensors.index.json", Json{{"weight_map", weight_map}}.dump(2) + "\n");
}

/// All tensors of a folder, by name.
inline std::map<std::string, std::pair<Dtype, std::vector<std::byte>>> read_weights(const std::filesystem::path& dir) {
  std::map<std::string, std::pair<Dtype, std::vector<std::byte>>> all;
  const WeightFiles weights(dir);
  for (const auto& [name, entry] : weights.entries()) {
    std::vector<std::byte> bytes(entry.info->bytes);
    entry.file->read(*entry.info, bytes);
    all[name] = {entry.info->dtype, std::move(bytes)};
  }
  return all;
}

}  // namespace liger::test
