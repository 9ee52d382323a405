#include "io/protobuf_reader.h"

#include <bit>

#include "liger/error.h"

namespace liger::detail {

uint64_t ProtobufReader::read_varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    LIGER_CHECK(at_ < bytes_.size(), where_, ": the data ends inside a number, at byte ", at_);
    const auto byte = static_cast<uint8_t>(bytes_[at_++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  fail(ErrorCode::kBadInput, where_, ": a number of more than 10 bytes, at byte ", at_);
}

uint64_t ProtobufReader::read_fixed(size_t size) {
  LIGER_CHECK(bytes_.size() - at_ >= size, where_, ": the data ends inside a number, at byte ", at_);
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes_[at_ + i])) << (8 * i);
  at_ += size;
  return value;
}

bool ProtobufReader::next() {
  if (at_ == bytes_.size()) return false;
  const uint64_t tag = read_varint();
  LIGER_CHECK(tag >> 3 != 0 && tag >> 32 == 0, where_, ": ", tag >> 3, " is not a field number, at byte ", at_);
  field_ = static_cast<uint32_t>(tag >> 3);
  kind_ = static_cast<Kind>(tag & 7);
  payload_ = {};
  switch (kind_) {
    case Kind::kVarint: number_ = read_varint(); return true;
    case Kind::kFixed64: number_ = read_fixed(8); return true;
    case Kind::kFixed32: number_ = read_fixed(4); return true;
    case Kind::kBytes: {
      const uint64_t size = read_varint();
      LIGER_CHECK(size <= bytes_.size() - at_, where_, ": field ", field_, " claims ", size, " bytes, ",
                  bytes_.size() - at_, " are left");
      payload_ = bytes_.substr(at_, size);
      at_ += size;
      return true;
    }
  }
  fail(ErrorCode::kBadInput, where_, ": field ", field_, " is of the unknown kind ", tag & 7, ", at byte ", at_);
}

void ProtobufReader::expect(Kind kind) const {
  LIGER_CHECK(kind_ == kind, where_, ": field ", field_, " is of kind ", static_cast<int>(kind_), ", expected ",
              static_cast<int>(kind));
}

uint64_t ProtobufReader::varint() const {
  expect(Kind::kVarint);
  return number_;
}

float ProtobufReader::float32() const {
  expect(Kind::kFixed32);
  return std::bit_cast<float>(static_cast<uint32_t>(number_));
}

std::string_view ProtobufReader::bytes() const {
  expect(Kind::kBytes);
  return payload_;
}

}  // namespace liger::detail
