// Files that are not what they claim to be: each must be refused with one line that names the file and the reason.

#include <sys/resource.h>
#include <sys/stat.h>

#include <cstring>

#include "io/safetensors_header.h"
#include "io/text.h"
#include "io_test_util.h"
#include "liger/io/safetensors.h"

namespace liger {
namespace {

using test::put;
using test::TempDir;

std::string with_length(uint64_t length, const std::string& rest) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + rest;
}

/// A file of this header and so many bytes of zero data.
std::string file_of(const std::string& header, size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, '\0'));
}

/// The same with the header padded to a multiple of 8, so that alignment is not what is wrong.
std::string padded(std::string header, size_t data_bytes) {
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return file_of(header, data_bytes);
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return "{" + entry("a", dtype, shape, offsets) + "}";
}

const std::string kGood = "{\"__metadata__\":{\"format\":\"pt\"}," + entry("a", "F32", "[2]", "[0,8]") + "," +
                          entry("b", "U8", "[2,1]", "[8,10]") + "," + entry("c", "BF16", "[0]", "[10,10]") + "}";

std::string repeat(const std::string& piece, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += piece;
  return out;
}

struct BadFile {
  std::string name, bytes, expected;
};

std::vector<BadFile> lengths() {
  return {{"NoBytes", "", "expected at least 8 bytes, got 0"},
          {"SevenBytes", std::string(7, '\0'), "expected at least 8 bytes, got 7"},
          {"ZeroLength", with_length(0, "{}"), "does not begin with '{'"},
          {"OnlyZeros", std::string(4096, '\0'), "does not begin with '{'"},
          {"LengthBeyondFile", with_length(9, "{}"), "header of 9 bytes in a file of 10"},
          {"LengthOneBeyond", with_length(3, "{}"), "header of 3 bytes in a file of 10"},
          {"LengthAboveLimit", with_length(100'000'001, "{}"), "at most 100000000 are allowed"},
          {"LengthOverflows", with_length(UINT64_MAX, "{}"), "at most 100000000 are allowed"},
          {"LengthNegative", with_length(uint64_t{1} << 63, "{}"), "at most 100000000 are allowed"},
          {"LengthBigEndian", std::string("\0\0\0\0\0\0\0\2{}", 10), "the header length is big-endian"}};
}

std::vector<BadFile> texts() {
  return {{"BadUtf8", padded("{\"\xff\":1}", 0), "header:1:3: "},
          {"OverlongUtf8", padded("{\"\xc0\xaf\":1}", 0), "header:1:3: "},
          {"LoneSurrogate", padded("{\"\\ud800\":1}", 0), "header:1:"},
          {"ByteOrderMark", padded("\xef\xbb\xbf{}", 0), "does not begin with '{'"},
          {"LeadingSpace", padded(" {}", 0), "does not begin with '{'"},
          {"LeadingNewline", padded("\n{}", 0), "does not begin with '{'"},
          {"NulPadding", file_of(std::string("{}\0\0\0\0\0\0", 8), 0), "header:1:3: NUL byte"},
          {"NewlinePadding", file_of("{}\n     ", 0), "header:1:3: expected spaces after the header"},
          {"TextAfter", padded("{}x", 0), "header:1:3: "},
          {"SecondObject", padded("{}{}", 0), "header:1:3: "},
          {"Unclosed", padded("{", 0), "header:1:"},
          {"ControlCharacter", padded("{\"a\x01\":1}", 0), "header:1:4: "},
          {"Comment", padded("{/* x */}", 0), "header:1:2: "},
          {"SingleQuotes", padded("{'a':1}", 0), "header:1:2: "},
          {"TrailingComma", padded("{" + entry("a", "U8", "[0]", "[0,0]") + ",}", 0), "header:1:"},
          {"NotANumber", padded(one("U8", "[NaN]", "[0,1]"), 1), "header:1:29: "},
          {"RootIsArray", padded("[]", 0), "does not begin with '{'"},
          {"RootIsNumber", padded("1", 0), "does not begin with '{'"},
          {"DeepArrays", padded("{\"a\":" + std::string(200, '['), 0), "header:1:6: expected an object with dtype"},
          {"DeepObjects", padded(repeat("{\"a\":", 200), 0), "header:1:7: tensor 'a': unknown field 'a'"}};
}

std::vector<BadFile> fields() {
  const std::string dtype = "\"dtype\":\"U8\"", shape = "\"shape\":[1]", offsets = "\"data_offsets\":[0,1]";
  const auto tensor = [](const std::string& all) { return padded("{\"a\":{" + all + "}}", 1); };
  return {
      {"TensorIsNumber", padded("{\"a\":1}", 0),
       "expected an object with dtype, shape and data_offsets, got the integer 1"},
      {"TensorIsNull", padded("{\"a\":null}", 0), "data_offsets, got null"},
      {"TensorIsString", padded("{\"a\":\"x\"}", 0), "data_offsets, got a string"},
      {"NoDtype", tensor(shape + "," + offsets), "tensor 'a': 'dtype' is missing"},
      {"NoShape", tensor(dtype + "," + offsets), "tensor 'a': 'shape' is missing"},
      {"NoOffsets", tensor(dtype + "," + shape), "tensor 'a': 'data_offsets' is missing"},
      {"NoFields", tensor(""), "tensor 'a': 'dtype' is missing"},
      {"DuplicateDtype", tensor(dtype + "," + dtype + "," + shape + "," + offsets), "duplicate field 'dtype'"},
      {"DuplicateShape", tensor(dtype + "," + shape + "," + shape + "," + offsets), "duplicate field 'shape'"},
      {"DuplicateOffsets", tensor(dtype + "," + shape + "," + offsets + "," + offsets),
       "duplicate field 'data_offsets'"},
      {"UnknownField", tensor(dtype + "," + shape + "," + offsets + ",\"x\":1"), "tensor 'a': unknown field 'x'"},
      {"UnknownDtype", padded(one("Q7", "[1]", "[0,1]"), 1),
       "tensor 'a': unknown dtype 'Q7'; expected one of BOOL, U8"},
      {"LowerCaseDtype", padded(one("f32", "[1]", "[0,4]"), 4), "unknown dtype 'f32'"},
      {"SubByteDtype", padded(one("F4", "[2]", "[0,1]"), 1), "unknown dtype 'F4'"},
      {"ComplexDtype", padded(one("C64", "[1]", "[0,8]"), 8), "unknown dtype 'C64'"},
      {"DtypeIsNumber", tensor("\"dtype\":5," + shape + "," + offsets),
       "expected the name of a dtype, got the integer 5"},
      {"DtypeIsList", tensor("\"dtype\":[\"U8\"]," + shape + "," + offsets),
       "expected the name of a dtype, got a list"},
      {"DuplicateTensor",
       padded("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("a", "U8", "[1]", "[0,1]") + "}", 1),
       "duplicate tensor 'a'"},
      {"DuplicateOtherShape",
       padded("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("\\u0061", "U8", "[2]", "[1,3]") + "}", 3),
       "duplicate tensor 'a'"},
      {"NoName", padded("{" + entry("", "U8", "[1]", "[0,1]") + "}", 1), "a tensor without a name"},
      {"NulInName", padded("{" + entry("a\\u0000b", "U8", "[1]", "[0,1]") + "}", 1), "NUL in the tensor name"},
      {"LongName", padded("{" + entry(std::string(1025, 'n'), "U8", "[1]", "[0,1]") + "}", 1),
       "tensor name of 1025 bytes"},
      {"MetadataIsList", padded("{\"__metadata__\":[]}", 0), "expected an object of strings, got a list"},
      {"MetadataIsNull", padded("{\"__metadata__\":null}", 0), "expected an object of strings, got null"},
      {"MetadataNumber", padded("{\"__metadata__\":{\"a\":1}}", 0), "expected a string, got the integer 1"},
      {"MetadataNested", padded("{\"__metadata__\":{\"a\":{}}}", 0), "expected a string, got an object"},
      {"MetadataDuplicateKey", padded("{\"__metadata__\":{\"a\":\"1\",\"a\":\"1\"}}", 0), "duplicate metadata key 'a'"},
      {"MetadataTwice", padded("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "duplicate '__metadata__'"},
      {"EscapesInName", padded("{" + entry("\\u001b[2J", "Q7", "[1]", "[0,1]") + "}", 1),
       "tensor '\\x1B[2J': unknown dtype"}};
}

std::vector<BadFile> shapes() {
  const auto shape = [](const std::string& text, size_t bytes = 1) {
    return padded(one("U8", text, "[0," + std::to_string(bytes) + "]"), bytes);
  };
  return {{"ShapeNegative", shape("[-1]"), "expected a size, a whole number from 0, got the integer -1"},
          {"ShapeMinusZero", shape("[-0]", 0), "expected a size"},
          {"ShapeFloat", shape("[1.0]"), "expected a size, a whole number from 0, got the number 1.0"},
          {"ShapeExponent", shape("[1e0]"), "got the number 1e0"},
          {"ShapeString", shape("[\"1\"]"), "expected a size, a whole number from 0, got a string"},
          {"ShapeBool", shape("[true]"), "expected a size, a whole number from 0, got a boolean"},
          {"ShapeNull", shape("[null]"), "got null"},
          {"ShapeNested", shape("[[1]]"), "expected a size, a whole number from 0, got a list"},
          {"ShapeObject", shape("{}"), "expected a list of sizes, got an object"},
          {"ShapeNumber", shape("1"), "expected a list of sizes, got the integer 1"},
          {"ShapeBeyond64Bits", shape("[18446744073709551616]"), "got the number 18446744073709551616"},
          {"ShapeBeyond63Bits", shape("[9223372036854775808]"), "size too large"},
          {"RankNine", shape("[1,1,1,1,1,1,1,1,1]"), "more than 8 dimensions"},
          {"ProductOverflows", shape("[4294967296,4294967296,16]"), "shape [4294967296, 4294967296, 16] overflows"},
          {"ProductOverflowsBeforeZero", shape("[4294967296,4294967296,0]", 0), "overflows"},
          {"BytesOverflow", padded(one("F64", "[2305843009213693952]", "[0,0]"), 0), "overflows"},
          {"BytesWrapToSize", padded(one("F64", "[2305843009213693953]", "[0,8]"), 8), "overflows"},
          {"SizeTooSmall", padded(one("F32", "[2]", "[0,4]"), 4),
           "tensor 'a': F32 [2] takes 8 bytes, but data_offsets span 4"},
          {"SizeTooLarge", padded(one("F32", "[1]", "[0,8]"), 8), "takes 4 bytes, but data_offsets span 8"},
          {"ScalarOfNoBytes", padded(one("F32", "[]", "[0,0]"), 0), "takes 4 bytes, but data_offsets span 0"}};
}

std::vector<BadFile> offsets() {
  const auto with = [](const std::string& text, size_t bytes) { return padded(one("U8", "[1]", text), bytes); };
  const auto two = [](const std::string& first, const std::string& second, size_t bytes) {
    return padded("{" + entry("a", "U8", "[2]", first) + "," + entry("b", "U8", "[2]", second) + "}", bytes);
  };
  return {
      {"NoOffset", with("[]", 1), "expected two data_offsets, got 0"},
      {"OneOffset", with("[0]", 1), "expected two data_offsets, got 1"},
      {"ThreeOffsets", with("[0,1,1]", 1), "expected two data_offsets, got more"},
      {"OffsetNegative", with("[-1,0]", 1), "expected an offset, a whole number from 0, got the integer -1"},
      {"OffsetFloat", with("[0.0,1]", 1), "expected an offset, a whole number from 0, got the number 0.0"},
      {"OffsetString", with("[\"0\",1]", 1), "expected an offset, a whole number from 0, got a string"},
      {"OffsetsObject", with("{\"0\":0}", 1), "expected a list of two offsets, got an object"},
      {"BeginAfterEnd", with("[1,0]", 1), "data_offsets end before they begin"},
      {"EndBeyondData", with("[0,1]", 0), "reach beyond the 0 data bytes of the file"},
      {"EndFarBeyond", padded(one("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 1),
       "reach beyond the 1 data bytes"},
      {"OffsetsWrap", with("[18446744073709551615,18446744073709551615]", 1), "reach beyond"},
      {"HoleAtStart", with("[1,2]", 2), "tensor 'a': 1 unused bytes before it"},
      {"HoleInMiddle", two("[0,2]", "[3,5]", 5), "tensor 'b': 1 unused bytes before it"},
      {"BytesAtEnd", with("[0,1]", 2), "1 bytes after the last tensor"},
      {"OnlyData", padded("{}", 5), "5 bytes after the last tensor"},
      {"Overlap", two("[0,2]", "[1,3]", 3), "tensor 'b': shares bytes with 'a'"},
      {"SharedRange", two("[0,2]", "[0,2]", 2), "tensor 'b': shares bytes with 'a'"},
      {"Contained", padded("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[1]", "[1,2]") + "}", 4),
       "tensor 'b': shares bytes with 'a'"},
      {"EmptyInside", padded("{" + entry("a", "U8", "[4]", "[0,4]") + "," + entry("b", "U8", "[0]", "[2,2]") + "}", 4),
       "tensor 'b': shares bytes with 'a'"},
      {"Misaligned", padded("{" + entry("a", "U8", "[1]", "[0,1]") + "," + entry("b", "F32", "[1]", "[1,5]") + "}", 5),
       "not a multiple of 4"},
      {"HeaderMisaligns",
       file_of(one("F32", "[1]", "[0,4]") + repeat(" ", (9 - one("F32", "[1]", "[0,4]").size() % 8) % 8), 4),
       "not a multiple of 4"}};
}

std::vector<BadFile> foreign_files() {
  return {{"Zip", std::string("PK\x03\x04\x14\0\0\0", 8) + std::string(100, 'x'),
           "got a zip archive, perhaps weights pickled"},
          {"ZipOfSmallVersion", std::string("PK\x03\x04\0\0\0\0", 8) + std::string(100, 'x'), "got a zip archive"},
          {"Pickle", "\x80\x02}q\x01(U\x06weight" + std::string(100, 'x'), "got a pickle, which can run code"},
          {"Gguf", std::string("GGUF\x03\0\0\0", 8) + std::string(100, '\0'), "got a GGUF file"},
          {"Html", "<!DOCTYPE html><html><body>404</body></html>", "got a web page"},
          {"HtmlAfterBlanks", "\n  <html>\n<body>not found</body></html>", "got a web page"},
          {"LfsPointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "run `git lfs pull`"},
          {"Gzip", std::string("\x1f\x8b\x08\0\0\0\0\0", 8) + std::string(100, 'x'), "got a gzip file"},
          {"Zstd", "\x28\xb5\x2f\xfd" + std::string(100, 'x'), "got a zstd file"},
          {"Json", "{\"weight_map\": {\"a\": \"b\"}}", "got a JSON text"},
          {"NumPy", "\x93NUMPY" + std::string(100, 'x'), "got a NumPy file"},
          {"Hdf5", "\x89HDF\r\n\x1a\n" + std::string(100, 'x'), "got an HDF5 file"},
          {"ShortPickle", "\x80\x04.", "got a pickle"},
          {"Noise", "kz3hf8w7ghw4o8gh", "an incomplete download, or no safetensors file?"}};
}

class RefusedFile : public testing::TestWithParam<BadFile> {};

TEST_P(RefusedFile, NamesTheReason) {
  TempDir dir;
  put(dir / "m.safetensors", GetParam().bytes);
  const Error error = test::error_of([&] { SafetensorsFile(dir / "m.safetensors"); });
  EXPECT_EQ(error.code(), ErrorCode::kBadInput);
  EXPECT_TRUE(std::string(error.what()).starts_with((dir / "m.safetensors").string() + ": ")) << error.what();
  EXPECT_NE(std::string(error.what()).find(GetParam().expected), std::string::npos) << error.what();
}

std::string name_of(const testing::TestParamInfo<BadFile>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Length, RefusedFile, testing::ValuesIn(lengths()), name_of);
INSTANTIATE_TEST_SUITE_P(Text, RefusedFile, testing::ValuesIn(texts()), name_of);
INSTANTIATE_TEST_SUITE_P(Fields, RefusedFile, testing::ValuesIn(fields()), name_of);
INSTANTIATE_TEST_SUITE_P(Shape, RefusedFile, testing::ValuesIn(shapes()), name_of);
INSTANTIATE_TEST_SUITE_P(Offsets, RefusedFile, testing::ValuesIn(offsets()), name_of);
INSTANTIATE_TEST_SUITE_P(Foreign, RefusedFile, testing::ValuesIn(foreign_files()), name_of);

TEST(SafetensorsCorpus, GoodFilesAreRead) {
  TempDir dir;
  const std::vector<std::pair<std::string, size_t>> good = {
      {padded(kGood, 10), 3},
      {padded("{}", 0), 0},
      {file_of("{}", 0), 0},
      {padded("{\"__metadata__\":{}}", 0), 0},
      {padded(one("F32", "[]", "[0,4]"), 4), 1},
      {padded(one("F32", "[0,5]", "[0,0]"), 0), 1},
      {padded(one("U8", "[1,1,1,1,1,1,1,1]", "[0,1]"), 1), 1},
      {padded("{ \"a\" : { \"data_offsets\" : [ 0 , 1 ] ,\n \"shape\":[1],\"dtype\":\"U8\" } }", 1), 1},
      {padded("{" + entry("b", "U8", "[2]", "[2,4]") + "," + entry("a", "U8", "[2]", "[0,2]") + "}", 4), 2},
      {padded("{" + entry("a", "U8", "[0]", "[2,2]") + "," + entry("b", "U8", "[2]", "[0,2]") + "," +
                  entry("c", "U8", "[0]", "[0,0]") + "}",
              2),
       3},
      {padded("{" + entry(std::string(1024, 'n'), "U8", "[1]", "[0,1]") + "}", 1), 1},
      {padded("{" + entry("\\u00e9\\\"\\n", "U8", "[1]", "[0,1]") + "}", 1), 1}};
  for (const auto& [bytes, tensors] : good) {
    put(dir / "m.safetensors", bytes);
    EXPECT_EQ(SafetensorsFile(dir / "m.safetensors").tensors().size(), tensors) << detail::printable(bytes, 200);
  }
}

TEST(SafetensorsCorpus, CutAtEveryByteIsAnError) {
  TempDir dir;
  const std::string bytes = padded(kGood, 10);
  for (size_t size = 0; size < bytes.size(); ++size) {
    put(dir / "m.safetensors", bytes.substr(0, size));
    const Error error = test::error_of([&] { SafetensorsFile(dir / "m.safetensors"); });
    EXPECT_EQ(error.code(), ErrorCode::kBadInput) << size << ": " << error.what();
  }
}

TEST(SafetensorsCorpus, EveryFlippedBitIsAnErrorOrAnotherValidHeader) {
  TempDir dir;
  const std::string bytes = padded(kGood, 10);
  size_t accepted = 0;
  for (size_t bit = 0; bit < (bytes.size() - 10) * 8; ++bit) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    put(dir / "m.safetensors", flipped);
    try {
      // What is accepted must still tile the file; a flipped letter of a name does that.
      const SafetensorsFile file(dir / "m.safetensors");
      uint64_t sum = 0;
      for (const TensorInfo& info : file.tensors()) sum += file.data(info).size();
      EXPECT_EQ(sum, 10u);
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
    }
  }
  // Bits of the names 'a', 'b', 'c', of "__metadata__" and its strings, of the size in c's shape, and dtypes alike.
  EXPECT_LT(accepted, bytes.size() * 2);
}

TEST(SafetensorsCorpus, SparseTerabyteIsBounded) {
  TempDir dir;
  const std::filesystem::path file = dir / "m.safetensors";
  put(file, "");
  std::filesystem::resize_file(file, uint64_t{1} << 40);
  EXPECT_LIGER_ERROR(SafetensorsFile{file}, ErrorCode::kBadInput, "does not begin with '{'");
  put(file, with_length(100'000'000, "{"));  // a header of the largest size, of zeros
  std::filesystem::resize_file(file, uint64_t{1} << 40);
  EXPECT_LIGER_ERROR(SafetensorsFile{file}, ErrorCode::kBadInput, "header:1:2: NUL byte");
  const uint64_t elements = uint64_t{1} << 40;
  put(file, padded(one("U8", cat("[", elements, "]"), cat("[0,", elements, "]")), 0));
  std::filesystem::resize_file(file, std::filesystem::file_size(file) + elements);
  const SafetensorsFile good(file);
  EXPECT_EQ(good.data(good.tensors()[0]).size(), elements);
  EXPECT_EQ(good.data(good.tensors()[0]).back(), std::byte{0});
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  EXPECT_LT(usage.ru_maxrss, 1 << 20) << "KiB";
}

TEST(SafetensorsCorpus, NotAFile) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  EXPECT_LIGER_ERROR(SafetensorsFile(dir / "pipe"), ErrorCode::kBadInput, "pipe: expected a file, got a named pipe");
  EXPECT_LIGER_ERROR(SafetensorsFile(dir.path()), ErrorCode::kBadInput, "expected a file, got a directory");
  EXPECT_LIGER_ERROR(SafetensorsFile(dir / "none"), ErrorCode::kIo, "none: cannot open: No such file");
}

TEST(SafetensorsCorpus, CutShortWhileRead) {
  TempDir dir;
  put(dir / "m.safetensors", padded(kGood, 10));
  const SafetensorsFile file(dir / "m.safetensors");
  std::filesystem::resize_file(dir / "m.safetensors", std::filesystem::file_size(dir / "m.safetensors") - 5);
  std::vector<std::byte> out(8);
  EXPECT_LIGER_ERROR(file.read(*file.find("a"), out), ErrorCode::kBadInput, "was cut short while in use");
}

TEST(SafetensorsCorpus, BoolsAreZeroOrOne) {
  TempDir dir;
  std::string bytes = padded(one("BOOL", "[3]", "[0,3]"), 3);
  bytes[bytes.size() - 2] = 1;
  put(dir / "m.safetensors", bytes);
  std::vector<std::byte> out(3);
  {
    const SafetensorsFile file(dir / "m.safetensors");
    EXPECT_EQ(file.data(file.tensors()[0])[1], std::byte{1});
    file.read(file.tensors()[0], out);
  }
  bytes[bytes.size() - 1] = 2;
  put(dir / "m.safetensors", bytes);
  const SafetensorsFile file(dir / "m.safetensors");
  EXPECT_LIGER_ERROR(file.data(file.tensors()[0]), ErrorCode::kBadInput, "tensor 'a': element 2 of a BOOL tensor is 2");
  EXPECT_LIGER_ERROR(file.read(file.tensors()[0], out), ErrorCode::kBadInput, "element 2");
}

TEST(SafetensorsCorpus, AMillionTensorsAndNoMore) {
  std::string json = "{";
  for (int i = 0; i < 1'000'000; ++i) json += entry(std::to_string(i), "U8", "[0]", "[0,0]") + ",";
  EXPECT_LIGER_ERROR(detail::parse_safetensors_header(json + entry("x", "U8", "[0]", "[0,0]") + "}", 8, 0, "m"),
                     ErrorCode::kBadInput, "more than 1000000 tensors");
}

}  // namespace
}  // namespace liger
