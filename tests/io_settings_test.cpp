#include "liger/io/settings.h"

#include "io_test_util.h"

namespace liger {
namespace {

using test::put;
using test::TempDir;

Settings yaml(std::string_view text) { return Settings::from_yaml(text, "c.yaml"); }

std::string text_of(const Settings& s, std::string_view key) {
  std::string out = "unset";
  s.get(key, out);
  return out;
}

double number_of(const Settings& s, std::string_view key) {
  double out = -1;
  s.get(key, out);
  return out;
}

TEST(Settings, ReadsEveryType) {
  const Settings s = yaml(
      "text: lora\nquoted: \"1\\t2\"\nyes_is_text: yes\ncolon: 'a: b'\nflag: true\nother: False\n"
      "lr: 1e-3\nhalf: .5\nbig: 1e3\nwhole: 5.\nint: -7\nplus: +3\nhex: 0x10\noctal: 0o17\nzero: 0\n"
      "list: [q_proj, v_proj]\nsizes:\n  - 1\n  - 2\nnone: null\ntilde: ~\nempty:\nblock: |\n  a\n  b\n");
  EXPECT_EQ(text_of(s, "text"), "lora");
  EXPECT_EQ(text_of(s, "quoted"), "1\t2");
  EXPECT_EQ(text_of(s, "yes_is_text"), "yes");
  EXPECT_EQ(text_of(s, "colon"), "a: b");
  EXPECT_EQ(text_of(s, "block"), "a\nb\n");
  bool flag = false, other = true;
  s.get("flag", flag);
  s.get("other", other);
  EXPECT_TRUE(flag);
  EXPECT_FALSE(other);
  EXPECT_EQ(number_of(s, "lr"), 1e-3);
  EXPECT_EQ(number_of(s, "half"), 0.5);
  EXPECT_EQ(number_of(s, "big"), 1000);
  EXPECT_EQ(number_of(s, "whole"), 5);
  EXPECT_EQ(number_of(s, "int"), -7);
  for (const auto& [key, expected] :
       std::map<std::string, int64_t>{{"int", -7}, {"plus", 3}, {"hex", 16}, {"octal", 15}, {"zero", 0}}) {
    int64_t out = -1;
    s.get(key, out);
    EXPECT_EQ(out, expected) << key;
  }
  std::vector<std::string> list;
  std::vector<int64_t> sizes;
  s.get("list", list);
  s.get("sizes", sizes);
  EXPECT_EQ(list, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(sizes, (std::vector<int64_t>{1, 2}));
  for (const char* key : {"none", "tilde", "empty"}) {
    EXPECT_TRUE(s.has(key) && s.is_null(key)) << key;
    std::optional<int64_t> value = 1;
    s.get(key, value);
    EXPECT_FALSE(value.has_value()) << key;
  }
  s.reject_unknown();
}

TEST(Settings, AbsentKeysLeaveDefaults) {
  const Settings s = yaml("# nothing\n");
  EXPECT_EQ(text_of(s, "x"), "unset");
  EXPECT_FALSE(s.has("x"));
  EXPECT_TRUE(s.is_null("x"));
  std::optional<double> value = 2.5;
  s.get("x", value);
  EXPECT_EQ(value, 2.5);
  EXPECT_EQ(number_of(s.section("a").section("b"), "c"), -1);
  EXPECT_EQ(s.to_json(), Json::object());
  EXPECT_EQ(yaml("").to_json(), Json::object());
}

TEST(Settings, SectionsKeepTheirPlace) {
  const Settings s = yaml("train:\n  lr: fast\n  opt: {name: 3}\nlist: [1, x]\n");
  double lr = 0;
  const Settings train = s.section("train");
  EXPECT_LIGER_ERROR(train.get("lr", lr), ErrorCode::kUsage,
                     "c.yaml:2:7: 'train.lr': expected a number, got text 'fast'");
  std::string name;
  EXPECT_LIGER_ERROR(train.section("opt").get("name", name), ErrorCode::kUsage,
                     "c.yaml:3:15: 'train.opt.name': expected text, got the number 3; put it in quotes");
  EXPECT_LIGER_ERROR(s.section("list"), ErrorCode::kUsage, "c.yaml:4:7: 'list': expected a mapping, got a list");
  std::vector<int64_t> list;
  EXPECT_LIGER_ERROR(s.get("list", list), ErrorCode::kUsage, "c.yaml:4:11: 'list': expected a list of which");
  EXPECT_LIGER_ERROR(train.fail_at("lr", "must be positive"), ErrorCode::kUsage,
                     "c.yaml:2:7: 'train.lr': must be positive");
  EXPECT_LIGER_ERROR(train.fail_at("steps", "is needed"), ErrorCode::kUsage, "c.yaml:2:3: 'train.steps': is needed");
}

TEST(Settings, WrongTypesAreRefused) {
  const Settings s = yaml("f: 1.5\ni: 3\nt: abc\nb: true\nl: [1]\nm: {a: 1}\nn: null\nbig: 9223372036854775808\n");
  bool flag = false;
  int64_t whole = 0;
  double real = 0;
  std::string text;
  EXPECT_LIGER_ERROR(s.get("f", whole), ErrorCode::kUsage, "expected a whole number, got the number 1.5");
  EXPECT_LIGER_ERROR(s.get("i", flag), ErrorCode::kUsage, "expected true or false, got the number 3");
  EXPECT_LIGER_ERROR(s.get("t", flag), ErrorCode::kUsage, "got text 'abc'");
  EXPECT_LIGER_ERROR(s.get("b", real), ErrorCode::kUsage, "expected a number, got true");
  EXPECT_LIGER_ERROR(s.get("b", text), ErrorCode::kUsage, "expected text, got true");
  EXPECT_LIGER_ERROR(s.get("l", real), ErrorCode::kUsage, "got a list");
  EXPECT_LIGER_ERROR(s.get("m", text), ErrorCode::kUsage, "got a mapping");
  EXPECT_LIGER_ERROR(s.get("n", whole), ErrorCode::kUsage, "got nothing");
  EXPECT_LIGER_ERROR(s.get("big", whole), ErrorCode::kUsage, "below 2^63");
  std::vector<std::string> list;
  EXPECT_LIGER_ERROR(s.get("t", list), ErrorCode::kUsage, "expected a list, got text 'abc'");
}

TEST(Settings, UnknownKeysSuggestTheNearest) {
  const auto message = [](const char* text) {
    const Settings s = yaml(text);
    double out = 0;
    const Settings train = s.section("train");
    train.get("lr", out);
    train.get("batch_size", out);
    train.get("max_grad_norm", out);
    s.section("lora").get("alpha", out);
    return std::string(test::error_of([&] { s.reject_unknown(); }).what());
  };
  EXPECT_EQ(message("train:\n  learning_rat: 1\n"), "c.yaml:2:3: unknown key 'learning_rat'; did you mean 'lr'?");
  EXPECT_EQ(message("train:\n  lr: 1\n  bacth_size: 2\n"),
            "c.yaml:3:3: unknown key 'bacth_size'; did you mean 'batch_size'?");
  EXPECT_EQ(message("trian: {}\n"), "c.yaml:1:1: unknown key 'trian'; did you mean 'train'?");
  EXPECT_EQ(message("lr: 1\n"), "c.yaml:1:1: unknown key 'lr'; did you mean 'train.lr'?");
  EXPECT_EQ(message("train:\n  alpha: 1\n"), "c.yaml:2:3: unknown key 'alpha'; did you mean 'lora.alpha'?");
  EXPECT_EQ(message("zzzzzz: 1\n"), "c.yaml:1:1: unknown key 'zzzzzz'; known here: lora, train");
  EXPECT_EQ(message("\"a\\e[2J\": 1\n"), "c.yaml:1:1: unknown key 'a\\x1B[2J'; known here: lora, train");
}

TEST(Settings, AMappingNobodyOpenedIsUnknownInside) {
  const Settings s = yaml("a: {b: 1}\n");
  EXPECT_TRUE(s.has("a"));
  EXPECT_LIGER_ERROR(s.reject_unknown(), ErrorCode::kUsage, "c.yaml:1:5: unknown key 'b'");
}

TEST(Settings, OverridesReplaceAndCreate) {
  Settings s = yaml("train: {lr: 1, opt: adam}\nlora: null\nlist: [1]\n");
  for (const char* each : {"train.lr=2e-4", "lora.r=8", "a.b.c=x=y", "list=[q, v]", "train.opt=", "quoted=\"007\""}) {
    s.override_with(each);
  }
  EXPECT_EQ(s.to_json(), (Json{{"train", {{"lr", 2e-4}, {"opt", nullptr}}},
                               {"lora", {{"r", 8}}},
                               {"list", {"q", "v"}},
                               {"a", {{"b", {{"c", "x=y"}}}}},
                               {"quoted", "007"}}));
  s.override_with("train.x=fast");
  double out = 0;
  EXPECT_LIGER_ERROR(s.section("train").get("x", out), ErrorCode::kUsage,
                     "--set train.x=fast: 'train.x': expected a number, got text 'fast'");
  EXPECT_LIGER_ERROR(s.reject_unknown(), ErrorCode::kUsage, "unknown key");
}

TEST(Settings, BadOverridesAreRefused) {
  const auto refused = [](std::vector<std::string> all, const char* expected) {
    Settings s = yaml("train: {lr: 1}\nlist: [1]\n");
    for (size_t i = 0; i + 1 < all.size(); ++i) s.override_with(all[i]);
    EXPECT_LIGER_ERROR(s.override_with(all.back()), ErrorCode::kUsage, expected);
  };
  refused({"train.lr"}, "--set train.lr: expected key=value");
  refused({"=3"}, "an empty key");
  refused({"a..b=3"}, "an empty key");
  refused({"a.=3"}, "an empty key");
  refused({".a=3"}, "an empty key");
  refused({"list.0=3"}, "'list' is a list, so nothing can be set inside it");
  refused({"train.lr.x=3"}, "'train.lr' is the number 1, so nothing");
  refused({"a=1", "a=1"}, "'a' is set twice");
  refused({"a.b=1", "a={c: 1}"}, "'a.b' is set twice");
  refused({"a.b=1", "a.b.c=1"}, "'a.b' is the number 1");
  refused({"train=null", "train.lr=1"}, "'train' is set to null as well");
  refused({"a=[1"}, "--set a=[1: ");
  refused({"a=010"}, "leading zero");
  refused({std::string("a=\xff", 3)}, "not valid UTF-8");
  refused({"a=*b"}, "");
}

TEST(Settings, ReadsJsonObjects) {
  const Settings s =
      Settings::from_json(Json{{"window", 64}, {"mix", 0.5}, {"sub", {{"x", {1, 2}}}}}, "config.json: liger");
  EXPECT_EQ(number_of(s, "window"), 64);
  std::vector<int64_t> x;
  s.section("sub").get("x", x);
  EXPECT_EQ(x.size(), 2u);
  EXPECT_LIGER_ERROR(s.reject_unknown(), ErrorCode::kUsage, "config.json: liger: unknown key 'mix'");
  EXPECT_LIGER_ERROR(Settings::from_json(Json::array(), "c.json"), ErrorCode::kUsage, "c.json: expected an object");
}

TEST(Settings, ReadsFiles) {
  TempDir dir;
  put(dir / "a.yaml", "\n# ok\n---\na: \u00e9 # comment\r\nb: 2\r\n...\n");
  const Settings s = Settings::from_yaml_file(dir / "a.yaml");
  EXPECT_EQ(text_of(s, "a"), "\u00e9");
  EXPECT_EQ(number_of(s, "b"), 2);
  EXPECT_LIGER_ERROR(Settings::from_yaml_file(dir / "none.yaml"), ErrorCode::kIo, "none.yaml: cannot open");
  EXPECT_LIGER_ERROR(Settings::from_yaml_file(dir.path()), ErrorCode::kUsage, "got a directory");
  put(dir / "large.yaml", std::string(size_t{10} << 20, '#'));
  EXPECT_LIGER_ERROR(Settings::from_yaml_file(dir / "large.yaml"), ErrorCode::kUsage, "at most 262144 bytes");
}

struct BadYaml {
  std::string name, text, expected;
};

class RefusedYaml : public testing::TestWithParam<BadYaml> {};

TEST_P(RefusedYaml, NamesPlaceAndReason) {
  EXPECT_LIGER_ERROR(yaml(GetParam().text), ErrorCode::kUsage, "c.yaml:" + GetParam().expected);
}

std::string repeat(const std::string& piece, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += piece;
  return out;
}

std::string laughs() {
  std::string text = "a0: &a0 ha\n";
  for (int i = 1; i < 30; ++i) text += cat("a", i, ": &a", i, " [*a", i - 1, ", *a", i - 1, "]\n");
  return text;
}

INSTANTIATE_TEST_SUITE_P(
    Corpus, RefusedYaml,
    testing::Values(
        BadYaml{"DuplicateKey", "a: 1\nb: 2\na: 3\n", "3:1: duplicate key 'a', first at c.yaml:1:1"},
        BadYaml{"DuplicateInFlow", "x: {a: 1, a: 2}", "1:11: duplicate key 'a'"},
        BadYaml{"DuplicateQuoted", "a: 1\n\"a\": 2\n", "2:1: duplicate key 'a'"},
        BadYaml{"Tab", "a:\n\tb: 1\n", "2:1: a tab"}, BadYaml{"TabInside", "a: x\ty\n", "1:5: a tab"},
        BadYaml{"Anchor", "a: &x 1\n", "1:4: anchors"}, BadYaml{"AnchorOnMap", "a: &x\n  b: 1\n", "1:4: anchors"},
        BadYaml{"AnchorOnList", "a: &x [1]\n", "1:4: anchors"}, BadYaml{"AnchorOnNull", "a: &x\n", "1:4: anchors"},
        BadYaml{"Alias", "a: *x\n", "1:4: "}, BadYaml{"CyclicAlias", "a: &x [*x]\n", "1:4: anchors"},
        BadYaml{"Laughs", laughs(), "1:5: anchors"}, BadYaml{"Tag", "a: !!str 1\n", "1:4: tags"},
        BadYaml{"BareTag", "a: ! 1\n", "1:4: tags"}, BadYaml{"LocalTag", "a: !x {b: 1}\n", "1:4: tags"},
        BadYaml{"VerbatimTag", "a: !<tag:yaml.org,2002:int> 1\n", "1:4: tags"},
        BadYaml{"MergeKey", "a: {<<: {b: 1}}\n", "1:5: merge keys"},
        BadYaml{"SecondDocument", "a: 1\n---\nb: 2\n", "2:1: a second document"},
        BadYaml{"SecondDocumentAfterEnd", "a: 1\n...\nb: 2\n", "3:1: a second document"},
        BadYaml{"Directive", "%YAML 1.2\n---\na: 1\n", "1:1: a line that starts with '%'"},
        BadYaml{"DirectiveAfterComment", "# x\n\n%TAG ! !x\n---\na: 1\n", "3:1: a line that starts with '%'"},
        BadYaml{"Nul", std::string("a: 1\n\0b: 2\n", 11), "2:1: control character \\x00"},
        BadYaml{"Bell", "a: \a\n", "1:4: control character \\x07"},
        BadYaml{"BadUtf8", "a: x\n\u00e9: \xc3\x28\n", "2:4: not valid UTF-8"},
        BadYaml{"Overlong", "a: \xc0\xaf\n", "1:4: not valid UTF-8"},
        BadYaml{"Surrogate", "a: \xed\xa0\x80\n", "1:4: not valid UTF-8"},
        BadYaml{"ByteOrderMark",
                "\xef\xbb\xbf"
                "a: 1\n",
                "1:1: starts with a byte-order mark"},
        BadYaml{"LeadingZero", "a: 010\n", "1:4: '010': a leading zero"},
        BadYaml{"NegativeLeadingZero", "a: -08\n", "1:4: '-08': a leading zero"},
        BadYaml{"Infinity", "a: .inf\n", "1:4: '.inf': numbers must be finite"},
        BadYaml{"NegativeInfinity", "a: -.INF\n", "1:4: '-.INF': numbers must be finite"},
        BadYaml{"NotANumber", "a: .nan\n", "1:4: '.nan': numbers must be finite"},
        BadYaml{"FloatOverflow", "a: 1e999\n", "1:4: '1e999': is beyond the range"},
        BadYaml{"IntegerOverflow", "a: 18446744073709551616\n", "1:4: '18446744073709551616': does not fit"},
        BadYaml{"NegativeOverflow", "a: -9223372036854775809\n", "1:4: '-9223372036854775809': does not fit"},
        BadYaml{"HexOverflow", "a: 0x10000000000000000\n", "1:4: '0x10000000000000000': does not fit"},
        BadYaml{"RootIsList", "- 1\n", "1:1: expected 'key: value' lines, got a list"},
        BadYaml{"RootIsText", "abc\n", "1:1: expected 'key: value' lines, got text 'abc'"},
        BadYaml{"ListAsKey", "? [1]\n: 2\n", "1:3: expected a plain key"},
        BadYaml{"MapAsKey", "{{a: 1}: 2}\n", "1:2: expected a plain key"},
        BadYaml{"NoKey", ": 2\n", "1:1: expected a key"},
        BadYaml{"DeepFlow", "a: " + repeat("[", 64) + repeat("]", 64), "1:67: nesting deeper than 64"},
        BadYaml{"DeepBlock", repeat("- ", 100) + "1\n", "1:129: nesting deeper than 64"},
        BadYaml{"UnclosedDeep", "a: " + repeat("[", 200000), "1:"},
        BadYaml{"UnclosedDeepMap", repeat("{", 200000), "1:"}, BadYaml{"Unclosed", "a: [1, 2\n", "2:1: "},
        BadYaml{"UnclosedQuote", "a: \"x\n", "1:4: a quoted text without"},
        BadYaml{"UnclosedSingleQuote", "a: 'x''\nb: 1\n", "1:4: a quoted text without"},
        BadYaml{"NoColon", "a: 1\nb: 2\nsave\n", "3:1: expected ':' after 'save'"},
        BadYaml{"PercentLine", "a: 1\n%b: 2\nc: 3\n", "2:1: a line that starts with '%'"},
        BadYaml{"ValueNotIndented", "a:\nb # x\nc: 1\n", "2:1: expected the value of 'a' to be indented"},
        BadYaml{"FlowNotIndented", "x:\n  a:\n  [1]\n", "3:3: expected the value of 'a' to be indented"},
        BadYaml{"LoneCarriageReturn", "a: 1\rb: 2\n", "1:5: a carriage return"},
        BadYaml{"MapInLine", "a: b: c\n", "1:5: "}, BadYaml{"BadIndent", "a: 1\n  b: 2\n", "2:4: "},
        BadYaml{"BadEscape", "a: \"\\q\"\n", "1:7: "}),
    [](const auto& info) { return info.param.name; });

TEST(Settings, NumberWithATailIsText) {
  const Settings s = yaml("lr: 1e-3x\nb: 1_000\nc: nan\nd: 1e\n");
  for (const char* key : {"lr", "b", "c", "d"}) {
    double out = 0;
    EXPECT_LIGER_ERROR(s.get(key, out), ErrorCode::kUsage, "expected a number, got text '");
  }
}

TEST(Settings, NestingOf64IsFine) { EXPECT_NO_THROW(yaml("a: " + repeat("[", 63) + repeat("]", 63))); }

}  // namespace
}  // namespace liger
