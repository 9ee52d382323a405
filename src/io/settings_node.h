#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "liger/io/json.h"

namespace liger::detail {

/// Where settings came from. Without text (a JSON object, an override) a place is just the name.
struct SettingsSource {
  std::string name, text;
};

struct SettingsNode {
  enum class Kind { kScalar, kMap, kList };
  using Ptr = std::shared_ptr<SettingsNode>;
  struct Member {
    std::string key;
    Ptr value;
    std::shared_ptr<const SettingsSource> source;  // and place of the key
    size_t offset = 0;
  };

  SettingsNode(Kind node_kind, std::shared_ptr<const SettingsSource> node_source, size_t node_offset)
      : kind(node_kind), source(std::move(node_source)), offset(node_offset) {}

  Kind kind;
  std::shared_ptr<const SettingsSource> source;
  size_t offset;
  Json scalar;                  // null, boolean, number or text
  std::vector<Ptr> elements;    // of a list
  std::vector<Member> members;  // of a mapping, in file order
  std::map<std::string, size_t, std::less<>> index;
  std::string path;  // "train.lr"; set when the node is reached from its parent

  // What the program asked of a mapping, for finding keys that nobody knows.
  std::set<std::string, std::less<>> asked;
  std::map<std::string, Ptr, std::less<>> absent;  // sections asked for that are not there
  std::set<std::string> overridden;                // at the root: paths set by override_with

  const Member* find(std::string_view key) const {
    const auto at = index.find(key);
    return at == index.end() ? nullptr : &members[at->second];
  }
  bool is_null() const { return kind == Kind::kScalar && scalar.is_null(); }
  void set(std::string key, Ptr value, std::shared_ptr<const SettingsSource> key_source, size_t key_offset);
  std::string join(std::string_view key) const {
    return path.empty() ? std::string(key) : path + "." + std::string(key);
  }
};

/// "lora.yaml:7:3"
std::string place_in(const SettingsSource& source, size_t offset);
/// A value as messages show it: "text 'abc'", "the number 3".
std::string describe(const SettingsNode& node);

/// Whether a text may have the tag "!function", which then stays in front of it.
enum class FunctionTags { kRefused, kAllowed };

/// Any YAML value of the subset that settings.h describes, of at most 256 KiB.
SettingsNode::Ptr parse_yaml(std::shared_ptr<const SettingsSource> source, std::string_view text,
                             FunctionTags functions = FunctionTags::kRefused);
Json to_json(const SettingsNode& node);

}  // namespace liger::detail
