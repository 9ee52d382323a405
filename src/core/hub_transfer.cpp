#include "core/hub_transfer.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <optional>

#include "io/text.h"
#include "liger/error.h"
#include "liger/io/log.h"

namespace liger::detail {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kMaxRedirects = 10;

// "bytes FIRST-LAST/SIZE", as far as it matters here.
struct Range {
  uint64_t first = 0, size = 0;  // 0 = not said
};

std::optional<Range> parse_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!text.starts_with(kUnit)) return std::nullopt;
  const char* const end = text.data() + text.size();
  Range range;
  uint64_t last = 0;
  auto at = std::from_chars(text.data() + kUnit.size(), end, range.first);
  if (at.ec != std::errc() || at.ptr == end || *at.ptr != '-') return std::nullopt;
  at = std::from_chars(at.ptr + 1, end, last);
  if (at.ec != std::errc() || at.ptr == end || *at.ptr != '/' || last < range.first) return std::nullopt;
  if (std::string_view(at.ptr + 1, static_cast<size_t>(end - at.ptr - 1)) == "*") return range;
  at = std::from_chars(at.ptr + 1, end, range.size);
  return at.ec == std::errc() && at.ptr == end ? std::optional(range) : std::nullopt;
}

std::string plain_etag(std::string tag) {
  if (tag.starts_with("W/")) tag.erase(0, 2);
  std::erase(tag, '"');
  return tag;
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool is_passing(long status) { return status == 408 || status == 429 || (status >= 500 && status != 501); }

std::string seconds_text(double seconds) { return cat(std::lround(std::ceil(seconds)), " s"); }

/// A transfer under way.
class Active {
 public:
  Active(const Hub& hub, HttpClient& http, Transfer transfer)
      : hub_(hub), http_(http), t_(std::move(transfer)), at_(t_.url) {}
  bool finished() const { return finished_; }
  void start_if_due() {
    if (!running_ && !finished_ && Clock::now() >= due_) start();
  }

 private:
  const Hub& hub_;
  HttpClient& http_;
  Transfer t_;
  std::string at_, seen_etag_;
  HttpHead hub_head_;  // of the hub's own answer, which a redirect hides
  uint64_t held_ = 0, most_held_ = 0;
  int redirects_ = 0, failures_ = 0, mismatches_ = 0;
  bool opened_ = false, running_ = false, finished_ = false, whole_ = false;
  bool accepted_ = false, redirected_ = false, refused_range_ = false;
  Clock::time_point due_ = {};

  void start();
  void finish(const HttpHead& head);
  bool take_head(const HttpHead& head);
  bool take_whole(const HttpHead& head);
  bool take_part(const HttpHead& head);
  bool take_body(std::string_view bytes);
  void end(const HttpResult& result);
  void redirect(const HttpHead& head);
  void again(const std::string& why, double wait, bool hopeless = false);
  void start_over() {
    t_.restart();
    held_ = 0;
  }
};

void Active::start() {
  if (!opened_) held_ = t_.open ? t_.open() : 0;
  most_held_ = std::max(most_held_, held_);
  opened_ = true;
  if (t_.size == 0 && held_ > 0) start_over();  // nothing tells whether a part of it goes on
  if (t_.size > 0 && held_ == t_.size) return finish({});
  HttpRequest request;
  request.url = at_;
  request.headers = hub_.headers_for(at_);
  accepted_ = redirected_ = refused_range_ = false;
  if (held_ > 0 && !whole_) request.headers.push_back(cat("Range: bytes=", held_, "-"));
  request.on_head = [this](const HttpHead& head) { return take_head(head); };
  request.on_body = [this](std::string_view bytes) { return take_body(bytes); };
  request.on_end = [this](const HttpResult& result) { end(result); };
  running_ = true;
  http_.start(std::move(request));
}

void Active::finish(const HttpHead& head) {
  if (t_.done(head)) {
    finished_ = true;
    return;
  }
  // What was kept from an earlier run may have been wrong; what comes in one piece may not.
  LIGER_CHECK(++mismatches_ < 2, t_.what,
              ": what the server sends is not what the hub's listing says (expected the hash ", t_.etag,
              "); it was removed. Try again later, or another HF_ENDPOINT");
  log_warning(cat(t_.what, ": is not what the hub's listing says; it was removed, and is fetched once more"));
  held_ = 0;
  whole_ = true;
  at_ = t_.url;
  redirects_ = 0;
}

bool Active::take_head(const HttpHead& head) {
  if (hub_.is_hub(at_)) hub_head_ = head;
  if (is_redirect(head.status)) return redirected_ = true, false;
  if (head.status == 206 && held_ > 0 && !whole_) return take_part(head);
  if (head.status == 416 && held_ > 0) return refused_range_ = true, false;
  return head.status == 200 && take_whole(head);
}

bool Active::take_whole(const HttpHead& head) {
  const bool page = head.header("content-type").starts_with("text/html");
  LIGER_CHECK(!page, t_.what, ": expected a file from ", hub_.endpoint,
              ", got a web page; is HF_ENDPOINT right, or does the network ask to log in?");
  const std::string length = head.header("content-length");
  uint64_t size = 0;
  const bool told = std::from_chars(length.data(), length.data() + length.size(), size).ec == std::errc();
  LIGER_CHECK(t_.size == 0 || !told || size == t_.size, t_.what, ": the hub lists ", t_.size,
              " bytes, but the server has ", size);
  if (held_ > 0) start_over();
  whole_ = false;
  seen_etag_ = plain_etag(head.header("etag"));
  return accepted_ = true;
}

// Only what certainly goes on from what is there.
bool Active::take_part(const HttpHead& head) {
  const std::optional<Range> range = parse_range(head.header("content-range"));
  const std::string etag = plain_etag(head.header("etag"));
  std::string at_hub = plain_etag(hub_head_.header("x-linked-etag"));
  if (at_hub.empty()) at_hub = plain_etag(hub_head_.header("etag"));
  const bool fits = range && range->first == held_ && (range->size == 0 || t_.size == 0 || range->size == t_.size);
  const bool same =
      (seen_etag_.empty() || etag == seen_etag_) && (at_hub.empty() || t_.etag.empty() || at_hub == t_.etag);
  if (!fits || !same) return refused_range_ = true, false;
  seen_etag_ = etag;
  return accepted_ = true;
}

bool Active::take_body(std::string_view bytes) {
  if (!accepted_) return false;
  const uint64_t most = t_.size > 0 ? t_.size : t_.limit;
  LIGER_CHECK(bytes.size() <= most - held_, t_.what, ": the server sends more than the ", most, " bytes that ",
              t_.size > 0 ? "the hub lists" : "such an answer may have");
  t_.write(bytes);
  held_ += bytes.size();
  // Only what is new: a server that starts over each time and never comes to the end is given up.
  if (t_.size > 0 && held_ > most_held_) most_held_ = held_, failures_ = 0;
  return true;
}

void Active::redirect(const HttpHead& head) {
  const std::string location = head.header("location");
  LIGER_CHECK(!location.empty() && ++redirects_ <= kMaxRedirects, t_.what, ": ", hub_.endpoint,
              location.empty() ? " redirects to nowhere" : " redirects in circles");
  const std::string next = with_context(t_.what, [&] { return resolve_url(at_, location); });
  LIGER_CHECK(!at_.starts_with("https:") || next.starts_with("https:"), t_.what, ": ", origin_of(at_), " redirects to ",
              origin_of(next), ", which is not encrypted");
  at_ = next;
}

void Active::end(const HttpResult& result) {
  running_ = false;
  if (redirected_) return redirect(result.head);
  if (refused_range_) {  // the whole then
    start_over();
    whole_ = true;
    return again("does not go on from what is there", 0);
  }
  const long status = result.head.status;
  if (result.failure == HttpFailure::kNone || result.failure == HttpFailure::kStopped) {
    if (accepted_ && (t_.size == 0 || held_ == t_.size)) return finish(hub_head_);
    if (accepted_) return again(cat("ended after ", held_, " of ", t_.size, " bytes"), 0);
    // A signed address of another server may have gone stale meanwhile.
    const bool stale = !hub_.is_hub(at_) && (status == 401 || status == 403 || status == 404);
    if (stale) return again(cat("was refused by ", origin_of(at_), " (", status, ")"), result.retry_after);
    if (!is_passing(status)) fail_status(hub_, result.head, t_.what);
    double wait = result.retry_after;
    const std::string limit = result.head.header("ratelimit");  // "api";r=0;t=55
    const size_t seconds = limit.find(";t=");
    if (wait == 0 && status == 429 && seconds != std::string::npos) wait = std::atof(limit.c_str() + seconds + 3);
    return again(status == 429 ? "too many requests (429)" : cat("the server failed (", status, ")"), wait);
  }
  again(result.why, 0, result.failure == HttpFailure::kTls);
}

// The next try, unless there were enough that brought nothing.
void Active::again(const std::string& why, double wait, bool hopeless) {
  const std::string server = origin_of(at_);
  at_ = t_.url;
  redirects_ = 0;
  const char* const kept = "; what has come is kept, and the same command goes on from there";
  if (hopeless || failures_ >= hub_.options.retries)
    fail(ErrorCode::kIo, t_.what, ": ", server, ": ", why, hopeless ? "" : cat(", ", failures_ + 1, " times in a row"),
         held_ > 0 && t_.size > 0 ? kept : "");
  if (wait > hub_.options.longest_wait)
    fail(ErrorCode::kIo, t_.what, ": ", server, ": ", why, ", and asks to wait ", seconds_text(wait),
         "; try again then", held_ > 0 && t_.size > 0 ? kept : "");
  const double ours = hub_.options.retry_seconds * std::exp2(std::min(failures_++, 6));
  wait = std::max(wait, std::min(ours, hub_.options.longest_wait));
  log_info(cat(t_.what, ": ", why, "; again in ", seconds_text(wait)));
  due_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(wait));
}

}  // namespace

void run_transfers(const Hub& hub, std::vector<Transfer> transfers, size_t at_once, const std::function<void()>& tick) {
  HttpClient http({hub.options.connect_seconds, hub.options.stall_seconds});
  std::vector<std::unique_ptr<Active>> active;
  size_t next = 0;
  while (next < transfers.size() || !active.empty()) {
    while (active.size() < std::max<size_t>(at_once, 1) && next < transfers.size())
      active.push_back(std::make_unique<Active>(hub, http, std::move(transfers[next++])));
    for (const auto& transfer : active) transfer->start_if_due();
    http.run(0.05);
    tick();
    std::erase_if(active, [](const auto& transfer) { return transfer->finished(); });
  }
}

}  // namespace liger::detail
