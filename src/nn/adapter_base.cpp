#include "liger/nn/adapter_base.h"

#include <algorithm>

#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBytesOfATensor = 4096;

std::string hash_of_weights(const fs::path& model) {
  const WeightFiles weights(model);
  std::string hashes;
  for (const auto& [name, entry] : weights.entries()) {
    std::string begin(std::min<size_t>(kBytesOfATensor, entry.info->bytes), '\0');
    entry.file->mapping()->read_at(entry.info->offset, std::as_writable_bytes(std::span(begin)));
    hashes += cat(name, " ", to_string(entry.info->dtype), " ", shape_to_string(entry.info->shape), " ",
                  sha256_hex(begin), "\n");
  }
  return sha256_hex(hashes);
}

std::string attention(const OrderedJson& liger) {
  return liger.is_null() ? "softmax attention" : cat("Liger layers ", liger.dump());
}

}  // namespace

OrderedJson adapter_base(const fs::path& model, const std::optional<LigerConfig>& liger) {
  return {{"weights", hash_of_weights(model)}, {"liger", liger ? to_json(*liger) : OrderedJson()}};
}

std::string other_base(const fs::path& adapter, const fs::path& model, const std::optional<LigerConfig>& liger) {
  const fs::path file = adapter / kAdapterBaseFile;
  if (!fs::exists(file)) return {};
  const OrderedJson then = read_ordered_json(file), now = adapter_base(model, liger);
  LIGER_CHECK(then.is_object() && then.contains("weights") && then.contains("liger"), file.string(),
              ": expected an object with 'weights' and 'liger'");
  if (then["weights"] != now["weights"]) {
    return cat(file.string(), ": the adapter was trained over other weights than those of ", model.string(),
               ", or over the same in another type; it fits, but may be of no use here");
  }
  if (Json(then["liger"]) != Json(now["liger"])) {
    return cat(file.string(), ": the adapter was trained over ", attention(then["liger"]), ", and here the model has ",
               attention(now["liger"]));
  }
  return {};
}

}  // namespace liger
