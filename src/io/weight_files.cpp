#include <algorithm>
#include <cctype>

#include "io/posix.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

bool is_within(const fs::path& file, const fs::path& folder) {
  const auto [rest, _] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return rest == folder.end();
}

// Of a Hugging Face cache that keeps equal files of its models once, CACHE/blobs/xx/HASH, and links to them.
bool is_shared_blob(const fs::path& file, const fs::path& cache) {
  const std::string name = file.filename().string(), folder = file.parent_path().filename().string();
  const auto hex = [](unsigned char c) { return std::isxdigit(c) != 0; };
  return file.parent_path().parent_path() == cache / "blobs" && name.size() == 64 && folder == name.substr(0, 2) &&
         std::all_of(name.begin(), name.end(), hex);
}

bool is_pickled(const fs::path& file) {
  const std::string extension = file.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt";
}

[[noreturn]] void fail_without_weights(const fs::path& dir) {
  std::vector<std::string> pickled, others;
  detail::with_file_errors([&] {
    for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
      const std::string name = entry.path().filename().string();
      if (is_pickled(entry.path())) pickled.push_back(name);
      if (name.ends_with(".gguf") || name.ends_with(".safetensors")) others.push_back(name);
    }
  });
  std::sort(pickled.begin(), pickled.end());
  std::sort(others.begin(), others.end());
  if (!pickled.empty()) {
    fail(ErrorCode::kBadInput, dir.string(), ": holds pickled weights (", detail::printable(pickled.front()),
         "), which can run code and are not read; convert them once: python -c \"from transformers import "
         "AutoModelForCausalLM as M; M.from_pretrained('",
         dir.string(), "').save_pretrained('NEW_FOLDER')\"");
  }
  fail(ErrorCode::kBadInput, dir.string(), ": expected ", kSingle, " or ", kIndex, ", found neither",
       others.empty() ? "" : " (but " + detail::printable(others.front()) + ")");
}

/// A shard is named by text from a file: it must be a plain name, so that it cannot lead out of the folder.
void check_shard_name(const std::string& shard, const std::string& index) {
  const bool plain = !shard.empty() && shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos &&
                     shard != "." && shard != ".." && detail::find_invalid_utf8(shard) == std::string::npos;
  LIGER_CHECK(plain, index, ": '", detail::printable(shard), "': expected the plain name of a file in the folder");
  LIGER_CHECK(!is_pickled(shard), index, ": '", detail::printable(shard),
              "' is pickled, which can run code; convert the model with save_pretrained to safetensors");
  LIGER_CHECK(shard.ends_with(".safetensors"), index, ": '", detail::printable(shard),
              "': expected a name that ends in .safetensors");
}

struct Index {
  std::map<std::string, std::string, std::less<>> shard_of;  // tensor -> shard
  std::optional<uint64_t> total_size;
};

Index read_index(const fs::path& file) {
  const std::string name = file.string();
  const Json json = read_json(file, size_t{256} << 20);
  LIGER_CHECK(json.is_object(), name, ": expected an object");
  const auto map = json.find("weight_map");
  LIGER_CHECK(map != json.end() && map->is_object() && !map->empty(), name,
              ": expected an object 'weight_map' from tensors to files");
  Index index;
  for (const auto& [tensor, shard] : map->items()) {
    LIGER_CHECK(shard.is_string(), name, ": 'weight_map': '", detail::printable(tensor), "': expected a file name");
    check_shard_name(shard.get_ref<const std::string&>(), name);
    index.shard_of.emplace(tensor, shard.get<std::string>());
  }
  const auto metadata = json.find("metadata");
  if (metadata == json.end() || metadata->is_null()) return index;
  LIGER_CHECK(metadata->is_object(), name, ": 'metadata': expected an object");
  const auto total = metadata->find("total_size");
  if (total == metadata->end()) return index;
  const bool whole = total->is_number() && total->get<double>() >= 0 && total->get<double>() < 0x1p53 &&
                     static_cast<double>(static_cast<uint64_t>(total->get<double>())) == total->get<double>();
  LIGER_CHECK(whole, name, ": 'total_size': expected a number of bytes");
  index.total_size = static_cast<uint64_t>(total->get<double>());
  return index;
}

}  // namespace

fs::path file_inside(const fs::path& dir, const std::string& name) {
  const fs::path file = dir / name;
  std::error_code error;
  const fs::path target = fs::canonical(file, error);
  if (error) fail(ErrorCode::kIo, file.string(), ": cannot open: ", error.message());
  const fs::path folder = fs::canonical(dir);
  const bool snapshot = folder.parent_path().filename() == "snapshots";
  const fs::path entry = folder.parent_path().parent_path();
  const bool blob = snapshot && (is_within(target, entry / "blobs") || is_shared_blob(target, entry.parent_path()));
  LIGER_CHECK(is_within(target, folder) || blob, file.string(), ": is a symbolic link out of the model folder, to ",
              target.string(), "; copy the file there");
  return file;
}

WeightFiles::WeightFiles(const fs::path& dir) {
  std::error_code error;
  LIGER_CHECK(fs::is_directory(dir, error), dir.string(), ": expected a model folder",
              fs::exists(dir, error) ? ", got a file" : "; there is none");
  if (fs::exists(fs::symlink_status(dir / kSingle, error))) {
    add(std::make_shared<SafetensorsFile>(file_inside(dir, kSingle)));
    return;
  }
  if (!fs::exists(fs::symlink_status(dir / kIndex, error))) fail_without_weights(dir);
  load_shards(dir);
}

void WeightFiles::add(std::shared_ptr<SafetensorsFile> file) {
  for (const TensorInfo& info : file->tensors()) entries_.emplace(info.name, Entry{file, &info});
  files_.push_back(std::move(file));
}

void WeightFiles::load_shards(const fs::path& dir) {
  const fs::path index_file = file_inside(dir, kIndex);
  const Index index = read_index(index_file);
  const std::string name = index_file.string();
  std::error_code error;
  std::map<std::string, std::shared_ptr<SafetensorsFile>> shards;
  for (const auto& [tensor, shard] : index.shard_of) shards.try_emplace(shard);
  for (auto& [shard, file] : shards) {
    LIGER_CHECK(fs::exists(fs::symlink_status(dir / shard, error)), (dir / shard).string(), ": missing, though ",
                kIndex, " names it; an incomplete download?");
    file = std::make_shared<SafetensorsFile>(file_inside(dir, shard));
    for (const TensorInfo& info : file->tensors()) {
      const auto listed = index.shard_of.find(info.name);
      const std::string tensor = "tensor '" + detail::printable(info.name) + "'";
      LIGER_CHECK(listed != index.shard_of.end(), name, ": ", tensor, " of ", shard, " is not in 'weight_map'");
      const Entry* other = find(info.name);
      LIGER_CHECK(other == nullptr, name, ": ", tensor, " is in two files, ",
                  other == nullptr ? "" : other->file->path().filename().string(), " and ", shard);
      LIGER_CHECK(listed->second == shard, name, ": ", tensor, " is in ", shard, ", but 'weight_map' names ",
                  listed->second);
    }
    add(file);
  }
  for (const auto& [tensor, shard] : index.shard_of) {
    LIGER_CHECK(find(tensor) != nullptr, name, ": tensor '", detail::printable(tensor), "' is not in ", shard,
                ", where 'weight_map' has it");
  }
  LIGER_CHECK(!index.total_size || *index.total_size == total_bytes(), name, ": 'total_size' is ",
              index.total_size.value_or(0), ", but the tensors take ", total_bytes(),
              " bytes; an index of other files? (without 'total_size' it is not checked)");
}

const WeightFiles::Entry* WeightFiles::find(std::string_view name) const {
  const auto at = entries_.find(name);
  return at == entries_.end() ? nullptr : &at->second;
}

uint64_t WeightFiles::total_bytes() const {
  uint64_t sum = 0;
  for (const auto& [name, entry] : entries_) sum += entry.info->bytes;
  return sum;
}

}  // namespace liger
