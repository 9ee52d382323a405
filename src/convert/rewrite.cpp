#include "convert/rewrite.h"

#include <algorithm>
#include <array>
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

// Reads one tensor piece by piece. False if nobody takes the pieces any more.
bool read_tensor(const WeightFiles::Entry& from, const TensorInfo& to, std::vector<std::byte>& scratch, Ring& ring) {
  const uint64_t in_size = item_size(from.info->dtype), out_size = item_size(to.dtype);
  const uint64_t elements = from.info->bytes / in_size;
  for (uint64_t begin = 0; begin < elements; begin += kPieceElements) {
    const uint64_t count = std::min(kPieceElements, elements - begin);
    Ring::Slot* slot = ring.next_to_fill();
    if (slot == nullptr) return false;
    const std::span<std::byte> out = take(slot->buffer, count * out_size);
    const bool as_stored = from.info->dtype == to.dtype;
    const std::span<std::byte> in = as_stored ? out : take(scratch, count * in_size);
    from.file->mapping()->read_at(from.info->offset + begin * in_size, in);
    const int64_t lost =
        as_stored ? 0 : cast(from.info->dtype, in.data(), to.dtype, out.data(), static_cast<int64_t>(count));
    LIGER_CHECK(lost == 0, from.file->path().string(), ": tensor '", to.name, "': ", lost,
                " or more values are too large for ", to_string(to.dtype), "; choose another dtype");
    slot->used = out.size();
    ring.filled();
  }
  return true;
}

void read_all(const WeightFiles& weights, const std::vector<TensorInfo>& order, Ring& ring) {
  try {
    std::vector<std::byte> scratch;
    for (const TensorInfo& tensor : order) {
      if (!read_tensor(*weights.find(tensor.name), tensor, scratch, ring)) return;
    }
    ring.end();
  } catch (...) {
    ring.end(std::current_exception());
  }
}

}  // namespace

uint64_t rewrite_buffer_bytes() { return kPieceElements * (kSlots * kWidestOut + kWidestIn); }

void rewrite_file(const WeightFiles& weights, const std::filesystem::path& file, std::vector<TensorInfo> tensors,
                  const std::function<void(uint64_t)>& on_progress) {
  SafetensorsWriter writer(file, std::move(tensors));
  Ring ring;
  std::jthread reader([&] { read_all(weights, writer.order(), ring); });
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
