#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace liger::detail {

/// Reads the fields of one protobuf message, in the order of the file.
///
///   ProtobufReader message(bytes, "trainer_spec");
///   while (message.next()) {
///     if (message.field() == 3) type = message.varint();
///   }
class ProtobufReader {
 public:
  /// `where` names the message in errors.
  ProtobufReader(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  /// Reads the next field whole. False at the end. Throws Error(kBadInput) if it is cut short, or of a kind that this
  /// format does not use.
  bool next();
  uint32_t field() const { return field_; }
  const std::string& where() const { return where_; }

  // The value of the field. Throws Error(kBadInput) if it is of another kind.
  uint64_t varint() const;
  bool boolean() const { return varint() != 0; }
  float float32() const;
  std::string_view bytes() const;

 private:
  enum class Kind : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  uint64_t read_varint();
  uint64_t read_fixed(size_t size);
  void expect(Kind kind) const;

  std::string_view bytes_;
  std::string where_;
  size_t at_ = 0;
  uint32_t field_ = 0;
  Kind kind_ = Kind::kVarint;
  uint64_t number_ = 0;
  std::string_view payload_;
};

}  // namespace liger::detail
