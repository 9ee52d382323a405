#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace liger {

/// A whole file mapped for reading. MAP_PRIVATE: writing through `mutable_data` copies the page and never
/// reaches the file. Throws Error(kIo) if it cannot be opened, Error(kBadInput) if it is not a regular file.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::byte* mutable_data() const { return data_; }
  /// Copies bytes by pread, without touching the mapping. Throws Error(kBadInput) if the file ends before them.
  void read_at(uint64_t offset, std::span<std::byte> to) const;

 private:
  std::filesystem::path file_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// Reads a file of at most `max_bytes`. Throws Error(kIo), or Error(kBadInput) if it is larger or not a regular file.
std::string read_text(const std::filesystem::path& file, size_t max_bytes = size_t{1} << 30);

/// Writes a file so that a reader, or a kill at any moment, sees the old content or the new one: temporary file
/// beside it, fsync, rename, fsync of the folder. The mode follows the umask.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path file);
  ~AtomicFile();  ///< removes the temporary file unless committed
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  /// Claims the disk space for a file of `bytes`, so that a full disk is found before the work and not after it.
  void reserve(uint64_t bytes);
  void write(const void* data, size_t size);  ///< appends; Error(kIo) names the file and the reason
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
void write_text_atomic(const std::filesystem::path& file, std::string_view text);

/// Fills a folder so that it appears whole or not at all: everything is written under path(), a hidden sibling of
/// `dir`; commit() writes MANIFEST.json (file sizes and sha256), syncs every file and renames it to `dir`.
/// Throws Error(kLocked) if `dir` exists and is not empty (unless `overwrite`, which swaps it out at commit, and only
/// a folder that has a MANIFEST.json), or while another process writes it.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path dir, bool overwrite = false);
  ~AtomicDirectory();  ///< removes what was written unless committed
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  const std::filesystem::path& path() const;  ///< after commit(): `dir`, with links resolved
  /// `hash_limit`: files larger than this get their size in the manifest but no hash (0 = hash all).
  void commit(uint64_t hash_limit = 0);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Checks a folder against its MANIFEST.json. Throws Error(kBadInput) naming the first file that is missing or differs.
void verify_manifest(const std::filesystem::path& dir);

/// How place_file put a file where it should be.
enum class Placed { kHardLink, kReflink, kCopy };
/// Puts `from` at `to` the cheapest way the filesystem allows: hard link, reflink, copy. Symbolic links are resolved
/// first.
Placed place_file(const std::filesystem::path& from, const std::filesystem::path& to);
const char* to_string(Placed placed);

/// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);
std::string sha256_file(const std::filesystem::path& file);

}  // namespace liger
