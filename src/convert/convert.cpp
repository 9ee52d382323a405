#include "liger/convert/convert.h"

#include <algorithm>
#include <utility>

#include "convert/rewrite.h"
#include "convert/tied_weights.h"
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
    case FileAction::kTie: return "tie";
    case FileAction::kWrite: return "write";
  }
  return "?";
}

namespace {

// Of everything that takes time, as one bar.
class Work {
 public:
  Work(const ConvertPlan& plan, const TiedWeights* tied, const char* title) {
    int64_t total = 0;
    for (const PlannedFile& file : plan.files) {
      if (file.action == FileAction::kRewrite) total += static_cast<int64_t>(file.bytes);
      if (file.action == FileAction::kTie)
        for (const TensorInfo& tensor : file.tensors) total += tied->work(tensor);
    }
    if (total >= kUnit) progress_.emplace(title, total / kUnit);
  }
  void did(int64_t work, const std::string& note) {
    done_ += work;
    if (progress_) progress_->update(done_ / kUnit, note);
  }
  void finish() {
    if (progress_) progress_->finish();
  }

 private:
  static constexpr int64_t kUnit = 1'000'000;
  std::optional<Progress> progress_;
  int64_t done_ = 0;
};

}  // namespace

Converted run_conversion(const ConvertPlan& plan) {
  const ConvertOptions& options = plan.options;
  const WeightFiles weights(options.model);
  const ModelConfig model = ModelConfig::read(options.model);
  const auto edits = read_merge(merged_adapter(options), model).rows;
  std::optional<TiedWeights> tied;
  if (options.tie) tied.emplace(weights, model, *options.tie, options.dtype);
  AtomicDirectory folder(options.out, options.overwrite);
  Work work(plan, tied ? &*tied : nullptr, tied ? "tying, M" : edits.empty() ? "converting, MB" : "merging, MB");

  for (const PlannedFile& file : plan.files) {
    throw_if_interrupted();
    const fs::path to = folder.path() / file.name;
    fs::create_directories(to.parent_path());
    const auto on_progress = [&](auto done) { work.did(static_cast<int64_t>(done), file.name); };
    switch (file.action) {
      case FileAction::kLink: link_file(file, to); break;
      case FileAction::kCopy: copy_bytes(file.from, to); break;
      case FileAction::kWrite: write_text_atomic(to, file.content); break;
      case FileAction::kRewrite: rewrite_file(weights, model, to, file.tensors, edits, on_progress); break;
      case FileAction::kTie: tied->write(to, file.tensors, on_progress);
    }
  }
  work.finish();
  throw_if_interrupted();
  constexpr uint64_t kLargestHashed = uint64_t{64} << 20;  // hashing the weights would take longer than linking them
  folder.commit(kLargestHashed);
  return {folder.path(), tied ? tied->kept() : KeptEnergy()};
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
