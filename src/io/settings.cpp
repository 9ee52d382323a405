#include "liger/io/settings.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "io/nearest.h"
#include "io/settings_node.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"

namespace liger {

using detail::describe;
using detail::place_in;
using detail::printable;
using Node = detail::SettingsNode;
using Source = detail::SettingsSource;
using Kind = Node::Kind;

// yaml-cpp needs up to 230 bytes of memory for a byte of unclosed brackets, and reads all of them before it tells us.
static constexpr size_t kMaxBytes = size_t{256} << 10;

Settings Settings::from_yaml(std::string_view text, const std::string& source) {
  LIGER_CHECK_USAGE(text.size() <= kMaxBytes, source, ": expected at most ", kMaxBytes, " bytes of settings, got ",
                    text.size());
  const auto origin = std::make_shared<const Source>(Source{source, std::string(text)});
  std::shared_ptr<Node> root = detail::parse_yaml(origin, origin->text);
  if (root->is_null()) root->kind = Kind::kMap;  // an empty file sets nothing
  LIGER_CHECK_USAGE(root->kind == Kind::kMap, place_in(*origin, root->offset), ": expected 'key: value' lines, got ",
                    describe(*root));
  return Settings(std::move(root));
}

Settings Settings::from_yaml_file(const std::filesystem::path& file) {
  std::string text;
  try {
    text = read_text(file, kMaxBytes);
  } catch (const Error& error) {
    throw Error(error.what(), error.code() == ErrorCode::kBadInput ? ErrorCode::kUsage : error.code());
  }
  return from_yaml(text, file.string());
}

namespace {

std::shared_ptr<Node> node_from_json(const Json& value, const std::shared_ptr<const Source>& source) {
  const Kind kind = value.is_object() ? Kind::kMap : value.is_array() ? Kind::kList : Kind::kScalar;
  auto node = std::make_shared<Node>(kind, source, 0);
  if (kind == Kind::kScalar) node->scalar = value;
  if (kind == Kind::kList) {
    for (const Json& element : value) node->elements.push_back(node_from_json(element, source));
  }
  if (kind == Kind::kMap) {
    for (const auto& [key, member] : value.items()) node->set(key, node_from_json(member, source), source, 0);
  }
  return node;
}

}  // namespace

Settings Settings::from_json(const Json& object, const std::string& source) {
  std::shared_ptr<Node> root = node_from_json(object, std::make_shared<const Source>(Source{source, ""}));
  LIGER_CHECK_USAGE(root->kind == Kind::kMap, source, ": expected an object, got ", describe(*root));
  return Settings(std::move(root));
}

void Settings::override_with(const std::string& assignment) {
  const auto source = std::make_shared<const Source>(Source{"--set " + printable(assignment), ""});
  const size_t equals = assignment.find('=');
  LIGER_CHECK_USAGE(equals != std::string::npos, source->name, ": expected key=value");
  const std::string path = assignment.substr(0, equals);
  for (const std::string& earlier : node_->overridden) {
    LIGER_CHECK_USAGE(earlier != path && !earlier.starts_with(path + "."), source->name, ": '", printable(earlier),
                      "' is set twice");
  }
  Node* at = node_.get();
  size_t begin = 0;
  for (size_t dot; (dot = path.find('.', begin)) != std::string::npos; begin = dot + 1) {
    const std::string key = path.substr(begin, dot - begin);
    LIGER_CHECK_USAGE(!key.empty(), source->name, ": an empty key in '", printable(path), "'");
    const Node::Member* member = at->find(key);
    const bool is_null = member != nullptr && member->value->is_null();
    LIGER_CHECK_USAGE(!is_null || !node_->overridden.contains(path.substr(0, dot)), source->name, ": '",
                      printable(path.substr(0, dot)), "' is set to null as well");
    if (member == nullptr || is_null) {
      at->set(key, std::make_shared<Node>(Kind::kMap, source, 0), source, 0);
      member = at->find(key);
    }
    LIGER_CHECK_USAGE(member->value->kind == Kind::kMap, source->name, ": '", printable(path.substr(0, dot)), "' is ",
                      describe(*member->value), ", so nothing can be set inside it");
    at = member->value.get();
  }
  LIGER_CHECK_USAGE(begin < path.size(), source->name, ": an empty key in '", printable(path), "'");
  at->set(path.substr(begin), detail::parse_yaml(source, std::string_view(assignment).substr(equals + 1)), source, 0);
  node_->overridden.insert(path);
}

void Settings::mark(std::string_view key) const { node_->asked.emplace(key); }

bool Settings::has(std::string_view key) const {
  mark(key);
  return node_->find(key) != nullptr;
}

bool Settings::is_null(std::string_view key) const {
  mark(key);
  const Node::Member* member = node_->find(key);
  return member == nullptr || member->value->is_null();
}

std::vector<std::string> Settings::keys() const {
  std::vector<std::string> keys;
  for (const Node::Member& member : node_->members) keys.push_back(member.key);
  return keys;
}

Settings Settings::section(std::string_view key) const {
  mark(key);
  const Node::Member* member = node_->find(key);
  std::shared_ptr<Node> found = member == nullptr ? nullptr : member->value;
  if (found != nullptr && !found->is_null() && found->kind != Kind::kMap) {
    fail_at(key, "expected a mapping, got " + describe(*found));
  }
  if (found == nullptr || found->is_null()) {
    std::shared_ptr<Node>& absent = node_->absent[std::string(key)];
    if (absent == nullptr) absent = std::make_shared<Node>(Kind::kMap, node_->source, node_->offset);
    found = absent;
  }
  found->path = node_->join(key);
  return Settings(std::move(found));
}

namespace {

// Each reads a value of its type, or returns what it expected.
const char* read(const Node& node, bool& out) {
  if (node.kind != Kind::kScalar || !node.scalar.is_boolean()) return "true or false";
  out = node.scalar.get<bool>();
  return nullptr;
}

const char* read(const Node& node, int64_t& out) {
  if (node.kind != Kind::kScalar || !node.scalar.is_number_integer()) return "a whole number";
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (node.scalar.is_number_unsigned() && node.scalar.get<uint64_t>() > kMax) return "a whole number below 2^63";
  out = node.scalar.get<int64_t>();
  return nullptr;
}

const char* read(const Node& node, double& out) {
  if (node.kind != Kind::kScalar || !node.scalar.is_number()) return "a number";
  out = node.scalar.get<double>();
  return nullptr;
}

const char* read(const Node& node, std::string& out) {
  if (node.kind != Kind::kScalar || !node.scalar.is_string()) return "text";
  out = node.scalar.get<std::string>();
  return nullptr;
}

[[noreturn]] void fail_value(const Node& map, const Node& value, std::string_view key, const std::string& what) {
  fail(ErrorCode::kUsage, place_in(*value.source, value.offset), ": '", printable(map.join(key)), "': ", what);
}

template <typename T>
void get_scalar(Node& map, std::string_view key, T& out) {
  map.asked.emplace(key);
  const Node::Member* member = map.find(key);
  if (member == nullptr) return;
  const Node& value = *member->value;
  if (const char* expected = read(value, out)) {
    const bool quote = std::is_same_v<T, std::string> && value.kind == Kind::kScalar && !value.scalar.is_null();
    fail_value(map, value, key,
               cat("expected ", expected, ", got ", describe(value), quote ? "; put it in quotes" : ""));
  }
}

template <typename T>
void get_list(Node& map, std::string_view key, std::vector<T>& out) {
  map.asked.emplace(key);
  const Node::Member* member = map.find(key);
  if (member == nullptr) return;
  const Node& list = *member->value;
  if (list.kind != Kind::kList) fail_value(map, list, key, "expected a list, got " + describe(list));
  std::vector<T> values(list.elements.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const Node& element = *list.elements[i];
    if (const char* expected = read(element, values[i])) {
      fail_value(map, element, key, cat("expected a list of which each is ", expected, ", got ", describe(element)));
    }
  }
  out = std::move(values);
}

}  // namespace

void Settings::get(std::string_view key, bool& out) const { get_scalar(*node_, key, out); }
void Settings::get(std::string_view key, int64_t& out) const { get_scalar(*node_, key, out); }
void Settings::get(std::string_view key, double& out) const { get_scalar(*node_, key, out); }
void Settings::get(std::string_view key, std::string& out) const { get_scalar(*node_, key, out); }
void Settings::get(std::string_view key, std::vector<std::string>& out) const { get_list(*node_, key, out); }
void Settings::get(std::string_view key, std::vector<int64_t>& out) const { get_list(*node_, key, out); }

void Settings::fail_at(std::string_view key, const std::string& what) const {
  const Node::Member* member = node_->find(key);
  fail_value(*node_, member == nullptr ? *node_ : *member->value, key, what);
}

namespace {

using Names = std::set<std::string, std::less<>>;

/// Full names of all keys the program asked for, below `map`.
void collect_known(const Node& map, const std::string& path, Names& out) {
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const std::string& key : map.asked) out.insert(prefix + key);
  for (const Node::Member& member : map.members) {
    if (member.value->kind == Kind::kMap) collect_known(*member.value, prefix + member.key, out);
  }
  for (const auto& [key, section] : map.absent) collect_known(*section, prefix + key, out);
}

std::string suggestion(const std::string& key, const Node& map, const Names& known) {
  const auto meant = [](const std::string& name) { return "; did you mean '" + name + "'?"; };
  for (const std::string& name : known) {
    if (name.ends_with("." + key)) return meant(name);
  }
  if (const std::string near = detail::nearest(key, map.asked); !near.empty()) return meant(near);
  if (map.asked.empty()) return "";
  std::string list;
  for (const std::string& each : map.asked) list += (list.empty() ? "" : ", ") + each;
  return "; known here: " + list;
}

void reject_unknown_in(const Node& map, const Names& known) {
  for (const Node::Member& member : map.members) {
    if (!map.asked.contains(member.key)) {
      fail(ErrorCode::kUsage, place_in(*member.source, member.offset), ": unknown key '", printable(member.key), "'",
           suggestion(member.key, map, known));
    }
    if (member.value->kind == Kind::kMap) reject_unknown_in(*member.value, known);
  }
}

}  // namespace

Json detail::to_json(const Node& node) {
  if (node.kind == Kind::kScalar) return node.scalar;
  Json out = node.kind == Kind::kMap ? Json::object() : Json::array();
  for (const auto& element : node.elements) out.push_back(to_json(*element));
  for (const Node::Member& member : node.members) out[member.key] = to_json(*member.value);
  return out;
}

void Settings::reject_unknown() const {
  Names known;
  collect_known(*node_, node_->path, known);
  reject_unknown_in(*node_, known);
}

Json Settings::to_json() const { return detail::to_json(*node_); }

}  // namespace liger
