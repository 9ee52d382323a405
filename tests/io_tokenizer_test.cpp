#include <ctime>
#include <random>

#include "io/text.h"
#include "io/unicode_normal.h"
#include "io/utf8.h"
#include "liger/io/tokenizer.h"
#include "tokenizer_testing.h"

namespace liger {
namespace {

using test::load_patched;
using test::stream_decode;
using test::TokenizerFolder;
using Ids = std::vector<int64_t>;

const Json& goldens() {
  static const Json json = read_json(test::tokenizer_data() / "goldens.json");
  return json;
}

/// Every form of tokenizer, with what the reference libraries made of the same texts and ids.
class Golden : public testing::TestWithParam<size_t> {
 protected:
  const Json& form() const { return goldens()["forms"][GetParam()]; }
  std::shared_ptr<const Tokenizer> load() const { return load_patched(form()["base"], form()["patch"]); }
};

TEST_P(Golden, Encode) {
  const auto tokenizer = load();
  for (size_t i = 0; i < goldens()["texts"].size(); ++i) {
    const std::string text = goldens()["texts"][i];
    const Json& answer = form()["answers"][i];
    SCOPED_TRACE(Json(text).dump());
    const auto parsed = answer["parsed"].get<Ids>();
    EXPECT_EQ(tokenizer->encode(text, Specials::kParse), parsed);
    Ids whole = answer["before"];
    whole.insert(whole.end(), parsed.begin(), parsed.end());
    EXPECT_EQ(tokenizer->encode_with_specials(text, Specials::kParse), whole);
    if (!answer.contains("ids")) {
      EXPECT_EQ(tokenizer->encode(text), parsed);
    } else if (answer["ids"].is_array()) {
      EXPECT_EQ(tokenizer->encode(text), answer["ids"].get<Ids>());
    }
    if (answer.contains("text")) {
      EXPECT_EQ(tokenizer->decode(parsed), answer["text"]);
    }
  }
}

TEST_P(Golden, Decode) {
  const auto tokenizer = load();
  for (const Json& row : form()["decoded"]) {
    const auto ids = row[0].get<Ids>();
    SCOPED_TRACE(row[0].dump());
    if (row[1].contains("text")) {
      EXPECT_EQ(tokenizer->decode(ids), row[1]["text"]);
      EXPECT_EQ(stream_decode(*tokenizer, ids), row[1]["text"]);
    }
    if (row[1].contains("kept")) {
      EXPECT_EQ(tokenizer->decode(ids, true), row[1]["kept"]);
    }
  }
}

TEST_P(Golden, StreamEqualsWholeDecode) {
  const auto tokenizer = load();
  const auto size = static_cast<uint32_t>(tokenizer->vocab_size());
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    Ids ids(random() % 60);
    // Mostly low ids: those are the bytes and special tokens, where a stream must wait.
    for (int64_t& id : ids) id = static_cast<int64_t>(random() % (random() % 4 ? std::min(size, 280U) : size));
    EXPECT_EQ(stream_decode(*tokenizer, ids), tokenizer->decode(ids)) << Json(ids).dump();
  }
}

TEST_P(Golden, StreamNeverGivesHalfACharacter) {
  const auto tokenizer = load();
  for (const Json& text : goldens()["texts"]) {
    StreamDecoder stream(*tokenizer);
    for (const int64_t id : tokenizer->encode(text.get<std::string>())) {
      EXPECT_EQ(detail::find_invalid_utf8(stream.push(id)), std::string::npos);
    }
  }
}

std::string form_name(const testing::TestParamInfo<size_t>& info) { return goldens()["forms"][info.param]["name"]; }
INSTANTIATE_TEST_SUITE_P(Forms, Golden, testing::Range(size_t{0}, goldens()["forms"].size()), form_name);

TEST(Tokenizer, LiteralTextNeverGivesASpecialToken) {
  for (const char* base : {"llama3", "llama2", "gemma", "sp_llama", "sp_gemma"}) {
    const auto tokenizer = Tokenizer::load(test::tokenizer_data() / base);
    std::string all;
    int specials = 0;
    for (int64_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (tokenizer->is_special(id)) all += " " + tokenizer->token(id) + tokenizer->token(id), ++specials;
    }
    EXPECT_GE(specials, 3) << base;
    for (const int64_t id : tokenizer->encode(all)) EXPECT_FALSE(tokenizer->is_special(id)) << base << ' ' << id;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all) << base;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(all, Specials::kParse)).find('<'), std::string::npos) << base;
  }
}

TEST(Tokenizer, MergesThatLeadToASpecialTokenAreNotMade) {
  const Json document = test::tokenizer_json("llama3");
  const int64_t he = document["model"]["vocab"]["he"];
  for (const bool whole_words : {false, true}) {
    Json patch = {{"added_tokens", document["added_tokens"]}, {"model", {{"ignore_merges", whole_words}}}};
    EXPECT_EQ(load_patched("llama3", patch)->encode("he"), Ids{he});
    patch["added_tokens"].push_back({{"id", he}, {"content", "he"}, {"special", true}});
    const auto tokenizer = load_patched("llama3", patch);
    EXPECT_EQ(tokenizer->encode("he"), (Ids{*tokenizer->id_of("h"), *tokenizer->id_of("e")}));
    EXPECT_EQ(tokenizer->encode("he", Specials::kParse), Ids{he});
  }
}

TEST(Tokenizer, FirstSpaceOfLlama2IsStrippedOnce) {
  for (const char* base : {"llama2", "sp_llama"}) {
    const auto tokenizer = Tokenizer::load(test::tokenizer_data() / base);
    for (const std::string text : {"a", " a", "  a", "a b", " ", "a\n b"}) {
      const Ids ids = tokenizer->encode_with_specials(text);
      EXPECT_EQ(tokenizer->decode(ids), text) << base;
      EXPECT_EQ(stream_decode(*tokenizer, ids), text) << base;
    }
    const Ids two = {*tokenizer->bos(), *tokenizer->id_of("▁the"), *tokenizer->eos(), *tokenizer->id_of("▁the")};
    EXPECT_EQ(tokenizer->decode(two), "the the") << base;
    EXPECT_EQ(tokenizer->decode(two, true), "<s> the</s> the") << base;
  }
}

TEST(Tokenizer, InvalidBytesAreReadAsReplacementCharacters) {
  for (const char* base : {"llama3", "sp_llama"}) {
    const auto tokenizer = Tokenizer::load(test::tokenizer_data() / base);
    EXPECT_EQ(tokenizer->encode("a\xFF\xE4\xB8 b\xC0\xAF"), tokenizer->encode("a\uFFFD\uFFFD b\uFFFD\uFFFD")) << base;
  }
}

TEST(Tokenizer, StreamWaitsForTheWholeCharacter) {
  const auto tokenizer = Tokenizer::load(test::tokenizer_data() / "sp_llama");
  const auto byte = [&](const char* piece) { return *tokenizer->id_of(piece); };
  StreamDecoder stream(*tokenizer);
  EXPECT_EQ(stream.push(*tokenizer->id_of("▁the")), "the");
  EXPECT_EQ(stream.push(byte("<0xF0>")), "");
  EXPECT_EQ(stream.push(byte("<0x9F>")), "");
  EXPECT_EQ(stream.push(byte("<0x90>")), "");
  EXPECT_EQ(stream.push(byte("<0xAF>")), "\U0001F42F");
  EXPECT_EQ(stream.push(byte("<0xE4>")), "");
  EXPECT_EQ(stream.push(*tokenizer->id_of("▁the")), "\uFFFD the");
  EXPECT_EQ(stream.push(byte("<0xE4>")), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
}

TEST(Tokenizer, LongStreamOfBrokenBytesKeepsUp) {
  for (const char* base : {"llama3", "llama2", "sp_llama"}) {
    const auto tokenizer = Tokenizer::load(test::tokenizer_data() / base);
    Ids ids;
    for (int i = 0; i < 3000; ++i) ids.push_back(*tokenizer->id_of(base[5] == '3' ? "ÿ" : "<0xFF>"));
    ids.push_back(*tokenizer->id_of("a"));
    EXPECT_EQ(stream_decode(*tokenizer, ids), tokenizer->decode(ids)) << base;
  }
}

TEST(Tokenizer, PrefersTokenizerJson) {
  TokenizerFolder folder("sp_llama");
  EXPECT_EQ(folder.load()->vocab_size(), 620);
  Json json = test::tokenizer_json("llama3");
  folder.put_json("tokenizer.json", json);
  test::put(folder / "tokenizer_config.json", "{}");
  EXPECT_EQ(folder.load()->id_of("<|eot_id|>"),
            Tokenizer::load(test::tokenizer_data() / "llama3")->id_of("<|eot_id|>"));
}

TEST(Tokenizer, BosAndEosFallBackFromFileToFile) {
  TokenizerFolder folder("llama3");
  const auto id = [&](const char* token) { return folder.load()->id_of(token); };
  EXPECT_EQ(folder.load()->bos(), id("<|begin_of_text|>"));
  EXPECT_EQ(folder.load()->eos(), id("<|eot_id|>"));

  test::put(folder / "tokenizer_config.json", "{}");
  test::put(folder / "special_tokens_map.json", R"({"eos_token": {"content": "<|end_of_text|>", "lstrip": false}})");
  EXPECT_EQ(folder.load()->eos(), id("<|end_of_text|>"));
  EXPECT_EQ(folder.load()->bos(), id("<|begin_of_text|>"));  // what the template puts first

  std::filesystem::remove(folder / "special_tokens_map.json");
  EXPECT_EQ(folder.load()->eos(), std::nullopt);
  test::put(folder / "config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(folder.load()->eos(), 7);
  test::put(folder / "generation_config.json", R"({"eos_token_id": [5, 6]})");
  EXPECT_EQ(folder.load()->eos(), 5);
  test::put(folder / "tokenizer_config.json", R"({"eos_token": "", "bos_token": ""})");
  EXPECT_EQ(folder.load()->eos(), 5);
  test::put(folder / "tokenizer_config.json", R"({"eos_token": null})");
  EXPECT_EQ(folder.load()->eos(), std::nullopt);
}

TEST(Tokenizer, ConfigSaysWhatIsAdded) {
  for (const char* base : {"llama2", "sp_llama"}) {
    TokenizerFolder folder(base);
    const auto with = [&](const char* flags) {
      test::put(folder / "tokenizer_config.json", flags);
      return folder.load()->encode_with_specials("");
    };
    EXPECT_EQ(with("{}"), Ids{1}) << base;
    EXPECT_EQ(with(R"({"add_bos_token": false})"), Ids{}) << base;
    EXPECT_EQ(with(R"({"add_bos_token": true, "add_eos_token": true, "eos_token": "</s>"})"), (Ids{1, 2})) << base;
    EXPECT_EQ(with(R"({"add_eos_token": true, "eos_token": "</s>", "bos_token": "<unk>", "add_bos_token": true})"),
              (Ids{0, 2}))
        << base;
  }
}

TEST(Tokenizer, TokensAddedToASentencePieceModel) {
  TokenizerFolder folder("sp_llama");
  test::put(folder / "tokenizer_config.json", R"({"added_tokens_decoder": {
      "620": {"content": "<|user|>", "special": true, "normalized": false},
      "623": {"content": "zzz", "special": false, "normalized": false, "rstrip": true}}})");
  const auto tokenizer = folder.load();
  EXPECT_EQ(tokenizer->vocab_size(), 624);
  EXPECT_EQ(tokenizer->encode("<|user|>", Specials::kParse), Ids{620});
  EXPECT_EQ(tokenizer->encode("zzz  "), Ids{623});
  EXPECT_GT(tokenizer->encode("<|user|>").size(), 1U);
  EXPECT_EQ(tokenizer->decode(Ids{620, 623}), "zzz");
  EXPECT_EQ(tokenizer->decode(Ids{620, 623}, true), "<|user|>zzz");
  EXPECT_LIGER_ERROR(tokenizer->decode(Ids{621}), ErrorCode::kBadInput, "621");
}

// "<s>" is looked for in normalized text, as "▁<s>": so the reference finds it only where a space would have been.
TEST(Tokenizer, NormalizedSpecialTokens) {
  Json tokens = test::tokenizer_json("llama2")["added_tokens"];
  for (Json& token : tokens) token["normalized"] = true;
  const auto tokenizer = load_patched("llama2", {{"added_tokens", tokens}});
  EXPECT_EQ(tokenizer->encode("<s>", Specials::kParse), Ids{1});
  EXPECT_EQ(tokenizer->encode("<s> <s>", Specials::kParse), (Ids{1, 1}));
  EXPECT_EQ(tokenizer->encode("a<s>", Specials::kParse), tokenizer->encode("a<s>"));
  EXPECT_EQ(tokenizer->decode(Ids{1, 2}), "");
  EXPECT_EQ(tokenizer->token(1), "<s>");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreErrors) {
  for (const char* base : {"llama3", "sp_llama"}) {
    const auto tokenizer = Tokenizer::load(test::tokenizer_data() / base);
    for (const int64_t id : {int64_t{-1}, tokenizer->vocab_size(), int64_t{1} << 40}) {
      EXPECT_LIGER_ERROR(tokenizer->decode(Ids{id}), ErrorCode::kBadInput, std::to_string(id));
      EXPECT_LIGER_ERROR(tokenizer->token(id), ErrorCode::kBadInput, std::to_string(id));
      EXPECT_LIGER_ERROR(tokenizer->is_special(id), ErrorCode::kBadInput, std::to_string(id));
      EXPECT_LIGER_ERROR(StreamDecoder(*tokenizer).push(id), ErrorCode::kBadInput, std::to_string(id));
    }
  }
}

/// Texts without a place where they could be cut, or with nothing but such places.
std::vector<std::string> hostile_texts(size_t bytes) {
  std::mt19937 random(3);
  std::string letters(bytes, 'a'), marks = "e", tokens, broken;
  for (char& c : letters) c = static_cast<char>('a' + random() % 26);
  while (marks.size() < bytes) detail::append_char(marks, 0x300 + random() % 0x40);
  while (tokens.size() < bytes) tokens += "<s><|eot_id|>";
  while (broken.size() < bytes) broken += "<|eot_";
  return {std::string(bytes, 'a'), letters, marks, std::string(bytes, ' '), tokens, broken};
}

double seconds_to_encode_and_decode(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();
  for (const Specials specials : {Specials::kLiteral, Specials::kParse}) {
    const Ids ids = tokenizer.encode(text, specials);
    const std::string whole = tokenizer.decode(ids);
    if (specials == Specials::kLiteral) EXPECT_FALSE(whole.empty());
  }
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

class LongText : public testing::TestWithParam<const char*> {};

// Eight times the text may take about eight times as long; what is quadratic would take 64 times as long.
TEST_P(LongText, TakesTimeInProportion) {
  const auto tokenizer = Tokenizer::load(test::tokenizer_data() / GetParam());
  const auto small = hostile_texts(125'000), large = hostile_texts(1'000'000);
  for (size_t i = 0; i < small.size(); ++i) {
    const double once = seconds_to_encode_and_decode(*tokenizer, small[i]);
    EXPECT_LT(seconds_to_encode_and_decode(*tokenizer, large[i]), 24 * once + 0.3) << GetParam() << ", text " << i;
  }
}

TEST_P(LongText, IsReadWhole) {
  const auto tokenizer = Tokenizer::load(test::tokenizer_data() / GetParam());
  for (const std::string& text : hostile_texts(1'000'000)) {
    std::string normal;
    const bool composes = std::string_view(GetParam()) == "neox";
    const std::string_view expected = composes ? detail::normalize(detail::NormalForm::kC, text, normal) : text;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)) == expected, true) << GetParam();
  }
}

TEST_P(LongText, StreamsInProportion) {
  const auto tokenizer = Tokenizer::load(test::tokenizer_data() / GetParam());
  const auto seconds = [&](size_t bytes) {
    const Ids ids = tokenizer->encode(hostile_texts(bytes)[1]);
    const std::clock_t start = std::clock();
    EXPECT_EQ(stream_decode(*tokenizer, ids).size(), bytes);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  const double once = seconds(50'000);
  EXPECT_LT(seconds(400'000), 24 * once + 0.5);
}
INSTANTIATE_TEST_SUITE_P(Forms, LongText, testing::Values("llama3", "llama2", "gemma", "neox", "sp_llama", "sp_gemma"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace liger
