#include "convert/rewrite.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "convert/cast.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"

namespace liger {
namespace {

constexpr uint64_t kPieceElements = uint64_t{2} << 20;
constexpr uint64_t kWidestIn = 8, kWidestOut = 8;  // F64 and I64 may pass through unchanged
constexpr size_t kSlots = 4;

/// Pieces on their way from the thread that reads to the one that writes, in buffers used over and over.
class Ring {
 public:
  struct Slot {
    std::vector<std::byte> buffer;
    uint64_t used = 0;
  };

  /// The next buffer to fill; nullptr once the reader of the ring has stopped.
  Slot* next_to_fill() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || filled_ - emptied_ < kSlots; });
    return stopped_ ? nullptr : &slots_[filled_ % kSlots];
  }
  void filled() {
    const std::lock_guard lock(mutex_);
    ++filled_;
    changed_.notify_all();
  }
  /// No more will come, for the reason given if any.
  void end(std::exception_ptr failure = nullptr) {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    failure_ = std::move(failure);
    changed_.notify_all();
  }

  /// The next filled buffer; nullptr at the end. Throws what the other side failed with.
  const Slot* next_to_empty() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || filled_ > emptied_; });
    if (failure_) std::rethrow_exception(failure_);
    return filled_ > emptied_ ? &slots_[emptied_ % kSlots] : nullptr;
  }
  void emptied() {
    const std::lock_guard lock(mutex_);
    ++emptied_;
    changed_.notify_all();
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Slot, kSlots> slots_;
  uint64_t filled_ = 0, emptied_ = 0;
  bool ended_ = false, stopped_ = false;
  std::exception_ptr failure_;
};

std::span<std::byte> take(std::vector<std::byte>& buffer, uint64_t bytes) {
  if (buffer.size() < bytes) buffer.resize(bytes);
  return std::span(buffer).first(bytes);
}

/// Tensors on their way from a folder into the ring.
class Reader {
 public:
  Reader(const WeightFiles& weights, const ModelConfig& model, const std::map<std::string, RowEdit>& edits, Ring& ring)
      : weights_(weights), model_(model), edits_(edits), ring_(ring) {}

  void read(const std::vector<TensorInfo>& order) {
    try {
      for (const TensorInfo& tensor : order) {
        if (!read_tensor(*weights_.find(model_.stored_name(tensor.name)), tensor)) return;
      }
      ring_.end();
    } catch (...) {
      ring_.end(std::current_exception());
    }
  }

 private:
  // False if nobody takes the pieces any more.
  bool read_tensor(const WeightFiles::Entry& from, const TensorInfo& to) {
    const auto edit = edits_.find(to.name);
    const uint64_t row = edit == edits_.end() ? 1 : static_cast<uint64_t>(to.shape.back());
    const uint64_t in_size = item_size(from.info->dtype), elements = from.info->bytes / in_size;
    const uint64_t piece = std::max(row, kPieceElements / row * row);
    for (uint64_t begin = 0; begin < elements; begin += piece) {
      const uint64_t count = std::min(piece, elements - begin);
      Ring::Slot* slot = ring_.next_to_fill();
      if (slot == nullptr) return false;
      const std::span<std::byte> out = take(slot->buffer, count * item_size(to.dtype));
      const bool as_stored = edit == edits_.end() && from.info->dtype == to.dtype;
      const std::span<std::byte> in = as_stored ? out : take(scratch_, count * in_size);
      from.file->mapping()->read_at(from.info->offset + begin * in_size, in);
      if (edit != edits_.end()) {
        edited(from, to, in, edit->second, static_cast<int64_t>(begin / row), out);
      } else if (!as_stored) {
        convert(from, to, from.info->dtype, in, out);
      }
      slot->used = out.size();
      ring_.filled();
    }
    return true;
  }

  void edited(const WeightFiles::Entry& from, const TensorInfo& to, std::span<const std::byte> in, const RowEdit& edit,
              int64_t first_row, std::span<std::byte> out) {
    rows_.resize(in.size() / item_size(from.info->dtype));
    const std::span<std::byte> rows = std::as_writable_bytes(std::span(rows_));
    cast(from.info->dtype, in.data(), Dtype::kF32, rows.data(), std::ssize(rows_));
    edit(first_row, rows_);
    LIGER_CHECK(std::all_of(rows_.begin(), rows_.end(), [](float x) { return std::isfinite(x); }),
                from.file->path().string(), ": tensor '", to.name, "': merged, it holds values that are not finite; ",
                "the weights or the adapter are damaged");
    convert(from, to, Dtype::kF32, rows, out);
  }

  static void convert(const WeightFiles::Entry& from, const TensorInfo& to, Dtype in_type,
                      std::span<const std::byte> in, std::span<std::byte> out) {
    const auto count = static_cast<int64_t>(in.size() / item_size(in_type));
    const int64_t lost = cast(in_type, in.data(), to.dtype, out.data(), count);
    LIGER_CHECK(lost == 0, from.file->path().string(), ": tensor '", to.name, "': ", lost,
                " or more values are too large for ", to_string(to.dtype), "; choose another dtype");
  }

  const WeightFiles& weights_;
  const ModelConfig& model_;
  const std::map<std::string, RowEdit>& edits_;
  Ring& ring_;
  std::vector<std::byte> scratch_;
  std::vector<float> rows_;
};

}  // namespace

uint64_t rewrite_buffer_bytes(bool with_edits) {
  constexpr uint64_t kRowCopies = 4;  // the rows in float32, and what an edit makes of them
  return kPieceElements * (kSlots * kWidestOut + kWidestIn + (with_edits ? kRowCopies * sizeof(float) : 0));
}

void rewrite_file(const WeightFiles& weights, const ModelConfig& model, const std::filesystem::path& file,
                  std::vector<TensorInfo> tensors, const std::map<std::string, RowEdit>& edits,
                  const std::function<void(uint64_t)>& on_progress) {
  SafetensorsWriter writer(file, std::move(tensors));
  Ring ring;
  std::jthread reader([&] { Reader(weights, model, edits, ring).read(writer.order()); });
  try {
    while (const Ring::Slot* slot = ring.next_to_empty()) {
      throw_if_interrupted();
      writer.write(std::span(slot->buffer).first(slot->used));
      on_progress(slot->used);
      ring.emptied();
    }
  } catch (...) {
    ring.stop();  // the other thread may be waiting for room
    throw;
  }
  writer.finish();
}

}  // namespace liger
