#include "train/token_cache.h"

#include <chrono>
#include <thread>

#include "io/atomic_directory.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"
#include "train/corpus_writer.h"

namespace liger {
namespace fs = std::filesystem;
namespace {

constexpr const char* kKeyFile = "cache.json";
// To be raised when the same row becomes other tokens, or the files other bytes.
constexpr int kVersion = 1;

std::string hash_of_tokenizer(const fs::path& folder) {
  std::string hashes;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"}) {
    if (fs::exists(folder / name)) hashes += cat(name, " ", sha256_file(folder / name), "\n");
  }
  return sha256_hex(hashes);
}

/// Null if the folder is not there or not what it should be, with what is wrong in `why`.
std::shared_ptr<const Corpus> open_cached(const fs::path& folder, const OrderedJson& key, const fs::path& file,
                                          std::string& why) {
  if (!fs::exists(folder)) return nullptr;
  try {
    verify_manifest(folder);
    const fs::path key_file = folder / kKeyFile;
    LIGER_CHECK(read_ordered_json(key_file) == key, key_file.string(), ": the tokens of other data");
    return std::make_shared<const Corpus>(folder, file);
  } catch (const Error& e) {
    why = e.what();
    return nullptr;
  }
}

/// Not AtomicDirectory's own lock: it is taken before one knows whether there is something to make, and waited for.
std::unique_ptr<detail::FolderLock> lock_making_of(const fs::path& folder) {
  for (bool told = false;; told = true) {
    try {
      return std::make_unique<detail::FolderLock>(folder.string() + ".making");
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kLocked) throw;
      if (!told) log_info(cat(folder.string(), ": waiting for the process that makes these tokens"));
    }
    throw_if_interrupted();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

}  // namespace

TokenCache::TokenCache(const FinetuneOptions& options, const fs::path& tokenizer_folder,
                       std::shared_ptr<const Tokenizer> tokenizer, int64_t vocab_size)
    : dir_(fs::absolute(options.data.cache ? fs::path(*options.data.cache) : fs::path(options.save.dir) / "tokens")),
      shared_(options.data.cache.has_value()),
      tokenizer_(std::move(tokenizer)),
      format_(options.data, *tokenizer_),
      vocab_size_(vocab_size),
      tokenizer_sha256_(hash_of_tokenizer(tokenizer_folder)) {}

OrderedJson TokenCache::key(const std::string& file_sha256) const {
  const auto id = [](const std::optional<int64_t>& token) { return token ? OrderedJson(*token) : OrderedJson(); };
  return {{"version", kVersion},          {"data_sha256", file_sha256},
          {"format", format_.name()},     {"tokenizer_sha256", tokenizer_sha256_},
          {"bos", id(tokenizer_->bos())}, {"eos", id(tokenizer_->eos())},
          {"vocab_size", vocab_size_}};
}

TokenCache::Entry TokenCache::open(const fs::path& file) {
  LIGER_CHECK(fs::exists(file), file.string(), ": no such file");
  check_first_rows(file, format_);
  const std::string file_sha256 = sha256_file(file);
  const OrderedJson key = this->key(file_sha256);
  const fs::path folder = dir_ / sha256_hex(key.dump()).substr(0, 16);
  const auto ours = used_.find(folder);
  if (ours != used_.end()) return {std::make_shared<const Corpus>(ours->second.path, file), file_sha256};
  return detail::with_file_errors([&]() -> Entry {
    std::string why;
    std::shared_ptr<const Corpus> corpus = open_cached(folder, key, file, why);
    Used used{nullptr, nullptr, folder};
    if (!corpus) {
      if (!parents_) parents_.emplace(folder);
      used.lock = lock_making_of(folder);
      corpus = open_cached(folder, key, file, why);  // another process may have made it meanwhile
    }
    if (corpus) {
      log_info(cat("tokens of ", file.string(), ": ", folder.string()));
      used.lock.reset();
    } else {
      if (fs::exists(folder)) log_warning(cat(why, "; the tokens are made again"));
      corpus = make(used, key, file);
    }
    used_[folder] = std::move(used);
    return {corpus, file_sha256};
  });
}

std::shared_ptr<const Corpus> TokenCache::make(Used& used, const OrderedJson& key, const fs::path& file) {
  log_info(cat("tokenising ", file.string()));
  fs::remove_all(used.path);
  used.made = std::make_unique<AtomicDirectory>(used.path);
  const fs::path folder = used.made->path();
  write_corpus(folder, file, format_, *tokenizer_, vocab_size_);
  write_text_atomic(folder / kKeyFile, key.dump(2) + "\n");
  auto corpus = std::make_shared<const Corpus>(folder, file);
  if (shared_) commit(used);
  if (used.made) used.path = folder;
  return corpus;
}

void TokenCache::commit(Used& used) {
  if (!used.made) return;
  used.made->commit();
  used.path = used.made->path();
  used.made.reset();
  used.lock.reset();
  parents_->keep();
}

void TokenCache::keep() {
  if (shared_) return;
  for (auto& [folder, used] : used_) commit(used);
  detail::with_file_errors([&] {
    detail::recover_all(dir_);
    for (const auto& entry : fs::directory_iterator(dir_)) {
      const bool hidden = entry.path().filename().string().starts_with(".");  // somebody's dry run is making it
      if (entry.is_directory() && !hidden && !used_.contains(entry.path())) fs::remove_all(entry.path());
    }
  });
}

}  // namespace liger
