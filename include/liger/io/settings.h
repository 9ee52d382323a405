#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "liger/io/json.h"

namespace liger {

namespace detail {
struct SettingsNode;
}

/// A tree of settings (YAML file, command-line overrides, or an object of a JSON file) that remembers where each
/// value came from and which keys were asked for, so that a misspelt key is an error and not a silence.
///
///   Settings s = Settings::from_yaml_file("lora.yaml");
///   s.override_with("train.lr=2e-4");
///   auto train = s.section("train");
///   train.get("lr", options.lr);          // left alone when absent
///   s.reject_unknown();                   // lora.yaml:7:3: unknown key 'learning_rat'; did you mean 'lr'?
class Settings {
 public:
  /// Strict YAML 1.2 subset: one document of plain mappings, sequences and scalars. Refused with
  /// file:line:column: duplicate keys, anchors, aliases, tags, merge keys, tabs, invalid UTF-8, NUL, a second
  /// document, nesting deeper than 64, more than 256 KiB. A number with a leading zero, .inf and .nan
  /// are refused too; yes, no, on, off are text. Throws Error(kUsage); Error(kIo) if it cannot be read.
  static Settings from_yaml_file(const std::filesystem::path& file);
  static Settings from_yaml(std::string_view text, const std::string& source);
  /// `source` names the file and, after ':', the place in it; used in messages only.
  static Settings from_json(const Json& object, const std::string& source);

  /// "a.b=value", the value in YAML; creates what is missing. Throws Error(kUsage) on bad syntax, on a path that
  /// runs through a value or a list, and if the same key is set twice.
  void override_with(const std::string& assignment);

  bool has(std::string_view key) const;      ///< present, null included
  std::vector<std::string> keys() const;     ///< of this mapping, in the order of the file
  bool is_null(std::string_view key) const;  ///< present and null, or absent
  /// The mapping under `key`; an empty one when absent or null. Throws if it is something else.
  Settings section(std::string_view key) const;

  /// Reads `key` into `out` if present. Throws Error(kUsage) "place: 'key': expected ..., got ..." on a value of the
  /// wrong type or, for integers, out of range. 1e-3, .5, inf-free: numbers must be finite.
  void get(std::string_view key, bool& out) const;
  void get(std::string_view key, int64_t& out) const;
  void get(std::string_view key, double& out) const;
  void get(std::string_view key, std::string& out) const;
  void get(std::string_view key, std::vector<std::string>& out) const;
  void get(std::string_view key, std::vector<int64_t>& out) const;
  template <typename T>
  void get(std::string_view key, std::optional<T>& out) const {  // null clears it
    if (!has(key)) return;
    mark(key);
    if (is_null(key)) return out.reset();
    T value{};
    get(key, value);
    out = std::move(value);
  }

  /// Throws Error(kUsage) saying `what` about the value of `key`, with its place.
  [[noreturn]] void fail_at(std::string_view key, const std::string& what) const;

  /// Throws Error(kUsage) for the first key of the whole tree that nobody asked for, with the nearest known one.
  void reject_unknown() const;

  /// The tree as read, overrides applied.
  Json to_json() const;

 private:
  explicit Settings(std::shared_ptr<detail::SettingsNode> node) : node_(std::move(node)) {}
  void mark(std::string_view key) const;
  std::shared_ptr<detail::SettingsNode> node_;
};

}  // namespace liger
