#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

// A reader of TensorBoard's event files that shares nothing with what writes them.

namespace liger::test {

struct TfEvent {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  std::map<std::string, float> scalars;
  std::map<std::string, std::string> texts;
};

namespace detail {

inline uint32_t masked_crc(std::string_view bytes) {  // bit by bit
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int i = 0; i < 8; ++i) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
  }
  crc = ~crc;
  return (crc >> 15 | crc << 17) + 0xa282ead8;
}

class Bytes {
 public:
  explicit Bytes(std::string_view bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  std::string_view take(size_t size) {
    if (size > bytes_.size()) throw std::runtime_error("event file: cut short");
    const std::string_view taken = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return taken;
  }
  template <typename T>
  T fixed() {  // tests run on little-endian machines only
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = fixed<uint8_t>();
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  }
  void expect(bool holds) const {
    if (!holds) throw std::runtime_error("event file: unexpected field");
  }

 private:
  std::string_view bytes_;
};

inline void read_value(Bytes bytes, TfEvent& event) {
  bytes.expect(bytes.varint() == (1 << 3 | 2));
  const std::string tag(bytes.take(bytes.varint()));
  const uint64_t key = bytes.varint();
  if (key == (2 << 3 | 5)) {
    bytes.expect(event.scalars.emplace(tag, bytes.fixed<float>()).second && bytes.empty());
    return;
  }
  // Metadata {1: {1: "text"}}, then a tensor {1: string, 2: shape {2: {1: 1}}, 8: the text}.
  bytes.expect(key == (9 << 3 | 2) && bytes.take(bytes.varint()) == "\x0a\x06\x0a\x04text");
  bytes.expect(bytes.varint() == (8 << 3 | 2));
  Bytes tensor(bytes.take(bytes.varint()));
  tensor.expect(tensor.take(8) == "\x08\x07\x12\x04\x12\x02\x08\x01" && tensor.varint() == (8 << 3 | 2));
  bytes.expect(event.texts.emplace(tag, tensor.take(tensor.varint())).second && tensor.empty() && bytes.empty());
}

inline TfEvent read_event(Bytes bytes) {
  TfEvent event;
  while (!bytes.empty()) {
    switch (bytes.varint()) {
      case 1 << 3 | 1: event.wall_time = bytes.fixed<double>(); break;
      case 2 << 3 | 0: event.step = static_cast<int64_t>(bytes.varint()); break;
      case 3 << 3 | 2: event.version = bytes.take(bytes.varint()); break;
      case 5 << 3 | 2: {
        Bytes summary(bytes.take(bytes.varint()));
        while (!summary.empty()) {
          summary.expect(summary.varint() == (1 << 3 | 2));
          read_value(Bytes(summary.take(summary.varint())), event);
        }
        break;
      }
      default: bytes.expect(false);
    }
  }
  return event;
}

}  // namespace detail

/// All events of a file's bytes. Throws std::runtime_error at a wrong checksum, at a field that is not as expected and
/// at half a record.
inline std::vector<TfEvent> read_tfevents(std::string_view file) {
  std::vector<TfEvent> events;
  detail::Bytes bytes(file);
  while (!bytes.empty()) {
    const std::string_view length = bytes.take(8);
    if (bytes.fixed<uint32_t>() != detail::masked_crc(length)) throw std::runtime_error("event file: bad length");
    const std::string_view event = bytes.take(detail::Bytes(length).fixed<uint64_t>());
    if (bytes.fixed<uint32_t>() != detail::masked_crc(event)) throw std::runtime_error("event file: bad event");
    events.push_back(detail::read_event(detail::Bytes(event)));
  }
  return events;
}

}  // namespace liger::test
