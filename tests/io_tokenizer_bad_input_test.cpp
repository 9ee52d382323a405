#include <cstring>
#include <ctime>
#include <limits>
#include <random>

#include "io/bpe_tokenizer.h"
#include "io/sentencepiece_tokenizer.h"
#include "tokenizer_testing.h"

namespace liger {
namespace {

using test::load_patched;
using test::TokenizerFolder;

// ---- tokenizer.json ----

struct BadJson {
  const char* name;
  const char* base;
  const char* patch;     // JSON merge patch
  const char* expected;  // part of the message
};
void PrintTo(const BadJson& bad, std::ostream* out) { *out << bad.name; }

class BadTokenizerJson : public testing::TestWithParam<BadJson> {};

TEST_P(BadTokenizerJson, IsRefusedWithTheReason) {
  const Json patch = Json::parse(GetParam().patch);
  EXPECT_LIGER_ERROR(load_patched(GetParam().base, patch), ErrorCode::kBadInput, GetParam().expected);
  EXPECT_LIGER_ERROR(load_patched(GetParam().base, patch), ErrorCode::kBadInput, "tokenizer.json: ");
}

const BadJson kBadJson[] = {
    {"duplicate_id", "llama3", R"({"model": {"vocab": {"zq": 5}}})", "id 5 is also that of"},
    {"negative_id", "llama3", R"({"model": {"vocab": {"zq": -1}}})", "'zq': expected a token id from 0"},
    {"fractional_id", "llama3", R"({"model": {"vocab": {"zq": 1.5}}})", "got 1.5"},
    {"string_id", "llama3", R"({"model": {"vocab": {"zq": "7"}}})", "got the string '7'"},
    {"huge_id", "llama3", R"({"model": {"vocab": {"zq": 18446744073709551615}}})", "expected a token id"},
    {"far_id", "llama3", R"({"model": {"vocab": {"zq": 2000000000}}})", "far beyond the"},
    {"empty_vocab", "llama3", R"({"model": {"vocab": null}})", "'vocab' is missing"},
    {"vocab_is_list", "llama3", R"({"model": {"vocab": []}})", "model.vocab: expected an object, got an array"},
    {"merge_of_unknown", "llama3", R"({"model": {"merges": [["q", "zqz"]]}})", "model.merges[0]"},
    {"merge_result_absent", "llama3", R"({"model": {"merges": [["h", "e"], ["~", "~"]]}})",
     "model.merges[1]: '~~' is not in the vocabulary"},
    {"merge_of_nothing", "llama3", R"({"model": {"merges": ["a "]}})", "'' is not in the vocabulary"},
    {"duplicate_merge", "llama3", R"({"model": {"merges": [["h", "e"], "h e"]}})", "'h' and 'e' are merged twice"},
    {"merge_of_three", "llama3", R"({"model": {"merges": ["a b c"]}})", "two pieces with one space between"},
    {"merge_is_number", "llama3", R"({"model": {"merges": [1]}})", "got 1"},
    {"merge_list_of_one", "llama3", R"({"model": {"merges": [["a"]]}})", "expected [\"left\", \"right\"]"},
    {"merges_missing", "llama3", R"({"model": {"merges": null}})", "'merges' is missing"},
    {"byte_missing", "llama2", R"({"model": {"vocab": {"<0xE4>": null}}})", "needs the piece '<0xE4>'"},
    {"ascii_byte_missing", "llama2", R"({"model": {"vocab": {"<0x00>": null}}})", "needs the piece '<0x00>'"},
    {"byte_level_byte_missing", "llama3", R"({"added_tokens": [], "model": {"vocab": {"Ã": null}, "merges": []}})",
     "byte 195 has no piece"},
    {"nothing_for_unknown_text", "llama2", R"({"model": {"byte_fallback": false, "unk_token": null}})",
     "characters outside the vocabulary would be lost"},
    {"unk_token_unknown", "llama2", R"({"model": {"unk_token": "<nope>"}})",
     "unk_token '<nope>' is not in the vocabulary"},
    {"model_type", "llama3", R"({"model": {"type": "WordPiece"}})", "type 'WordPiece' is not supported"},
    {"model_missing", "llama3", R"({"model": null})", "'model' is missing"},
    {"model_is_string", "llama3", R"({"model": "BPE"})", "model: expected an object"},
    {"dropout", "llama3", R"({"model": {"dropout": 0.1}})", "dropout 0.1 is not supported"},
    {"subword_prefix", "llama3", R"({"model": {"continuing_subword_prefix": "##"}})",
     "'continuing_subword_prefix' is not"},
    {"word_suffix", "llama3", R"({"model": {"end_of_word_suffix": "</w>"}})", "'end_of_word_suffix' is not supported"},
    {"model_field", "llama3", R"({"model": {"max_len": 5}})", "the field 'max_len' is not supported"},
    {"bool_is_number", "llama3", R"({"model": {"ignore_merges": 1}})",
     "'ignore_merges': expected true or false, got 1"},
    {"version", "llama3", R"({"version": "2.0"})", "version '2.0' is not supported"},
    {"document_field", "llama3", R"({"extra": {}})", "the field 'extra' is not supported"},
    {"normalizer", "llama3", R"({"normalizer": {"type": "BertNormalizer"}})",
     "normalizer: type 'BertNormalizer' is not supported"},
    {"nested_normalizer", "llama3", R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}]}})",
     "normalizer.normalizers[0]: type 'Nmt'"},
    {"normalizer_regex", "llama3",
     R"({"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}})",
     "' {2,}' is not supported"},
    {"normalizer_field", "llama3", R"({"normalizer": {"type": "NFC", "form": 1}})",
     "the field 'form' is not supported"},
    {"normalizer_strip", "llama3", R"({"normalizer": {"type": "Strip", "strip_left": 1}})",
     "'strip_left': expected true or false, got 1"},
    {"normalizer_no_type", "llama3", R"({"normalizer": {}})", "normalizer: 'type' is missing"},
    {"empty_pattern", "llama3", R"({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": " "}})",
     "the empty string is not supported"},
    {"pre_tokenizer", "llama3", R"({"pre_tokenizer": {"type": "Digits", "pretokenizers": null}})", "type 'Digits'"},
    {"bad_regex", "llama3",
     R"({"pre_tokenizer": {"pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a+)+("}, "behavior": "Isolated"}]}})",
     "the regular expression '(a+)+(' is not supported"},
    {"split_behavior", "gemma", R"({"pre_tokenizer": {"behavior": "Contiguous"}})",
     "behavior 'Contiguous' is not supported"},
    {"split_inverted", "gemma", R"({"pre_tokenizer": {"invert": true}})", "inverted is not supported"},
    {"metaspace_scheme", "llama2",
     R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "often"}})",
     "'often' is not supported"},
    {"metaspace_contradiction", "llama2",
     R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "add_prefix_space": false}})",
     "contradict each other"},
    {"metaspace_two_characters", "llama2", R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}})",
     "expected one character, got 'ab'"},
    {"first_after_prepend", "llama2",
     R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}})",
     "'first' is not supported after this normalizer"},
    {"decoder", "llama3", R"({"decoder": {"type": "CTC"}})", "decoder: type 'CTC' is not supported"},
    {"decoder_missing", "llama3", R"({"decoder": null})", "decoder: none given"},
    {"strip_end", "llama2", R"({"decoder": {"decoders": [{"type": "Strip", "content": " ", "start": 0, "stop": 1}]}})",
     "'stop' other than 0 is not supported"},
    {"strip_count", "llama2",
     R"({"decoder": {"decoders": [{"type": "Strip", "content": " ", "start": -1, "stop": 0}]}})",
     "expected a count, got -1"},
    {"decoder_after_fuse", "llama2", R"({"decoder": {"decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}})",
     "not supported after the pieces have been joined"},
    {"replace_after_fuse", "llama2",
     R"({"decoder": {"decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "ab"}, "content": ""}]}})",
     "'ab' is more than one character"},
    {"post_processor", "llama2", R"({"post_processor": {"type": "BertProcessing"}})", "type 'BertProcessing'"},
    {"template_unknown_name", "llama2", R"({"post_processor": {"special_tokens": {"<s>": null}}})",
     "'<s>' is not in special_tokens"},
    {"template_unknown_id", "llama2", R"({"post_processor": {"special_tokens": {"<s>": {"ids": [99999]}}}})",
     "id 99999 is not in the vocabulary"},
    {"template_wrong_id", "llama2", R"({"post_processor": {"special_tokens": {"<s>": {"ids": [2]}}}})",
     "id 2 is '</s>', not the string '<s>'"},
    {"template_lengths", "llama2", R"({"post_processor": {"special_tokens": {"<s>": {"ids": [1, 1]}}}})",
     "arrays of one length"},
    {"template_without_text", "llama2", R"({"post_processor": {"single": []}})",
     "the text must stand in it once, it does 0"},
    {"template_text_b", "llama2", R"({"post_processor": {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}})",
     "only the text A"},
    {"added_id_of_another", "llama3", R"({"added_tokens": [{"id": 3, "content": "<x>", "special": true}]})",
     "'<x>' has id 3, but its place in the list gives it"},
    {"added_id_of_vocabulary", "llama3", R"({"added_tokens": [{"id": 700, "content": "a", "special": true}]})",
     "'a' has id 700, but the vocabulary gives it"},
    {"added_twice", "llama2",
     R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true}, {"id": 1, "content": "<s>", "special": true}]})",
     "'<s>' is listed twice"},
    {"added_same_when_normalized", "llama2",
     R"({"added_tokens": [{"id": 620, "content": "q w", "normalized": true}, {"id": 621, "content": "q▁w", "normalized": true}]})",
     "match the same text"},
    {"added_empty", "llama2", R"({"added_tokens": [{"id": 620, "content": ""}]})", "'content' is empty"},
    {"added_no_id", "llama2", R"({"added_tokens": [{"content": "<x>"}]})", "added_tokens[0]: 'id' is missing"},
    {"added_is_object", "llama2", R"({"added_tokens": {}})", "added_tokens: expected an array"},
    {"added_entry_is_string", "llama2", R"({"added_tokens": ["<s>"]})", "added_tokens[0]: expected an object"},
};
INSTANTIATE_TEST_SUITE_P(Patches, BadTokenizerJson, testing::ValuesIn(kBadJson),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerJson, GapsInIdsAreAllowed) {
  const auto tokenizer = load_patched("llama2", Json::parse(R"({"model": {"vocab": {"zq": 630}}})"));
  EXPECT_EQ(tokenizer->vocab_size(), 631);
  EXPECT_EQ(tokenizer->token(630), "zq");
  EXPECT_LIGER_ERROR(tokenizer->token(625), ErrorCode::kBadInput, "625 is not in the vocabulary");
}

TEST(TokenizerJson, MergesMayBeStrings) {
  const Json document = test::tokenizer_json("llama2");
  Json merges = Json::array({"#version: 0.2"});
  for (const Json& merge : document["model"]["merges"]) {
    merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  const std::string text = "The tiger met the heron near the old mill.";
  EXPECT_EQ(load_patched("llama2", {{"model", {{"merges", merges}}}})->encode(text),
            load_patched("llama2", {})->encode(text));
}

TEST(TokenizerJson, BrokenDocuments) {
  TokenizerFolder folder("llama3");
  const auto file = folder / "tokenizer.json";
  for (const char* text :
       {"", "[]", "null", "{\"model\"", "{\"model\": {\"vocab\": {\"\xFF\": 0}}}", "version https://git-lfs"}) {
    test::put(file, text);
    EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, "tokenizer.json");
  }
  Json document = test::tokenizer_json("llama3");
  document["model"]["vocab"] = Json::object();
  folder.put_json("tokenizer.json", document);
  EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, "model.vocab: empty");
  test::put(file, std::string(100000, '['));
  EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, "nesting");
}

// Ten million merges are refused before they are in memory.
TEST(TokenizerJson, TooManyMerges) {
  TokenizerFolder folder("llama3");
  std::string text = R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b")";
  const size_t head = text.size();
  constexpr std::string_view kMerge = ",\"a b\"";
  constexpr size_t kMerges = 10'000'000;
  text.reserve(head + kMerges * kMerge.size());
  for (size_t i = 0; i < kMerges; ++i) text += kMerge;
  test::put(folder / "tokenizer.json", text + "]}}");
  const std::clock_t start = std::clock();
  EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, "about 10000004 entries and values");
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 2);
}

// Added tokens that begin, end or contain each other are found from the left, the longest first; none is found twice.
TEST(TokenizerJson, OverlappingAddedTokens) {
  Json document = test::tokenizer_json("llama3");
  const size_t first = document["model"]["vocab"].size() + document["added_tokens"].size();
  std::vector<std::string> texts;
  for (size_t length = 1; length <= 200; ++length) texts.push_back(std::string(length, '~') + "|");
  for (size_t i = 0; i < texts.size(); ++i) {
    document["added_tokens"].push_back({{"id", first + i}, {"content", texts[i]}, {"lstrip", true}, {"rstrip", true}});
  }
  TokenizerFolder folder("llama3");
  folder.put_json("tokenizer.json", document);
  const auto tokenizer = folder.load();
  EXPECT_EQ(tokenizer->encode(texts[9]), (std::vector<int64_t>{static_cast<int64_t>(first) + 9}));
  EXPECT_EQ(tokenizer->encode(texts[0] + " " + texts[4]).size(), 2U);
  // Long runs of what a token begins with, at each place of which it is looked for.
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(std::string(300'000, '~'))), std::string(300'000, '~'));
}

// Any member of the document replaced by any kind of value: an Error or a tokenizer, never anything else.
void replace_each_value(const Json& document, Json& at, const detail::TokenizerConfig& config, int& refused) {
  for (const Json& value :
       {Json(), Json(-1), Json(1e300), Json("x"), Json(true), Json::array({1}), Json::object({{"type", 1}})}) {
    const Json before = std::exchange(at, value);
    try {
      detail::BpeTokenizer(document, config).encode("a b <s>", Specials::kParse);
    } catch (const Error&) {
      ++refused;
    }
    at = before;
  }
  if (at.is_structured() && at.size() < 20) {
    for (Json& child : at) replace_each_value(document, child, config, refused);
  }
}

TEST(TokenizerJson, HostileValuesNeverCrash) {
  for (const char* base : {"llama3", "llama2", "gemma"}) {
    const test::TempDir empty;
    const detail::TokenizerConfig config(empty.path());
    Json document = test::tokenizer_json(base);
    // A small vocabulary, so that each of the many loads is quick.
    Json& vocabulary = document["model"]["vocab"];
    for (auto piece = vocabulary.begin(); piece != vocabulary.end();) {
      piece = piece.value() < 300 ? std::next(piece) : vocabulary.erase(piece);
    }
    document["model"]["merges"] = Json::array();
    document["added_tokens"] = Json::array();
    document["post_processor"] = nullptr;
    EXPECT_NO_THROW(detail::BpeTokenizer(document, config)) << base;
    int refused = 0;
    replace_each_value(document, document, config, refused);
    EXPECT_GT(refused, 50) << base;
  }
}

// ---- the files beside it ----

TEST(TokenizerConfig, BrokenFilesAreNamed) {
  TokenizerFolder folder("llama3");
  const auto refuse = [&](const char* file, const char* text, const char* expected) {
    const std::string before = test::get(folder / file);
    test::put(folder / file, text);
    EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, expected);
    EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, file);
    test::put(folder / file, before.empty() ? "{}" : before);
  };
  const char* config = "tokenizer_config.json";
  refuse(config, "{", "syntax error");
  refuse(config, "[]", "expected an object");
  refuse(config, R"({"bos_token": "<nope>"})", "bos_token: '<nope>' is not in the vocabulary");
  refuse(config, R"({"bos_token": 5})", "bos_token: expected a token, got 5");
  refuse(config, R"({"bos_token": {"lstrip": false}})", "'content' is missing");
  refuse(config, R"({"add_bos_token": "yes"})", "expected true or false");
  test::put(folder / config, "{}");
  refuse("special_tokens_map.json", R"({"bos_token": []})", "bos_token: expected a token, got an array");
  refuse("config.json", R"({"eos_token_id": -5})", "expected a token id");
  test::put(folder / "config.json", R"({"eos_token_id": 5000})");
  EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, "5000");
}

TEST(TokenizerConfig, AddedTokensMustFitTheSentencePieceModel) {
  TokenizerFolder folder("sp_llama");
  const auto refuse = [&](const char* tokens, const char* expected) {
    test::put(folder / "tokenizer_config.json", std::string("{\"added_tokens_decoder\": ") + tokens + "}");
    EXPECT_LIGER_ERROR(folder.load(), ErrorCode::kBadInput, expected);
  };
  refuse(R"({"x": {"content": "a"}})", "'x' is not a token id");
  refuse(R"({"-1": {"content": "a"}})", "'-1' is not a token id");
  refuse("[]", "expected an object, got an array");
  refuse(R"({"5": {"content": ""}})", "'content' is empty");
  refuse(R"({"5": {"content": "<x>"}})", "the model's piece with this id is");
  refuse(R"({"2000000000": {"content": "<x>"}})", "far beyond");
  refuse(R"({"620": {"content": "<x>"}, "621": {"content": "<x>"}})", "match the same text");
}

TEST(Tokenizer, FolderWithoutOne) {
  test::TempDir folder;
  EXPECT_LIGER_ERROR(Tokenizer::load(folder.path()), ErrorCode::kBadInput,
                     "neither tokenizer.json nor tokenizer.model");
  std::filesystem::create_directory(folder / "tokenizer.json");
  EXPECT_LIGER_ERROR(Tokenizer::load(folder.path()), ErrorCode::kBadInput, "tokenizer.json");
}

// ---- tokenizer.model ----

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number_field(int field, uint64_t value) {
  return varint(static_cast<uint64_t>(field) << 3) + varint(value);
}
std::string bytes_field(int field, const std::string& bytes) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string piece_field(const std::string& text, int type = 1, float score = -1) {
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  std::string fixed = varint(2 << 3 | 5);
  for (int i = 0; i < 4; ++i) fixed += static_cast<char>(bits >> (8 * i));
  return bytes_field(1, bytes_field(1, text) + fixed + number_field(3, static_cast<uint64_t>(type)));
}
std::string little_endian(uint32_t value) {
  std::string out;
  for (int i = 0; i < 4; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}

enum PieceType { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
constexpr int kTrainer = 2, kNormalizer = 3, kDenormalizer = 5;
const std::string kUnk = piece_field("<unk>", kUnknown), kPieces = kUnk + piece_field("a") + piece_field("▁");
const std::string kBpe = bytes_field(kTrainer, number_field(3, 2));

class BadModel : public testing::Test {
 protected:
  std::shared_ptr<const Tokenizer> load(const std::string& bytes) {
    test::put(folder_ / "tokenizer.model", bytes);
    return Tokenizer::load(folder_.path());
  }
  /// The same without a file, for thousands of models.
  detail::SentencePieceTokenizer make(const std::string& bytes) { return {bytes, config_}; }
  void refuse(const std::string& bytes, const std::string& expected) {
    EXPECT_LIGER_ERROR(load(bytes), ErrorCode::kBadInput, expected);
    EXPECT_LIGER_ERROR(load(bytes), ErrorCode::kBadInput, "tokenizer.model: ");
  }
  test::TempDir folder_;
  detail::TokenizerConfig config_{folder_.path()};
};

TEST_F(BadModel, SmallestGoodOne) {
  EXPECT_EQ(load(kPieces + kBpe)->encode("a"), (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(load(kPieces)->encode("a"), (std::vector<int64_t>{2, 1}));
}

TEST_F(BadModel, Pieces) {
  refuse("", "no pieces");
  refuse(kBpe, "no pieces");
  refuse(piece_field("a") + kBpe, "expected one piece of type UNKNOWN, got 0");
  refuse(kPieces + piece_field("<u>", kUnknown) + kBpe, "got 2");
  refuse(kUnk + kBpe, "no piece that text could become");
  refuse(kPieces + piece_field("a") + kBpe, "piece 'a' is there twice");
  refuse(kPieces + piece_field("a", kControl) + kBpe, "piece 'a' is there twice");
  refuse(kPieces + piece_field("") + kBpe, "pieces[3] '': empty");
  refuse(kPieces + piece_field("\xC3(") + kBpe, "not valid UTF-8");
  refuse(kPieces + piece_field(std::string("a\0b", 3)) + kBpe, "contains NUL");
  refuse(kPieces + piece_field("b", 9) + kBpe, "unknown type 9");
  for (const float score : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    refuse(kPieces + piece_field("b", kNormal, score) + kBpe, "the score is not finite");
  }
}

TEST_F(BadModel, Bytes) {
  const std::string fallback = bytes_field(kTrainer, number_field(3, 2) + number_field(35, 1));
  refuse(kPieces + piece_field("<0x41>", kByte) + kBpe, "byte_fallback is off");
  refuse(kPieces + piece_field("<0x41>", kByte) + fallback, "there is no piece for byte 0");
  refuse(kPieces + piece_field("<0xG1>", kByte) + fallback, "must be like <0x0A>");
}

TEST_F(BadModel, Specs) {
  refuse(kPieces + bytes_field(kTrainer, number_field(3, 3)), "model_type 3 is not supported");
  refuse(kPieces + bytes_field(kTrainer, number_field(3, 77)), "model_type 77 is not supported");
  refuse(kPieces + bytes_field(kTrainer, bytes_field(3, "x")), "field 3 is of kind 2, expected 0");
  refuse(kPieces + bytes_field(kDenormalizer, bytes_field(2, "rules")), "denormalizer_spec: rules are not supported");
}

TEST_F(BadModel, Wire) {
  refuse(kPieces + "\x0A\x7F", "claims 127 bytes, 0 are left");
  refuse(kPieces + "\x0A" + std::string(9, '\xFF') + "\x01", "claims 18446744073709551615 bytes");
  refuse(kPieces + "\x0A" + std::string(11, '\xFF'), "a number of more than 10 bytes");
  refuse(kPieces + "\x0B", "unknown kind 3");
  refuse(kPieces + "\x0F", "unknown kind 7");
  refuse(kPieces + std::string(1, '\0') + "\x01", "0 is not a field number");
  refuse(kPieces + "\x0D\x01", "the data ends inside a number");
  refuse("version https://git-lfs.github.com/spec/v1", "run `git lfs pull`");
  refuse("IQ== 0\nIg== 1\n", "a tiktoken vocabulary");
  refuse("<html>not found</html>", "tokenizer.model");
}

// A rule trie of one block in which the byte 'a' leads to a rule `depth` times in a row: states differ in the high
// bits.
std::string nested_rules(int depth) {
  const uint32_t units = 256 * static_cast<uint32_t>(depth + 2);
  std::vector<uint32_t> trie(units);
  const auto unit = [](uint32_t offset, uint32_t label, bool leaf) {
    return offset << 10 | (leaf ? 1U << 8 : 0) | label;
  };
  trie[0] = unit(256, 0, false);
  for (uint32_t state = 256; state < units; state += 256) trie[state] = 1U << 31;  // a rule's replacement: the first
  for (uint32_t step = 1; step <= static_cast<uint32_t>(depth); ++step) {
    const uint32_t at = (256 * step) ^ 'a', next = 256 * (step + 1);
    trie[at] = unit(at ^ next, 'a', true);
  }
  std::string blob = little_endian(units * 4);
  for (const uint32_t value : trie) blob += little_endian(value);
  return blob + std::string("b\0", 2);
}
std::string with_rules(const std::string& charsmap) {
  return kPieces + kBpe + bytes_field(kNormalizer, bytes_field(2, charsmap));
}

TEST_F(BadModel, NormalizationRules) {
  EXPECT_EQ(load(with_rules(nested_rules(32)))->encode(std::string(40, 'a')).front(), 2);
  refuse(with_rules(nested_rules(33)), "33 rules that are prefixes of one another");
  refuse(with_rules("abc"), "only 3 bytes");
  refuse(with_rules(little_endian(1024) + std::string(1024, '\0')), "a trie of 1024 bytes in 1024");
  refuse(with_rules(little_endian(1027) + std::string(1030, '\0')), "a trie of 1027 bytes");
  refuse(with_rules(little_endian(1024) + std::string(1024, '\0') + "x"), "do not end with NUL");

  std::string outside = nested_rules(1);
  outside[4 + 4 * (256 + 'a') + 3] = '\x7F';
  refuse(with_rules(outside), "the trie points outside itself");
  std::string cycle = nested_rules(1);
  const std::string back = little_endian(static_cast<uint32_t>('a') << 10 | 'a');  // 256^'a' leads to 256 again
  cycle.replace(4 + 4 * (256 + 'a'), 4, back);
  refuse(with_rules(cycle), "the trie has a cycle");
  std::string value = nested_rules(1);
  value.replace(4 + 4 * 512, 4, little_endian(1U << 31 | 9));
  refuse(with_rules(value), "a rule points outside the replacements");
}

// The library would read behind a buffer of 64.
TEST_F(BadModel, NestedUserDefinedPieces) {
  const auto model = [](size_t depth) {
    std::string bytes = kUnk + piece_field("▁");
    for (size_t length = 1; length <= depth; ++length) bytes += piece_field(std::string(length, 'a'), kUserDefined);
    return bytes + kBpe;
  };
  EXPECT_EQ(load(model(64))->encode(std::string(70, 'a')).size(), 3U);
  refuse(model(65), "more than 64 user-defined pieces begin");
}

TEST_F(BadModel, TruncatedAtEveryByte) {
  const std::string bytes = test::get(test::tokenizer_data() / "sp_unigram/tokenizer.model");
  for (size_t size = 0; size < bytes.size(); ++size) {
    try {
      make(bytes.substr(0, size)).encode("a tiger", Specials::kParse);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kBadInput) << size << ": " << error.what();
    }
  }
}

TEST_F(BadModel, ChangedBytesNeverCrash) {
  std::mt19937 random(11);
  for (const char* base : {"sp_unigram", "sp_llama"}) {
    const std::string good = test::get(test::tokenizer_data() / base / "tokenizer.model");
    for (int round = 0; round < 1500; ++round) {
      std::string bytes = good;
      for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
        // Most of a model are pieces; half of the changes go to the specifications behind them.
        const size_t from = random() % 2 ? 0 : bytes.size() - bytes.size() / 4;
        bytes[from + random() % (bytes.size() - from)] = static_cast<char>(random());
      }
      try {
        const auto tokenizer = make(bytes);
        tokenizer.decode(tokenizer.encode("A tiger,  é ﬁ <sep>\n水", Specials::kParse), true);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kBadInput) << error.what();
      }
    }
  }
}

}  // namespace
}  // namespace liger
