#include <algorithm>
#include <bit>
#include <cstring>

#include "io/safetensors_header.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data are used in place");

std::string read_string(const MappedFile& file, uint64_t offset, uint64_t size) {
  std::string text(size, '\0');
  file.read_at(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

/// Reads the header's bytes; explains what the file is if it cannot be safetensors.
std::string read_header(const MappedFile& file, const std::string& name) {
  const uint64_t file_bytes = file.bytes().size();
  const std::string head = read_string(file, 0, std::min<uint64_t>(file_bytes, 64));
  const std::string foreign = detail::name_foreign_format(head);
  const auto refuse = [&](const auto&... what) {
    if (!foreign.empty()) fail(ErrorCode::kBadInput, name, ": expected a safetensors file, got ", foreign);
    fail(ErrorCode::kBadInput, name, ": ", what..., "; an incomplete download, or no safetensors file?");
  };
  if (file_bytes < 8) refuse("expected at least 8 bytes, got ", file_bytes);
  uint64_t size = 0;
  std::memcpy(&size, head.data(), 8);
  const uint64_t swapped = __builtin_bswap64(size);
  if (size > detail::kMaxHeader && swapped > 0 && swapped <= std::min(detail::kMaxHeader, file_bytes - 8)) {
    refuse("the header length is big-endian");
  }
  if (size > detail::kMaxHeader) refuse("header of ", size, " bytes, at most ", detail::kMaxHeader, " are allowed");
  if (size > file_bytes - 8) refuse("header of ", size, " bytes in a file of ", file_bytes);
  if (size == 0 || head[8] != '{') refuse("the header does not begin with '{'");
  return read_string(file, 8, size);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file)
    : path_(file), mapping_(std::make_shared<MappedFile>(file)) {
  const std::string json = read_header(*mapping_, file.string());
  const uint64_t data_start = 8 + json.size();
  detail::SafetensorsHeader header =
      detail::parse_safetensors_header(json, data_start, mapping_->bytes().size() - data_start, file.string());
  tensors_ = std::move(header.tensors);
  by_name_ = std::move(header.by_name);
  metadata_ = std::move(header.metadata);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &tensors_[at->second];
}

namespace {

/// Any other byte would be undefined behaviour as a C++ bool.
void check_bools(const TensorInfo& info, std::span<const std::byte> bytes, const std::filesystem::path& path) {
  if (info.dtype != Dtype::kBool) return;
  for (size_t i = 0; i < bytes.size(); ++i) {
    LIGER_CHECK(bytes[i] <= std::byte{1}, path.string(), ": tensor '", detail::printable(info.name), "': element ", i,
                " of a BOOL tensor is ", static_cast<int>(bytes[i]), ", expected 0 or 1");
  }
}

}  // namespace

std::span<const std::byte> SafetensorsFile::data(const TensorInfo& info) const {
  const auto bytes = mapping_->bytes().subspan(info.offset, info.bytes);
  check_bools(info, bytes, path_);
  return bytes;
}

void SafetensorsFile::read(const TensorInfo& info, std::span<std::byte> to) const {
  if (to.size() != info.bytes) {
    fail(ErrorCode::kInternal, path_.string(), ": tensor '", detail::printable(info.name), "': ", to.size(),
         " bytes asked for, it has ", info.bytes);
  }
  mapping_->read_at(info.offset, to);
  check_bools(info, to, path_);
}

}  // namespace liger
