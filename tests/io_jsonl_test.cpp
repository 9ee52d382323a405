#include "liger/io/jsonl.h"

#include "io_test_util.h"

namespace liger {
namespace {

using test::put;
using test::TempDir;

struct Read {
  std::vector<Json> rows;
  std::vector<int64_t> lines;
};

Read read_all(const std::filesystem::path& file) {
  JsonlReader reader(file);
  Read out;
  while (auto row = reader.next()) {
    out.rows.push_back(std::move(*row));
    out.lines.push_back(reader.line());
  }
  EXPECT_FALSE(reader.next().has_value()) << "stays at the end";
  return out;
}

TEST(Jsonl, ReadsRowsWithTheirLines) {
  TempDir dir;
  put(dir / "a.jsonl", "{\"a\": 1}\r\n\n  \t\r\n{\"a\": \"\u00e9\"}\n{}");
  const Read read = read_all(dir / "a.jsonl");
  EXPECT_EQ(read.rows, (std::vector<Json>{{{"a", 1}}, {{"a", "\u00e9"}}, Json::object()}));
  EXPECT_EQ(read.lines, (std::vector<int64_t>{1, 4, 5}));
  JsonlReader reader(dir / "a.jsonl");
  reader.next();
  EXPECT_EQ(reader.where(), (dir / "a.jsonl").string() + ":1");
}

TEST(Jsonl, ReadsOneArray) {
  TempDir dir;
  put(dir / "a.json", "[{\"a\": [1, {\"b\": 2}]},\n\n {\"a\":\n 2}, {\"a\": 3}\n]\n");
  const Read read = read_all(dir / "a.json");
  ASSERT_EQ(read.rows.size(), 3u);
  EXPECT_EQ(read.rows[2], (Json{{"a", 3}}));
  EXPECT_EQ(read.lines, (std::vector<int64_t>{1, 3, 4}));
  put(dir / "none.json", "[]");
  EXPECT_TRUE(read_all(dir / "none.json").rows.empty());
}

TEST(Jsonl, EmptyFilesHaveNoRows) {
  TempDir dir;
  for (const char* text : {"", "\n", "\r\n\n  \n"}) {
    put(dir / "a.jsonl", text);
    EXPECT_TRUE(read_all(dir / "a.jsonl").rows.empty());
  }
}

TEST(Jsonl, LinesCrossBufferBounds) {
  TempDir dir;
  std::string text;
  std::vector<size_t> sizes = {0, 1, 262100, 262143, 262144, 262145, 7, 600000, 3};
  for (const size_t size : sizes) text += "{\"t\":\"" + std::string(size, 'x') + "\"}\n";
  put(dir / "a.jsonl", text);
  const Read read = read_all(dir / "a.jsonl");
  ASSERT_EQ(read.rows.size(), sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) EXPECT_EQ(read.rows[i]["t"].get<std::string>().size(), sizes[i]);
}

TEST(Jsonl, ARowBeforeABadOneIsStillRead) {
  TempDir dir;
  put(dir / "a.jsonl", "{\"a\": 1}\n{\"a\": }\n");
  JsonlReader reader(dir / "a.jsonl");
  EXPECT_TRUE(reader.next().has_value());
  EXPECT_LIGER_ERROR(reader.next(), ErrorCode::kBadInput, "a.jsonl:2:7: ");
}

struct BadRow {
  std::string name, text, expected, file = "a.jsonl";
};
class RefusedRows : public testing::TestWithParam<BadRow> {};

TEST_P(RefusedRows, NameTheLine) {
  TempDir dir;
  put(dir / GetParam().file, GetParam().text);
  EXPECT_LIGER_ERROR(read_all(dir / GetParam().file), ErrorCode::kBadInput,
                     GetParam().file + ":" + GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    Corpus, RefusedRows,
    testing::Values(
        BadRow{"Broken", "{}\n\n{\"a\": 1\n", "3:8: "},
        BadRow{"Array", "{}\n[1]\n", "2: expected an object, got array"},
        BadRow{"Text", "\"a\"\n", "1: expected an object, got string"},
        BadRow{"Null", "{}\nnull\n", "2: expected an object, got null"}, BadRow{"TwoInALine", "{} {}\n", "1:4: "},
        BadRow{"ByteOrderMark", "\xef\xbb\xbf{}\n", "1:1: starts with a byte-order mark"},
        BadRow{"BadUtf8", "{}\n{\"a\": \"\xff\"}\n", "2:8: "}, BadRow{"Nul", std::string("{}\0\n", 4), "1:3: NUL byte"},
        BadRow{"DuplicateKey", "{\"a\": 1, \"a\": 2}\n", "1:10: duplicate key 'a'"},
        BadRow{"NotANumber", "{\"a\": NaN}\n", "1:7: "}, BadRow{"Gzip", "\x1f\x8b\x08 abc", "1:1: "},
        BadRow{"ArrayOfNumbers", "[{},\n1]", "2: expected an object, got number", "a.json"},
        BadRow{"ObjectAsArrayFile", "{}\n", "1: expected an array of objects", "a.json"},
        BadRow{"LinesAsArrayFile", "{}\n{}\n", "2:1: ", "a.json"}, BadRow{"EmptyArrayFile", "", "1:1: ", "a.json"}),
    [](const auto& info) { return info.param.name; });

TEST(Jsonl, AVeryLongLineIsRefusedInBoundedMemory) {
  TempDir dir;
  put(dir / "a.jsonl", "{}\n");
  std::filesystem::resize_file(dir / "a.jsonl", uint64_t{1} << 40);  // sparse: one line of a terabyte
  EXPECT_LIGER_ERROR(read_all(dir / "a.jsonl"), ErrorCode::kBadInput, "a.jsonl:2: a line of more than 32 MiB");
}

TEST(Jsonl, FilesThatCannotBeRead) {
  TempDir dir;
  EXPECT_LIGER_ERROR(JsonlReader(dir / "no.jsonl"), ErrorCode::kBadInput, "no.jsonl: no such file");
  EXPECT_LIGER_ERROR(JsonlReader(dir.path()), ErrorCode::kBadInput, "got a directory");
}

TEST(Jsonl, StringField) {
  const Json row = {{"text", "abc"}, {"n", 3}};
  EXPECT_EQ(string_field(row, "text", "f:1"), "abc");
  EXPECT_LIGER_ERROR(string_field(row, "output", "f:1"), ErrorCode::kBadInput, "f:1: the field 'output' is missing");
  EXPECT_LIGER_ERROR(string_field(row, "n", "f:1"), ErrorCode::kBadInput, "f:1: 'n': expected text, got number");
}

}  // namespace
}  // namespace liger
