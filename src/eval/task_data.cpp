#include <algorithm>
#include <array>

#include "eval/task_fields.h"
#include "liger/error.h"
#include "liger/eval/document.h"
#include "liger/io/jsonl.h"
#include "liger/io/manifest.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

std::string form(const Task& task) { return task.columns.empty() ? "" : cat(": ", task.columns); }

// DIR/{task}.{split} with the first ending there is.
fs::path file_in(const fs::path& dir, const Task& task, const std::string& split) {
  constexpr std::array<const char*, 6> kEndings = {".jsonl",     ".json",    ".jsonl.gz",
                                                   ".jsonl.zst", ".json.gz", ".json.zst"};
  for (const char* ending : kEndings) {
    fs::path file = dir / cat(task.name, ".", split, ending);
    if (fs::exists(file)) return file;
  }
  return dir / cat(task.name, ".", split, ".jsonl");
}

fs::path file_of(const Task& task, const std::string& split, const fs::path& data) {
  const auto own = task.files.find(split);
  const bool in_folder = !data.empty() && fs::is_directory(data);
  if (own != task.files.end() && !(in_folder && fs::exists(file_in(data, task, split)))) return own->second;
  LIGER_CHECK_USAGE(!data.empty(), "task ", task.name, " needs --data: a folder with ", task.name, ".", split,
                    ".jsonl");
  LIGER_CHECK(fs::exists(data), data.string(), ": no such file or folder; ", task.name, " reads ", task.name, ".",
              split, ".jsonl, one JSON row a line", form(task));
  if (in_folder) return file_in(data, task, split);
  const bool is_whole = task.output == Task::Output::kTokens || task.output == Task::Output::kRolling;
  LIGER_CHECK_USAGE(is_whole, "--data ", data.string(), " is not a folder; ", task.name, " needs one with ", task.name,
                    ".", split, ".jsonl, one JSON row a line", form(task));
  return data;
}

}  // namespace

TaskData read_task_data(const Task& task, const std::string& split, const fs::path& data) {
  TaskData result{file_of(task, split, data), {}, {}};
  LIGER_CHECK(fs::exists(result.file), result.file.string(), ": no such file; ", task.name,
              " reads one JSON row a line", form(task));
  verify_by_manifest(result.file);
  JsonlReader reader(result.file);
  while (auto row = reader.next_ordered()) {
    result.lines.push_back(reader.line());
    result.rows.push_back(std::move(*row));
    if (task.fields->process_docs == nullptr) continue;
    with_context(result.where(result.rows.size() - 1), [&] { task.fields->process_docs(result.rows.back()); });
  }
  LIGER_CHECK(!result.rows.empty(), result.file.string(), ": no rows; ", task.name, " reads one JSON row a line",
              form(task));
  return result;
}

}  // namespace liger
