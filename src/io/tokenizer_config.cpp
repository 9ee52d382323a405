#include "io/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "io/json_fields.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger::detail {
namespace {

constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kMapFile = "special_tokens_map.json";
constexpr size_t kMaxBytes = size_t{64} << 20;

Json read_object_if_there(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return Json::object();
  Json json = read_json(file, kMaxBytes, LongIntegers::kAsFloat);
  LIGER_CHECK(json.is_object(), file.string(), ": expected an object, got ", describe_type(json));
  return json;
}

/// "bos_token": "<s>", or {"content": "<s>", ...}.
std::string token_content(const Json& value, const std::string& where) {
  const Json& content = value.is_object() ? need_field(value, "content", where) : value;
  LIGER_CHECK(content.is_string(), where, ": expected a token, got ", describe_type(content));
  return content.get<std::string>();
}

/// "eos_token_id": 2, or a list whose first counts.
std::optional<int64_t> token_id(const Json& json, const std::string& key, const std::string& where) {
  const Json* value = find_field(json, key);
  if (value != nullptr && value->is_array()) value = value->empty() ? nullptr : &value->front();
  if (value == nullptr) return std::nullopt;
  return id_value(*value, where + ": " + key);
}

}  // namespace

TokenizerConfig::TokenizerConfig(std::filesystem::path dir) : dir_(std::move(dir)) {
  config_ = read_object_if_there(dir_ / kConfigFile);
  map_ = read_object_if_there(dir_ / kMapFile);
  const std::string where = (dir_ / kConfigFile).string();
  if (find_field(config_, "add_bos_token")) add_bos = bool_field(config_, "add_bos_token", where, false);
  if (find_field(config_, "add_eos_token")) add_eos = bool_field(config_, "add_eos_token", where, false);
  read_chat_template();
}

void TokenizerConfig::read_chat_template() {
  constexpr size_t kMaxTemplate = size_t{1} << 20;
  if (const auto file = dir_ / "chat_template.jinja"; std::filesystem::exists(file)) {
    chat_template = read_text(file, kMaxTemplate);
    return;
  }
  const Json* given = find_field(config_, "chat_template");
  if (given == nullptr) return;
  const std::string where = (dir_ / kConfigFile).string() + ": chat_template";
  LIGER_CHECK(given->is_string() || given->is_array(), where, ": expected text or a list of templates, got ",
              describe_type(*given));
  if (given->is_string()) {
    chat_template = given->get<std::string>();
    return;
  }
  for (const Json& entry : *given) {
    if (string_field(entry, "name", where) == "default") chat_template = string_field(entry, "template", where);
  }
}

std::vector<AddedToken> TokenizerConfig::added_tokens() const {
  std::vector<AddedToken> tokens;
  const Json* list = find_field(config_, "added_tokens_decoder");
  if (list == nullptr) return tokens;
  const std::string where = (dir_ / kConfigFile).string() + ": added_tokens_decoder";
  LIGER_CHECK(list->is_object(), where, ": expected an object, got ", describe_type(*list));
  for (const auto& [key, entry] : list->items()) {
    AddedToken token = read_added_token(entry, where + "['" + printable(key) + "']");
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    LIGER_CHECK(error == std::errc() && end == key.data() + key.size() && id >= 0, where, ": '", printable(key),
                "' is not a token id");
    token.id = id;
    tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return tokens;
}

std::optional<int64_t> TokenizerConfig::special_id(const std::string& name, const Find& find,
                                                   std::optional<int64_t> from_tokenizer) const {
  const std::string key = name + "_token";
  for (const auto& [json, file] : {std::pair(&config_, kConfigFile), std::pair(&map_, kMapFile)}) {
    if (!json->contains(key)) continue;
    if (json->at(key).is_null()) return std::nullopt;  // the file says that there is none
    const std::string where = (dir_ / file).string() + ": " + key;
    const std::string content = token_content(json->at(key), where);
    if (content.empty()) continue;  // as some converted files have it: not told here
    const auto id = find(content);
    LIGER_CHECK(id, where, ": '", printable(content), "' is not in the vocabulary");
    return id;
  }
  if (from_tokenizer) return from_tokenizer;
  for (const char* file : {"generation_config.json", "config.json"}) {
    const Json json = read_object_if_there(dir_ / file);
    if (const auto id = token_id(json, key + "_id", (dir_ / file).string())) return id;
  }
  return std::nullopt;
}

}  // namespace liger::detail
