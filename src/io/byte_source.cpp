#include "io/byte_source.h"

#include "liger/error.h"

namespace liger::detail {
namespace fs = std::filesystem;
namespace {

constexpr size_t kPackedPiece = size_t{1} << 16;
// Text shrinks to a tenth, and rows that repeat each other to a hundredth. What grows a thousandfold is made to fill
// the reader's memory or time.
constexpr uint64_t kMaxGrowth = 1000, kAlwaysAllowed = uint64_t{16} << 20;

std::unique_ptr<Decoder> decoder_of(const fs::path& file) {
  if (file.extension() == ".gz") return make_gzip_decoder();
  if (file.extension() == ".zst") return make_zstd_decoder();
  return nullptr;
}

}  // namespace

fs::path without_compression(const fs::path& file) {
  const bool packed = file.extension() == ".gz" || file.extension() == ".zst";
  return packed ? fs::path(file).replace_extension() : file;
}

ByteSource::ByteSource(const fs::path& file) : file_(file), fd_(open_regular(file)), decoder_(decoder_of(file)) {
  if (decoder_) packed_.resize(kPackedPiece);
}

size_t ByteSource::read(char* to, size_t size, int64_t line) {
  if (decoder_) return unpack(to, size, line);
  const size_t got = read_at(fd_, to, size, offset_, file_);
  offset_ += got;
  return got;
}

void ByteSource::refill() {
  const size_t got = read_at(fd_, packed_.data(), packed_.size(), offset_, file_);
  unread_ = {packed_.data(), got};
  offset_ += got;
}

size_t ByteSource::unpack(char* to, size_t size, int64_t line) {
  const std::string where = cat(file_.string(), ":", line);
  size_t got = 0;
  while (got == 0) {
    if (unread_.empty()) refill();
    const bool end_of_file = unread_.empty();
    got = with_context(where, [&] { return decoder_->decode(unread_, {to, size}); });
    if (got == 0 && end_of_file) {
      LIGER_CHECK(decoder_->between_streams(), where, ": the compressed file ends in its middle (after ", offset_,
                  " bytes): it was cut short");
      return 0;
    }
  }
  unpacked_ += got;
  LIGER_CHECK(unpacked_ <= kAlwaysAllowed || unpacked_ / kMaxGrowth <= offset_ - unread_.size(), where, ": ",
              offset_ - unread_.size(), " compressed bytes became ", unpacked_,
              ", which no data does; if it is meant, unpack the file first");
  return got;
}

}  // namespace liger::detail
