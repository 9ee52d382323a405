#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/files.h"

namespace liger {

/// The element types of the safetensors format that this library reads and writes, in the format's own order.
enum class Dtype { kBool, kU8, kI8, kF8E5M2, kF8E4M3, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };
const char* to_string(Dtype dtype);         ///< the format's name: "BF16"
Dtype dtype_from_string(std::string_view);  ///< throws Error(kBadInput) on an unknown name
size_t item_size(Dtype dtype);              ///< bytes of one element

struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  std::vector<int64_t> shape;  ///< empty = scalar
  uint64_t offset = 0;         ///< of the first byte, from the start of the file
  uint64_t bytes = 0;
};
std::string shape_to_string(std::span<const int64_t> shape);  ///< "[4096, 1024]"

/// One .safetensors file, checked whole when opened and mapped for reading.
/// Refuses everything the format forbids and what only the reference lets pass: duplicate names, unknown fields,
/// holes, overlaps, misaligned data, a leading space, rank > 8, names over 1 KiB. Pickle, zip, GGUF, HTML and
/// git-lfs pointers are recognised and named. Throws Error(kBadInput) "FILE: ..." or Error(kIo).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);
  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  ///< in file order
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorInfo* find(std::string_view name) const;
  std::span<const std::byte> data(const TensorInfo& info) const;
  /// The mapping, to be kept alive by whoever uses the bytes in place.
  const std::shared_ptr<MappedFile>& mapping() const { return mapping_; }
  /// Copies the tensor's bytes by pread, without touching the mapping (bounded memory; a file cut short under us
  /// is an Error, not a signal). `to` has `info.bytes` bytes.
  void read(const TensorInfo& info, std::span<std::byte> to) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<MappedFile> mapping_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

/// Streams one .safetensors file, byte for byte as the reference library lays it out (tensors by dtype, widest
/// first, then by name; header padded with spaces to 8 bytes). Atomic: the file appears when finish() returns.
class SafetensorsWriter {
 public:
  /// `tensors`: name, dtype and shape of all that will be written; offsets are computed.
  SafetensorsWriter(std::filesystem::path file, std::vector<TensorInfo> tensors,
                    std::map<std::string, std::string> metadata = {{"format", "pt"}});
  ~SafetensorsWriter();
  /// The order in which write() must be called, with offsets and bytes filled in.
  const std::vector<TensorInfo>& order() const;
  /// Appends bytes of the next tensor; a tensor may come in several pieces.
  void write(std::span<const std::byte> bytes);
  void finish();  ///< throws Error(kInternal) if a tensor is missing bytes

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The file `name` of a model folder. A symbolic link may lead within the folder or, from a snapshot of a Hugging Face
/// cache (models--X/snapshots/REV), into its blobs or the cache's; elsewhere could be any file of the user.
/// Throws Error(kIo) if it is not there, Error(kBadInput) if it leads elsewhere.
std::filesystem::path file_inside(const std::filesystem::path& dir, const std::string& name);

/// The weights of a Hugging Face folder: model.safetensors, or the shards model.safetensors.index.json names.
/// A shard must be a plain file name inside the folder; symbolic links are followed only within the folder or into
/// the `blobs` of the same cache entry. Pickled weights (.bin, .pt, .pth, .ckpt) are refused with the conversion to do.
class WeightFiles {
 public:
  explicit WeightFiles(const std::filesystem::path& dir);
  struct Entry {
    std::shared_ptr<SafetensorsFile> file;
    const TensorInfo* info;
  };
  const Entry* find(std::string_view name) const;
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  const std::vector<std::shared_ptr<SafetensorsFile>>& files() const { return files_; }
  uint64_t total_bytes() const;

 private:
  void add(std::shared_ptr<SafetensorsFile> file);
  void load_shards(const std::filesystem::path& dir);
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace liger
