#include <zlib.h>
#include <zstd.h>

#include "io_test_util.h"
#include "liger/io/jsonl.h"

namespace liger {
namespace {

using test::put;
using test::TempDir;

std::string gzip(std::string_view text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const size_t size = ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size());
  EXPECT_FALSE(ZSTD_isError(size));
  ZSTD_freeCCtx(context);
  out.resize(size);
  return out;
}

std::vector<std::string> rows_of(const std::filesystem::path& file) {
  JsonlReader reader(file);
  std::vector<std::string> rows;
  while (const auto row = reader.next()) rows.push_back(cat(reader.line(), " ", row->dump()));
  return rows;
}

struct Kind {
  std::string ending;
  std::string (*compress)(std::string_view);
};

class Compressed : public testing::TestWithParam<Kind> {
 protected:
  std::filesystem::path file(const std::string& name = "a.jsonl") const { return dir_ / (name + GetParam().ending); }
  std::string packed(std::string_view text) const { return GetParam().compress(text); }
  TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(Kinds, Compressed, testing::Values(Kind{".gz", gzip}, Kind{".zst", zstd}),
                         [](const auto& info) { return info.param.ending.substr(1); });

TEST_P(Compressed, RowsAndLinesAreThoseOfTheFileItself) {
  std::string lines;
  for (int i = 0; i < 20000; ++i)
    lines += cat("{\"i\": ", i, ", \"t\": \"", std::string(i % 97, 'x'), "\"}\n", i % 5 ? "" : "\n");
  put(dir_ / "a.jsonl", lines);
  put(file(), packed(lines));
  const auto expected = rows_of(dir_ / "a.jsonl");
  ASSERT_EQ(expected.size(), 20000u);
  EXPECT_EQ(rows_of(file()), expected);
  // Streams one after the other, as `cat a.gz b.gz` makes them, cut within a line.
  put(file(), packed(lines.substr(0, 100001)) + packed("") + packed(lines.substr(100001)));
  EXPECT_EQ(rows_of(file()), expected);

  const std::string array = "[{\"a\": 1},\n\n{\"a\": 2}]";
  put(file("a.json"), packed(array));
  EXPECT_EQ(rows_of(file("a.json")), (std::vector<std::string>{"1 {\"a\":1}", "3 {\"a\":2}"}));
  put(file("upper.name.jsonl"), packed(""));
  EXPECT_TRUE(rows_of(file("upper.name.jsonl")).empty());
}

TEST_P(Compressed, WhatIsWrongInTheRowsIsNamedByLine) {
  put(file(), packed("{}\n\n{\"a\": }\n"));
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, "a.jsonl" + GetParam().ending + ":3:7: ");
}

TEST_P(Compressed, CutShortAnywhereIsAnError) {
  const std::string whole = packed("{\"a\": 1}\n{\"a\": 2}\n");
  for (size_t size = 0; size < whole.size(); ++size) {
    put(file(), whole.substr(0, size));
    EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, "a.jsonl" + GetParam().ending + ":");
    put(file("a.json"), whole.substr(0, size));
    EXPECT_LIGER_ERROR(rows_of(file("a.json")), ErrorCode::kBadInput, "a.json" + GetParam().ending + ":");
  }
  put(file(), whole.substr(0, whole.size() - 2));
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, ":3: the compressed file ends in its middle");
  put(file(), whole + whole.substr(0, 9));
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, ":3: the compressed file ends in its middle");
}

TEST_P(Compressed, AFlippedBitIsAnErrorOrChangesNothing) {
  const std::string whole = packed("{\"a\": \"once upon a time\"}\n{\"a\": \"once upon a lime\"}\n");
  put(file(), whole);
  const auto expected = rows_of(file());
  int refused = 0;
  for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
    std::string bad = whole;
    bad[bit / 8] ^= static_cast<char>(1 << bit % 8);
    put(file(), bad);
    try {
      EXPECT_EQ(rows_of(file()), expected) << bit;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kBadInput) << bit;
      EXPECT_TRUE(std::string(e.what()).starts_with(file().string() + ":")) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(6 * whole.size()));
}

TEST_P(Compressed, OtherBytesAreRefused) {
  for (const std::string bytes : {"{\"a\": 1}\n", "", "\x1f\x8b", "PK\x03\x04", "\x28\xb5\x2f\xfd"}) {
    put(file(), bytes);
    EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, "a.jsonl" + GetParam().ending + ":1: ");
  }
  put(file(), packed("{}\n") + "rubbish after it");
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, ":2: the ");
}

TEST_P(Compressed, ABombIsRefusedInBoundedMemory) {
  put(file(), packed(std::string(size_t{80} << 20, '\n')));
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, "unpack the file first");
  put(file(), packed(std::string(size_t{80} << 20, ' ')));
  EXPECT_LIGER_ERROR(rows_of(file()), ErrorCode::kBadInput, ":1: ");  // too long a line comes first
  put(file("a.json"), packed("[" + std::string(size_t{80} << 20, ' ')));
  EXPECT_LIGER_ERROR(rows_of(file("a.json")), ErrorCode::kBadInput, "unpack the file first");
}

// A zstd frame may ask for a window of gigabytes before its first byte.
TEST(Zstd, AHugeWindowIsRefused) {
  TempDir dir;
  put(dir / "a.jsonl.zst", std::string("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", 9));  // window 2^31
  EXPECT_LIGER_ERROR(rows_of(dir / "a.jsonl.zst"), ErrorCode::kBadInput, ":1: the zstd stream is damaged: ");
}

}  // namespace
}  // namespace liger
