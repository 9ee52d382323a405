#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "io/atomic_directory.h"
#include "liger/io/files.h"
#include "liger/io/json.h"
#include "liger/train/dataset.h"
#include "train/row_format.h"

namespace liger {

/// Tokens of data files on disk: they need not fit into memory, and what was tokenised once is there at once.
/// A folder for each file, named by the hash of all that decides its tokens (bytes of the file and of the tokenizer,
/// format, template), which cache.json in it spells out. One that is damaged is made again.
///   data.cache set    a folder that runs share; what is made stays there at once
///   data.cache null   save.dir/tokens, which appears with keep() and not before, so that a run that cannot begin
///                     leaves nothing; folders in it that this run does not use go then
class TokenCache {
 public:
  /// `tokenizer_folder`: where `tokenizer` came from.
  TokenCache(const FinetuneOptions& options, const std::filesystem::path& tokenizer_folder,
             std::shared_ptr<const Tokenizer> tokenizer, int64_t vocab_size);

  struct Entry {
    std::shared_ptr<const Corpus> corpus;
    std::string file_sha256;
  };
  /// Waits while another process tokenises the same file into the same folder. Throws what write_corpus() throws.
  Entry open(const std::filesystem::path& file);
  /// What was made stays, though this object goes.
  void keep();

 private:
  struct Used {
    std::unique_ptr<detail::FolderLock> lock;  // while it is being made; before `made`, so that it goes after it
    std::unique_ptr<AtomicDirectory> made;     // null = it is there
    std::filesystem::path path;                // where the files are now
  };
  OrderedJson key(const std::string& file_sha256) const;
  std::shared_ptr<const Corpus> make(Used& used, const OrderedJson& key, const std::filesystem::path& file);
  void commit(Used& used);

  std::filesystem::path dir_;
  bool shared_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  RowFormat format_;
  int64_t vocab_size_;
  std::string tokenizer_sha256_;
  std::optional<detail::ParentFolders> parents_;  // before used_, so that it goes after what lies in them
  std::map<std::filesystem::path, Used> used_;    // by the name they will have
};

}  // namespace liger
