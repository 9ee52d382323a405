#include "io/tfevents.h"

#include <unistd.h>

#include <array>
#include <bit>

#include "liger/error.h"

namespace liger::detail {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kReversedPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}

/// What records store in place of a checksum: one of bytes that hold a checksum themselves would be weak.
uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

template <typename Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof value; ++i) bytes += static_cast<char>(value >> 8 * i & 0xff);
  return bytes;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

// Fields of a protobuf message: number and wire type, then the value.
std::string key(uint32_t field, uint32_t wire_type) { return varint(field << 3 | wire_type); }
std::string integer_field(uint32_t field, int64_t value) {
  return key(field, 0) + varint(static_cast<uint64_t>(value));
}
std::string double_field(uint32_t field, double value) {
  return key(field, 1) + little_endian(std::bit_cast<uint64_t>(value));
}
std::string bytes_field(uint32_t field, std::string_view value) {
  return key(field, 2) + varint(value.size()) + std::string(value);
}
std::string float_field(uint32_t field, float value) {
  return key(field, 5) + little_endian(std::bit_cast<uint32_t>(value));
}

// Field numbers of Event, Summary and Summary.Value.
constexpr uint32_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5;
constexpr uint32_t kSummaryValue = 1;
constexpr uint32_t kTag = 1, kSimpleValue = 2, kTensor = 8, kMetadata = 9;
// Of SummaryMetadata and its PluginData; of TensorProto and its shape, with the number of the type of strings.
constexpr uint32_t kPluginData = 1, kPluginName = 1;
constexpr uint32_t kDtype = 1, kTensorShape = 2, kStringValue = 8, kDimension = 2, kDimensionSize = 1;
constexpr int64_t kStringType = 7;

std::string record(const std::string& event) {
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  return length + little_endian(masked_crc32c(length)) + event + little_endian(masked_crc32c(event));
}

std::string summary_record(double wall_time, int64_t step, const std::string& summary) {
  return record(double_field(kWallTime, wall_time) + integer_field(kStep, step) + bytes_field(kSummary, summary));
}

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] != '\0' ? name : "localhost";
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr auto kTable = make_crc_table();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

std::string tfevents_name(double wall_time) {
  return cat(kTfeventsPrefix, static_cast<int64_t>(wall_time), ".", host_name(), ".", getpid(), ".0");
}

std::string tfevents_version_record(double wall_time) {
  return record(double_field(kWallTime, wall_time) + bytes_field(kFileVersion, "brain.Event:2"));
}

std::string tfevents_scalars_record(double wall_time, int64_t step, std::span<const TaggedScalar> scalars) {
  std::string summary;
  for (const TaggedScalar& scalar : scalars) {
    summary += bytes_field(kSummaryValue,
                           bytes_field(kTag, scalar.tag) + float_field(kSimpleValue, static_cast<float>(scalar.value)));
  }
  return summary_record(wall_time, step, summary);
}

std::string tfevents_text_record(double wall_time, int64_t step, std::string_view tag, std::string_view text) {
  const std::string metadata = bytes_field(kPluginData, bytes_field(kPluginName, "text"));
  const std::string shape = bytes_field(kDimension, integer_field(kDimensionSize, 1));
  const std::string tensor =
      integer_field(kDtype, kStringType) + bytes_field(kTensorShape, shape) + bytes_field(kStringValue, text);
  const std::string value = bytes_field(kTag, tag) + bytes_field(kMetadata, metadata) + bytes_field(kTensor, tensor);
  return summary_record(wall_time, step, bytes_field(kSummaryValue, value));
}

}  // namespace liger::detail
