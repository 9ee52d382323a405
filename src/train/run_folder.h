#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/atomic_directory.h"
#include "liger/train/options.h"

namespace liger {

/// The folder of a run: ckpt-N, final, tokens, metrics and loss.svg. Nobody else may write it while this object lives.
class RunFolder {
 public:
  /// Decides what to go on from. Nothing in the folder changes before open().
  /// Throws Error(kLocked) if another process has it, or if it holds (part of) an earlier run that is neither gone on
  /// from nor to be overwritten; Error(kBadInput) if save.resume names a folder that is no good checkpoint.
  explicit RunFolder(const SaveOptions& options);

  /// The checkpoint to go on from; empty = start anew.
  const std::filesystem::path& checkpoint() const { return checkpoint_; }
  /// The checkpoint is one of this folder.
  bool goes_on_here() const;
  /// The run goes on here, and its `final` is there and whole.
  bool has_result() const;
  /// The checkpoint turned out to be the end of a run with a result. Throws Error(kLocked) unless the run may be
  /// overwritten.
  void restart_finished();
  /// Makes the folder, without an earlier run that is overwritten.
  void open();

  const std::filesystem::path& path() const { return dir_; }
  std::filesystem::path checkpoint_path(int64_t step) const;
  /// Removes all but the newest `save.keep` checkpoints.
  void prune() const;

 private:
  struct Found {
    std::filesystem::path path;
    int64_t step;
  };
  std::vector<Found> checkpoints() const;  // newest first
  /// What is here and does not belong to the run that begins or goes on.
  std::vector<std::filesystem::path> in_the_way() const;
  std::filesystem::path newest_good() const;

  SaveOptions options_;
  std::filesystem::path dir_;
  detail::ParentFolders parents_;
  detail::FolderLock lock_;
  std::filesystem::path checkpoint_;
};

}  // namespace liger
