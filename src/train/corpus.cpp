#include "liger/error.h"
#include "liger/train/dataset.h"
#include "train/corpus_writer.h"

namespace liger {
namespace {

template <typename T>
std::span<const T> elements(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace

Corpus::Corpus(const std::filesystem::path& folder, std::filesystem::path file)
    : file_(std::move(file)),
      tokens_file_(folder / kTokensFile),
      rows_file_(folder / kRowsFile),
      tokens_(elements<uint32_t>(tokens_file_)),
      rows_(elements<CorpusRow>(rows_file_)) {
  LIGER_CHECK(!rows_.empty() && rows_.back().end == std::ssize(tokens_), folder.string(), ": ", kRowsFile, " and ",
              kTokensFile, " do not belong together");
}

int64_t Corpus::token(int64_t index) const { return tokens_[index] & ~kLearnedBit; }
bool Corpus::learned(int64_t index) const { return (tokens_[index] & kLearnedBit) != 0; }
std::string Corpus::where(int64_t row) const { return cat(file_.string(), ":", rows_[row].line); }

}  // namespace liger
