#include "liger/convert/convert.h"

#include <algorithm>
#include <utility>

#include "convert/rewrite.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"

namespace liger {
namespace {

namespace fs = std::filesystem;

void copy_bytes(const fs::path& from, const fs::path& to) {
  constexpr uint64_t kPiece = uint64_t{4} << 20;
  const MappedFile in(from);
  AtomicFile out(to);
  const uint64_t size = in.bytes().size();
  std::vector<std::byte> buffer(std::min(size, kPiece));
  for (uint64_t at = 0; at < size; at += kPiece) {
    throw_if_interrupted();
    const auto piece = std::span(buffer).first(std::min(kPiece, size - at));
    in.read_at(at, piece);
    out.write(piece.data(), piece.size());
  }
  out.commit();
}

void link_file(const PlannedFile& file, const fs::path& to) {
  const Placed placed = place_file(file.from, to);
  if (placed != Placed::kHardLink) log_info(cat(file.name, ": no hard link possible here, so a ", to_string(placed)));
}

}  // namespace

const char* to_string(FileAction action) {
  switch (action) {
    case FileAction::kLink: return "link";
    case FileAction::kCopy: return "copy";
    case FileAction::kRewrite: return "rewrite";
    case FileAction::kWrite: return "write";
  }
  return "?";
}

fs::path run_conversion(const ConvertPlan& plan) {
  const WeightFiles weights(plan.options.model);
  const auto edits = read_merge(plan.options.merge, ModelConfig::read(plan.options.model)).rows;
  AtomicDirectory folder(plan.options.out, plan.options.overwrite);
  const auto is_rewritten = [](const PlannedFile& file) { return file.action == FileAction::kRewrite; };
  uint64_t total = 0, done = 0;
  for (const PlannedFile& file : plan.files) total += is_rewritten(file) ? file.bytes : 0;
  std::optional<Progress> progress;
  constexpr uint64_t kMegabyte = 1'000'000;
  if (total >= kMegabyte)
    progress.emplace(edits.empty() ? "converting, MB" : "merging, MB", static_cast<int64_t>(total / kMegabyte));

  for (const PlannedFile& file : plan.files) {
    throw_if_interrupted();
    const fs::path to = folder.path() / file.name;
    switch (file.action) {
      case FileAction::kLink: link_file(file, to); break;
      case FileAction::kCopy: copy_bytes(file.from, to); break;
      case FileAction::kWrite: write_text_atomic(to, file.content); break;
      case FileAction::kRewrite:
        rewrite_file(weights, to, file.tensors, edits, [&](uint64_t bytes) {
          done += bytes;
          if (progress) progress->update(static_cast<int64_t>(done / kMegabyte), file.name);
        });
    }
  }
  if (progress) progress->finish();
  throw_if_interrupted();
  constexpr uint64_t kLargestHashed = uint64_t{64} << 20;  // hashing the weights would take longer than linking them
  folder.commit(kLargestHashed);
  return folder.path();
}

OrderedJson to_json(const ConvertPlan& plan) {
  OrderedJson files = OrderedJson::array();
  for (const PlannedFile& file : plan.files) {
    files.push_back({{"name", file.name}, {"action", to_string(file.action)}, {"bytes", file.bytes}});
  }
  const auto text = [](const std::string& value) { return value.empty() ? OrderedJson() : OrderedJson(value); };
  return {{"model", plan.options.model.string()},
          {"arch", text(plan.options.arch)},
          {"merge", text(plan.options.merge.string())},
          {"out", plan.options.out.string()},
          {"files", std::move(files)},
          {"config_changes", plan.config_changes},
          {"warnings", plan.warnings},
          {"bytes_written", plan.bytes_written},
          {"peak_memory_bytes", plan.peak_memory_bytes}};
}

}  // namespace liger
