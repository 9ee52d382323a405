#include <algorithm>
#include <set>
#include <tuple>

#include "io/safetensors_header.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/json.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

void check_tensor(const TensorInfo& info) {
  const std::string where = "tensor '" + detail::printable(info.name) + "'";
  LIGER_CHECK(!info.name.empty() && info.name.size() <= detail::kMaxName && info.name != "__metadata__" &&
                  info.name.find('\0') == std::string::npos,
              where, ": not a name for a tensor");
  LIGER_CHECK(detail::find_invalid_utf8(info.name) == std::string::npos, where, ": the name is not UTF-8");
  LIGER_CHECK(info.shape.size() <= detail::kMaxRank, where, ": more than 8 dimensions");
  LIGER_CHECK(detail::checked_bytes(info.shape, info.dtype).has_value(), where, ": shape ", shape_to_string(info.shape),
              " is negative or overflows");
}

/// Compact JSON in the reference library's spelling, padded so that the data begin at a multiple of 8.
std::string header_json(const std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  std::string out = "{";
  if (!metadata.empty()) out += "\"__metadata__\":" + Json(metadata).dump();
  uint64_t offset = 0;
  for (const TensorInfo& info : tensors) {
    if (out.size() > 1) out += ',';
    out += Json(info.name).dump() + ":{\"dtype\":\"" + to_string(info.dtype) +
           "\",\"shape\":" + Json(info.shape).dump() + ",\"data_offsets\":[" + std::to_string(offset) + "," +
           std::to_string(offset + info.bytes) + "]}";
    offset += info.bytes;
  }
  out += '}';
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}

}  // namespace

struct SafetensorsWriter::Impl {
  explicit Impl(std::filesystem::path path) : name(path.string()), file(std::move(path)) {}
  std::string name;
  AtomicFile file;
  std::vector<TensorInfo> tensors;
  uint64_t expected = 0, written = 0;  // bytes of tensor data
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path file, std::vector<TensorInfo> tensors,
                                     std::map<std::string, std::string> metadata)
    : impl_(std::make_unique<Impl>(std::move(file))) {
  Impl& impl = *impl_;
  with_context(impl.name, [&] {
    std::set<std::string_view> names;
    for (TensorInfo& info : tensors) {
      check_tensor(info);
      LIGER_CHECK(names.insert(info.name).second, "tensor '", detail::printable(info.name), "' is given twice");
      info.bytes = *detail::checked_bytes(info.shape, info.dtype);
      LIGER_CHECK(!__builtin_add_overflow(impl.expected, info.bytes, &impl.expected), "more than 2^64 bytes");
    }
    LIGER_CHECK(tensors.size() <= detail::kMaxTensors, "more than 1000000 tensors");
    for (const auto& [key, value] : metadata) {
      LIGER_CHECK(detail::find_invalid_utf8(key + value) == std::string::npos, "metadata '", detail::printable(key),
                  "' is not UTF-8");
    }
  });
  impl.tensors = std::move(tensors);
  std::sort(impl.tensors.begin(), impl.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(b.dtype, a.name) < std::tie(a.dtype, b.name);
  });
  const std::string json = header_json(impl.tensors, metadata);
  LIGER_CHECK(json.size() <= detail::kMaxHeader, impl.name, ": header of ", json.size(), " bytes, at most ",
              detail::kMaxHeader, " are allowed");
  uint64_t offset = 8 + json.size();
  for (TensorInfo& info : impl.tensors) {
    info.offset = offset;
    offset += info.bytes;
  }
  impl.file.reserve(offset);
  const uint64_t size = json.size();
  impl.file.write(&size, sizeof(size));
  impl.file.write(json);
}

SafetensorsWriter::~SafetensorsWriter() = default;

const std::vector<TensorInfo>& SafetensorsWriter::order() const { return impl_->tensors; }

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  Impl& impl = *impl_;
  if (bytes.size() > impl.expected - impl.written) {
    fail(ErrorCode::kInternal, impl.name, ": more data written than the ", impl.expected, " bytes of its tensors");
  }
  impl.file.write(bytes.data(), bytes.size());
  impl.written += bytes.size();
}

void SafetensorsWriter::finish() {
  if (impl_->written != impl_->expected) {
    fail(ErrorCode::kInternal, impl_->name, ": finished after ", impl_->written, " of ", impl_->expected,
         " bytes of tensor data");
  }
  impl_->file.commit();
}

}  // namespace liger
