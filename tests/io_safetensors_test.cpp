#include "liger/io/safetensors.h"

#include <sys/stat.h>

#include "io_test_util.h"

namespace liger {
namespace {

using test::get;
using test::put;
using test::TempDir;

std::vector<std::byte> bytes_from(size_t first, size_t count) {
  std::vector<std::byte> out(count);
  for (size_t i = 0; i < count; ++i) out[i] = static_cast<std::byte>(first + i);
  return out;
}

TensorInfo tensor(std::string name, Dtype dtype, std::vector<int64_t> shape) {
  TensorInfo info;
  info.name = std::move(name);
  info.dtype = dtype;
  info.shape = std::move(shape);
  return info;
}

void write_all(SafetensorsWriter& writer) {
  size_t first = 0;
  for (const TensorInfo& info : writer.order()) {
    writer.write(bytes_from(first, info.bytes));
    first += 16;
  }
  writer.finish();
}

TEST(SafetensorsWriter, LaysOutLikeTheReference) {
  TempDir dir;
  SafetensorsWriter writer(dir / "a.safetensors",
                           {tensor("b", Dtype::kF32, {2}), tensor("a", Dtype::kBF16, {1, 3}),
                            tensor("z\"\n\u00e9", Dtype::kI64, {}), tensor("a2", Dtype::kF32, {0, 5})});
  write_all(writer);
  const std::string header =
      "{\"__metadata__\":{\"format\":\"pt\"},\"z\\\"\\n\u00e9\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}"
      ","
      "\"a2\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[8,8]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]},"
      "\"a\":{\"dtype\":\"BF16\",\"shape\":[1,3],\"data_offsets\":[16,22]}}";
  const std::string file = get(dir / "a.safetensors");
  const size_t padded = (header.size() + 7) / 8 * 8;
  EXPECT_EQ(file.substr(8, header.size()), header);
  EXPECT_EQ(file.substr(8 + header.size(), padded - header.size()), std::string(padded - header.size(), ' '));
  EXPECT_EQ(file.size(), 8 + padded + 22);
}

TEST(Safetensors, ReadsWhatWasWritten) {
  TempDir dir;
  SafetensorsWriter writer(dir / "a.safetensors", {tensor("b", Dtype::kF32, {2}), tensor("a", Dtype::kU8, {3, 1})});
  EXPECT_EQ(dir.list().size(), 1u) << "only the hidden temporary file";
  write_all(writer);
  EXPECT_EQ(dir.list(), std::vector<std::string>{"a.safetensors"});
  const SafetensorsFile file(dir / "a.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(file.find("c"), nullptr);
  const TensorInfo* a = file.find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(a->dtype, Dtype::kU8);
  const auto data = file.data(*a);
  EXPECT_EQ(std::vector<std::byte>(data.begin(), data.end()), bytes_from(16, 3));
  std::vector<std::byte> copy(8);
  file.read(*file.find("b"), copy);
  EXPECT_EQ(copy, bytes_from(0, 8));
}

TEST(SafetensorsWriter, FinishNeedsEveryByte) {
  TempDir dir;
  SafetensorsWriter writer(dir / "a.safetensors", {tensor("b", Dtype::kF32, {2})});
  writer.write(bytes_from(0, 7));
  EXPECT_LIGER_ERROR(writer.finish(), ErrorCode::kInternal, "7 of 8 bytes");
  EXPECT_LIGER_ERROR(writer.write(bytes_from(0, 2)), ErrorCode::kInternal, "more data");
}

TEST(WeightFiles, ReadsShardsThroughTheIndex) {
  TempDir dir;
  SafetensorsWriter one(dir / "model-00001-of-00002.safetensors", {tensor("a", Dtype::kF32, {2})});
  SafetensorsWriter two(dir / "model-00002-of-00002.safetensors", {tensor("b", Dtype::kF32, {1})});
  write_all(one);
  write_all(two);
  put(dir / "model.safetensors.index.json",
      R"({"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors",
          "b": "model-00002-of-00002.safetensors"}})");
  const WeightFiles weights(dir.path());
  EXPECT_EQ(weights.total_bytes(), 12u);
  EXPECT_EQ(weights.files().size(), 2u);
  ASSERT_NE(weights.find("b"), nullptr);
  EXPECT_EQ(weights.find("b")->file->data(*weights.find("b")->info).size(), 4u);
}

}  // namespace
}  // namespace liger
