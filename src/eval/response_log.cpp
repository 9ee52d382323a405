#include "liger/eval/response_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <unordered_map>
#include <vector>

#include "eval/python_text.h"
#include "io/posix.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/json.h"

namespace liger {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kKeyLength = 32;  // 128 bits in hexadecimal
constexpr size_t kMaxBytes = size_t{4} << 30;
constexpr std::chrono::seconds kSyncEvery{5};

detail::Fd open_locked(const fs::path& file) {
  detail::Fd fd(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND | O_NOFOLLOW, 0666));
  if (!fd) detail::fail_errno(file, "create");
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) detail::fail_errno(file, "lock");
    fail(ErrorCode::kLocked, file.string(), ": another process is writing it; wait for it to end, or choose another");
  }
  return fd;
}

}  // namespace

struct ResponseLog::Impl {
  fs::path file;
  std::string fingerprint;
  detail::Fd fd;
  std::unordered_map<std::string, Score> scores;
  int64_t found = 0;
  Clock::time_point synced = Clock::now();

  std::string key_of(const ScoreRequest& request) const {
    std::string text = cat(fingerprint, " ", request.context.size(), " ");
    for (const auto* ids : {&request.context, &request.continuation})
      text.append(reinterpret_cast<const char*>(ids->data()), ids->size() * sizeof(int64_t));
    return sha256_hex(text).substr(0, kKeyLength);
  }

  void read() {
    const std::string text = read_text(file, kMaxBytes);
    const size_t whole = text.rfind('\n') + 1;  // 0 without one
    if (whole != text.size() && ::ftruncate(fd.get(), static_cast<off_t>(whole)) != 0) detail::fail_errno(file, "cut");
    int64_t line = 0;
    for (size_t begin = 0; begin < whole;) {
      const size_t end = text.find('\n', begin);
      read_line(text.substr(begin, end - begin), cat(file.string(), ":", ++line));
      begin = end + 1;
    }
    found = static_cast<int64_t>(scores.size());
  }

  void read_line(const std::string& text, const std::string& where) {
    const Json entry = parse_json(text, where);
    const bool fits = entry.is_object() && entry.contains("request") && entry["request"].is_string() &&
                      entry["request"].get_ref<const std::string&>().size() == kKeyLength &&
                      entry.contains("log_likelihood") && entry["log_likelihood"].is_number() &&
                      entry.contains("greedy") && entry["greedy"].is_boolean();
    LIGER_CHECK(fits, where, R"(: expected {"request", "log_likelihood", "greedy"}; remove the file to begin anew)");
    scores[entry["request"].get<std::string>()] = {entry["log_likelihood"].get<double>(), entry["greedy"].get<bool>()};
  }
};

ResponseLog::ResponseLog(fs::path file, std::string fingerprint)
    : impl_(std::make_unique<Impl>(Impl{std::move(file), std::move(fingerprint), {}, {}})) {
  std::error_code error;
  const fs::path folder = detail::folder_of(impl_->file);
  fs::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "cannot create ", folder.string(), ": ", error.message());
  impl_->fd = open_locked(impl_->file);
  impl_->read();
}

ResponseLog::ResponseLog(ResponseLog&&) noexcept = default;
ResponseLog::~ResponseLog() = default;

std::optional<Score> ResponseLog::find(const ScoreRequest& request) const {
  const auto found = impl_->scores.find(impl_->key_of(request));
  return found == impl_->scores.end() ? std::nullopt : std::optional(found->second);
}

void ResponseLog::add(const ScoreRequest& request, const Score& score) {
  const std::string key = impl_->key_of(request);
  if (!impl_->scores.emplace(key, score).second) return;
  const OrderedJson entry = {{"request", key}, {"log_likelihood", score.log_likelihood}, {"greedy", score.greedy}};
  const std::string line = eval::python_json(entry, 0) + "\n";
  detail::write_all(impl_->fd, line.data(), line.size(), impl_->file);
  if (Clock::now() - impl_->synced < kSyncEvery) return;
  detail::sync_file(impl_->fd, impl_->file);
  impl_->synced = Clock::now();
}

int64_t ResponseLog::found() const { return impl_->found; }
int64_t ResponseLog::size() const { return static_cast<int64_t>(impl_->scores.size()); }
const fs::path& ResponseLog::file() const { return impl_->file; }

void ResponseLog::remove() {
  std::error_code error;
  fs::remove(impl_->file, error);
}

std::string model_fingerprint(const fs::path& dir, const std::string& more) {
  std::vector<std::string> parts;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file()) continue;
    if (name.ends_with("config.json")) parts.push_back(name + " " + sha256_file(entry.path()));
    if (!name.ends_with(".safetensors")) continue;
    parts.push_back(cat(name, " ", entry.file_size(), " ", entry.last_write_time().time_since_epoch().count()));
  }
  std::sort(parts.begin(), parts.end());
  std::string text = more;
  for (const std::string& part : parts) text += "\n" + part;
  return sha256_hex(text);
}

}  // namespace liger
