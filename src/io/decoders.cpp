#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <limits>

#include "io/byte_source.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

constexpr int kLargestWindow = 15, kGzipHeader = 16;

class GzipDecoder : public Decoder {
 public:
  GzipDecoder() {
    const int status = inflateInit2(&stream_, kLargestWindow + kGzipHeader);
    if (status != Z_OK) fail(ErrorCode::kOutOfMemory, "gzip: out of memory");
  }
  ~GzipDecoder() override { inflateEnd(&stream_); }

  size_t decode(std::string_view& in, std::span<char> out) override {
    if (between_streams_) {
      if (in.empty()) return 0;
      inflateReset(&stream_);
      between_streams_ = false;
    }
    constexpr size_t kMost = std::numeric_limits<uInt>::max();
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream_.avail_in = static_cast<uInt>(std::min(in.size(), kMost));
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min(out.size(), kMost));
    const size_t taken = stream_.avail_in, room = stream_.avail_out;
    const int status = inflate(&stream_, Z_NO_FLUSH);
    if (status == Z_MEM_ERROR) fail(ErrorCode::kOutOfMemory, "gzip: out of memory");
    LIGER_CHECK(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR,
                "the gzip stream is damaged: ", stream_.msg != nullptr ? stream_.msg : "unknown reason");
    between_streams_ = status == Z_STREAM_END;
    in.remove_prefix(taken - stream_.avail_in);
    return room - stream_.avail_out;
  }
  bool between_streams() const override { return between_streams_; }

 private:
  z_stream stream_{};
  bool between_streams_ = false;
};

class ZstdDecoder : public Decoder {
 public:
  ZstdDecoder() : context_(ZSTD_createDCtx(), ZSTD_freeDCtx) {
    if (!context_) fail(ErrorCode::kOutOfMemory, "zstd: out of memory");
  }

  size_t decode(std::string_view& in, std::span<char> out) override {
    if (between_streams_ && in.empty()) return 0;
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    // A window of more than 128 MiB, which would be this process's memory, is refused by default.
    const size_t status = ZSTD_decompressStream(context_.get(), &to, &from);
    LIGER_CHECK(!ZSTD_isError(status), "the zstd stream is damaged: ", ZSTD_getErrorName(status));
    between_streams_ = status == 0;
    in.remove_prefix(from.pos);
    return to.pos;
  }
  bool between_streams() const override { return between_streams_; }

 private:
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context_;
  bool between_streams_ = false;
};

}  // namespace

std::unique_ptr<Decoder> make_gzip_decoder() { return std::make_unique<GzipDecoder>(); }
std::unique_ptr<Decoder> make_zstd_decoder() { return std::make_unique<ZstdDecoder>(); }

}  // namespace liger::detail
