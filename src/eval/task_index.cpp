#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "eval/builtin_tasks.h"
#include "eval/task_definition.h"
#include "io/nearest.h"
#include "liger/error.h"
#include "liger/eval/task.h"
#include "liger/io/files.h"
#include "liger/io/yaml.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 8;  // of includes, and of groups in groups
constexpr size_t kMaxBytes = size_t{256} << 10;

// "mmlu_*" against "mmlu_virology": * is any text, ? any one character.
bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*') {
    return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) && matches(pattern.substr(1), name.substr(1));
  }
  const std::string_view rest = pattern.substr(std::min(pattern.find_first_not_of('*'), pattern.size()));
  for (size_t i = 0; i <= name.size(); ++i)
    if (matches(rest, name.substr(i))) return true;
  return false;
}

// Texts of definitions by the names that `include` has for them.
using Reader = std::function<Json(const std::string& name)>;

// The definition with those it includes under it. Throws on includes that go in circles.
Json resolved(Json definition, const std::string& source, const Reader& read, int depth = 0) {
  LIGER_CHECK_USAGE(definition.is_object(), source, ": expected 'key: value' lines");
  LIGER_CHECK_USAGE(depth < kMaxDepth, source, ": includes more than ", kMaxDepth, " deep");
  const auto include = definition.find("include");
  if (include == definition.end()) return definition;
  LIGER_CHECK_USAGE(include->is_string(), source, ": 'include': expected the name of a file");
  const std::string name = include->get<std::string>();
  Json base = resolved(read(name), cat(source, ": include ", name), read, depth + 1);
  definition.erase(include);
  base.update(definition);
  return base;
}

std::vector<std::string> texts(const Json& value) {
  std::vector<std::string> out;
  for (const Json& item : value.is_array() ? value : Json::array({value}))
    if (item.is_string()) out.push_back(item.get<std::string>());
  return out;
}

}  // namespace

struct TaskIndex::Impl {
  struct Entry {
    Json definition;
    std::string source;
    Reader read;
  };
  std::map<std::string, Entry, std::less<>> tasks, groups;
  std::map<std::string, std::vector<std::string>, std::less<>> tags;

  void add_builtin() {
    const Reader read = [](const std::string& name) {
      for (const eval::BuiltinFile& file : eval::builtin_task_files())
        if (file.name == name) return read_yaml(file.text, name);
      fail(ErrorCode::kUsage, "there is no built-in file '", name, "'");
    };
    for (const eval::BuiltinFile& file : eval::builtin_task_files())
      add(read_yaml(file.text, std::string(file.name)), cat("built-in ", file.name), read);
  }

  static Json read_file(const fs::path& file) { return read_yaml(read_text(file, kMaxBytes), file.string()); }

  void add_file(const fs::path& file) {
    const fs::path folder = file.parent_path();
    const Reader read = [folder](const std::string& name) {
      LIGER_CHECK_USAGE(fs::is_regular_file(folder / name), (folder / name).string(),
                        ": no such file, though it is included");
      return read_file(folder / name);
    };
    add(read_file(file), file.string(), read);
  }

  void add_folder(const fs::path& folder) {
    LIGER_CHECK_USAGE(fs::is_directory(folder), folder.string(), ": no such folder of tasks");
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder))
      if (entry.is_regular_file() && entry.path().extension() == ".yaml") files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) add_file(file);
  }

  // A task, a group with perhaps tasks of its own in it, or a part that others include.
  void add(const Json& text, const std::string& source, const Reader& read) {
    const Json definition = resolved(text, source, read);
    if (definition.contains("group")) return add_group(definition, source, read);
    if (!definition.contains("task")) return;
    LIGER_CHECK_USAGE(definition["task"].is_string(), source, ": 'task': expected a name");
    add_task(definition, source, read);
  }
  void add_task(const Json& definition, const std::string& source, const Reader& read) {
    const std::string name = definition["task"].get<std::string>();
    if (definition.contains("tag")) {
      for (const std::string& tag : texts(definition["tag"])) {
        std::vector<std::string>& tagged = tags[tag];
        if (std::find(tagged.begin(), tagged.end(), name) == tagged.end()) tagged.push_back(name);
      }
    }
    tasks[name] = {definition, source, read};
  }
  void add_group(Json definition, const std::string& source, const Reader& read) {
    LIGER_CHECK_USAGE(definition["group"].is_string(), source, ": 'group': expected a name");
    Json children = definition.value("task", Json::array());
    if (children.is_string()) children = Json::array({children});
    LIGER_CHECK_USAGE(children.is_array() && !children.empty(), source, ": 'task': expected a list of tasks");
    for (Json& child : children) {
      if (child.is_string()) continue;
      const bool named = child.is_object() && child.contains("task") && child["task"].is_string();
      LIGER_CHECK_USAGE(named, source, ": 'task': expected names and tasks, got ", child.dump().substr(0, 80));
      const std::string name = child["task"].get<std::string>();
      const Json whole = resolved(child, source, read);
      if (!whole.contains("output_type")) continue;  // another task or group, with changes
      add_task(whole, source, read);
      child = name;
    }
    definition["task"] = children;
    groups[definition["group"].get<std::string>()] = {definition, source, read};
  }

  [[noreturn]] void unknown(const std::string& name) const {
    std::set<std::string, std::less<>> known;
    for (const auto& entry : tasks) known.insert(entry.first);
    for (const auto& entry : groups) known.insert(entry.first);
    for (const auto& entry : tags) known.insert(entry.first);
    const std::string nearest = detail::nearest(name, known);
    fail(ErrorCode::kUsage, "unknown task '", name.substr(0, 80), "'; ",
         nearest.empty() ? "" : cat("did you mean '", nearest, "'? "), "--tasks list shows all");
  }
};

namespace {

// Gathers what names ask for, every task and group once.
class Selector {
 public:
  explicit Selector(const TaskIndex::Impl& index) : index_(index) {}

  void add(const std::string& name) {
    if (name.find_first_of("*?") == std::string::npos) {
      add_one(name, Json::object(), 0);
      return;
    }
    size_t found = 0;
    for (const auto* names : {&index_.groups, &index_.tasks}) {
      for (const auto& entry : *names) {
        if (!matches(name, entry.first)) continue;
        add_one(entry.first, Json::object(), 0);
        ++found;
      }
    }
    LIGER_CHECK_USAGE(found > 0, "no task matches '", name, "'; --tasks list shows all");
  }

  TaskSelection selection;

 private:
  // `changes`: members of a definition that a group sets for what is in it.
  void add_one(const std::string& name, const Json& changes, int depth) {
    LIGER_CHECK_USAGE(depth < kMaxDepth, "groups more than ", kMaxDepth, " deep, at '", name, "'");
    if (const auto task = index_.tasks.find(name); task != index_.tasks.end()) return add_task(task->second, changes);
    if (const auto group = index_.groups.find(name); group != index_.groups.end())
      return add_group(group->second, changes, depth);
    const auto tag = index_.tags.find(name);
    if (tag == index_.tags.end()) index_.unknown(name);
    for (const std::string& task : tag->second) add_one(task, changes, depth + 1);
  }
  void add_task(const TaskIndex::Impl::Entry& entry, const Json& changes) {
    Json definition = entry.definition;
    definition.update(changes);
    const auto task = eval::make_task(definition, entry.source);
    const auto same = std::find_if(selection.tasks.begin(), selection.tasks.end(),
                                   [&](const auto& other) { return other->name == task->name; });
    if (same == selection.tasks.end()) return selection.tasks.push_back(task);
    LIGER_CHECK_USAGE((*same)->config == task->config, "task '", task->name,
                      "' is asked for twice, with other settings; run them one after the other");
  }
  void add_group(const TaskIndex::Impl::Entry& entry, const Json& changes, int depth) {
    TaskGroup group = eval::make_group(entry.definition, entry.source);
    for (const Json& child : entry.definition["task"]) {
      Json more = changes;
      if (child.is_object()) more.update(child);
      more.erase("task");
      const std::string name = child.is_object() ? child["task"].get<std::string>() : child.get<std::string>();
      add_one(name, more, depth + 1);
      const auto tag = index_.tags.find(name);
      const bool is_tag = tag != index_.tags.end() && !index_.tasks.contains(name) && !index_.groups.contains(name);
      if (!is_tag) group.children.push_back(name);
      if (is_tag) group.children.insert(group.children.end(), tag->second.begin(), tag->second.end());
    }
    const auto same = [&](const TaskGroup& other) { return other.name == group.name; };
    if (std::none_of(selection.groups.begin(), selection.groups.end(), same))
      selection.groups.push_back(std::move(group));
  }

  const TaskIndex::Impl& index_;
};

}  // namespace

TaskIndex::TaskIndex(std::span<const fs::path> include_paths) : impl_(std::make_unique<Impl>()) {
  impl_->add_builtin();
  for (const fs::path& folder : include_paths) impl_->add_folder(folder);
}

TaskIndex::~TaskIndex() = default;

TaskSelection TaskIndex::select(const std::vector<std::string>& names) const {
  Impl index = *impl_;
  std::vector<std::string> wanted;
  for (const std::string& name : names) {
    if (!name.ends_with(".yaml") && !name.ends_with(".yml")) {
      wanted.push_back(name);
      continue;
    }
    LIGER_CHECK_USAGE(fs::is_regular_file(name), "task '", name, "': no such file");
    index.add_file(name);
    const Json definition = Impl::read_file(name);
    const char* key = definition.contains("group") ? "group" : "task";
    LIGER_CHECK_USAGE(definition.contains(key) && definition[key].is_string(), name,
                      ": expected a 'task' or a 'group'");
    wanted.push_back(definition[key].get<std::string>());
  }
  Selector selector(index);
  for (const std::string& name : wanted) selector.add(name);
  return std::move(selector.selection);
}

std::vector<std::pair<std::string, std::string>> TaskIndex::names() const {
  std::vector<std::pair<std::string, std::string>> names;
  for (const auto& entry : impl_->tasks) names.emplace_back(entry.first, "task");
  for (const auto& entry : impl_->groups) names.emplace_back(entry.first, "group");
  for (const auto& entry : impl_->tags) names.emplace_back(entry.first, "tag");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace liger
