#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// Requests to web servers: the only code that can open a socket, and the only one that knows libcurl. Not a part of
// liger_io, so that what parses files links no network.

namespace liger::detail {

/// The head of an answer.
struct HttpHead {
  long status = 0;
  std::map<std::string, std::string, std::less<>> headers;  ///< names in lower case; of several the last
  std::string header(std::string_view name) const;          ///< "" if it is not there
};

/// Why no whole answer came.
enum class HttpFailure {
  kNone,
  kStopped,  ///< on_head or on_body said so
  kName,     ///< the server's name is not known
  kConnect,
  kTls,      ///< no secure connection: a certificate that cannot be trusted, or a server that speaks something else
  kStalled,  ///< nothing came for too long
  kCut       ///< the connection ended in the middle
};

struct HttpResult {
  HttpFailure failure = HttpFailure::kNone;
  std::string why;  ///< for people, if it failed
  HttpHead head;
  double retry_after = 0;  ///< seconds that the server asks to wait
};

/// One GET. Redirects are not followed: who asks decides what the next server may be told.
struct HttpRequest {
  std::string url;
  std::vector<std::string> headers;               ///< "Name: value"
  std::function<bool(const HttpHead&)> on_head;   ///< before the body; false = enough
  std::function<bool(std::string_view)> on_body;  ///< in pieces; false = enough
  std::function<void(const HttpResult&)> on_end;  ///< once, from run()
};

struct HttpLimits {
  double connect_seconds = 20;
  double stall_seconds = 30;  ///< without a byte; whole seconds count
};

/// Runs requests side by side on the thread that calls run(). What a callback throws leaves run().
class HttpClient {
 public:
  explicit HttpClient(const HttpLimits& limits);
  ~HttpClient();  ///< what still runs ends without on_end
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  void start(HttpRequest request);
  /// Moves what there is to move, or waits for it, but no longer than `seconds`.
  void run(double seconds);
  size_t active() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "https://host:port" of an address: who is asked. Throws Error(kBadInput) unless it is http or https.
std::string origin_of(const std::string& url);
/// The address that `reference`, as of a Location header, means on the page `base`. Throws like origin_of().
std::string resolve_url(const std::string& base, const std::string& reference);
/// Percent-encodes what cannot stand in a path; '/' as well unless `keep_slashes`.
std::string escape_url(std::string_view text, bool keep_slashes);

}  // namespace liger::detail
