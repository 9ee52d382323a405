#include "io/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <list>

#include "io/text.h"
#include "liger/error.h"

namespace liger::detail {
namespace {

constexpr size_t kMaxHeaders = 200;

void check(bool ok, const char* what) {
  if (!ok) fail(ErrorCode::kInternal, "libcurl: cannot ", what);
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trim(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

HttpFailure failure_of(CURLcode code) {
  switch (code) {
    case CURLE_OK: return HttpFailure::kNone;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY: return HttpFailure::kName;
    case CURLE_COULDNT_CONNECT: return HttpFailure::kConnect;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: return HttpFailure::kTls;
    case CURLE_OPERATION_TIMEDOUT: return HttpFailure::kStalled;
    default: return HttpFailure::kCut;
  }
}

// What other tools take their certificates from where a proxy signs with its own.
const char* certificates() {
  for (const char* name : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    const char* const file = std::getenv(name);
    if (file != nullptr && *file != '\0') return file;
  }
  return nullptr;
}

struct Exchange {
  HttpRequest request;
  HttpHead head;
  CURL* handle = nullptr;
  curl_slist* headers = nullptr;
  bool head_done = false, stopped = false;
  std::exception_ptr thrown;
  char why[CURL_ERROR_SIZE] = "";

  ~Exchange() {
    curl_easy_cleanup(handle);
    curl_slist_free_all(headers);
  }

  // An exception may not cross libcurl: it is kept, and thrown again by run().
  template <typename Body>
  bool keeps_going(const Body& body) noexcept {
    try {
      stopped = stopped || !body();
    } catch (...) {
      thrown = std::current_exception();
      stopped = true;
    }
    return !stopped;
  }

  bool take_header(std::string_view line) {
    if (head_done) return true;  // a trailer
    if (line.starts_with("HTTP/")) {
      head = {};
      curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &head.status);
      return true;
    }
    if (trim(line).empty()) {
      curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &head.status);
      if (head.status < 200) return true;  // 100 Continue: the answer is still to come
      head_done = true;
      return !request.on_head || request.on_head(head);
    }
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && head.headers.size() < kMaxHeaders)
      head.headers[lower(line.substr(0, colon))] = trim(line.substr(colon + 1));
    return true;
  }
};

size_t on_header(char* data, size_t, size_t size, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  return exchange.keeps_going([&] { return exchange.take_header({data, size}); }) ? size : 0;
}

size_t on_body(char* data, size_t, size_t size, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  const auto take = [&] { return !exchange.request.on_body || exchange.request.on_body({data, size}); };
  return exchange.keeps_going(take) ? size : 0;
}

}  // namespace

std::string HttpHead::header(std::string_view name) const {
  const auto at = headers.find(name);
  return at == headers.end() ? "" : at->second;
}

struct HttpClient::Impl {
  HttpLimits limits;
  CURLM* multi = nullptr;
  std::list<std::unique_ptr<Exchange>> running;

  void configure(Exchange& exchange) const;
  void end(CURL* handle, CURLcode code);
};

HttpClient::HttpClient(const HttpLimits& limits) : impl_(std::make_unique<Impl>()) {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_DEFAULT);
  check(once == CURLE_OK, "start");
  impl_->limits = limits;
  impl_->multi = curl_multi_init();
  check(impl_->multi != nullptr, "start");
}

HttpClient::~HttpClient() {
  for (const auto& exchange : impl_->running) curl_multi_remove_handle(impl_->multi, exchange->handle);
  impl_->running.clear();
  curl_multi_cleanup(impl_->multi);
}

size_t HttpClient::active() const { return impl_->running.size(); }

void HttpClient::Impl::configure(Exchange& exchange) const {
  const auto set = [&](CURLoption option, auto value) {
    check(curl_easy_setopt(exchange.handle, option, value) == CURLE_OK, "set an option");
  };
  set(CURLOPT_URL, exchange.request.url.c_str());
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_HTTPHEADER, exchange.headers);
  set(CURLOPT_USERAGENT, "liger");
  // A connection for each request: several files share no window, and one that stalls holds up no other.
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits.connect_seconds * 1000));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, std::max(1L, std::lround(limits.stall_seconds)));
  set(CURLOPT_BUFFERSIZE, 1L << 18);
  if (const char* const file = certificates()) set(CURLOPT_CAINFO, file);
  set(CURLOPT_ERRORBUFFER, exchange.why);
  set(CURLOPT_HEADERFUNCTION, &on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&exchange));
  set(CURLOPT_WRITEFUNCTION, &on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&exchange));
}

void HttpClient::start(HttpRequest request) {
  origin_of(request.url);  // refuses other kinds of addresses
  auto exchange = std::make_unique<Exchange>();
  exchange->request = std::move(request);
  exchange->handle = curl_easy_init();
  check(exchange->handle != nullptr, "make a request");
  for (const std::string& header : exchange->request.headers) {
    curl_slist* const longer = curl_slist_append(exchange->headers, header.c_str());
    check(longer != nullptr, "make a request");
    exchange->headers = longer;
  }
  impl_->configure(*exchange);
  check(curl_multi_add_handle(impl_->multi, exchange->handle) == CURLM_OK, "make a request");
  impl_->running.push_back(std::move(exchange));
}

void HttpClient::Impl::end(CURL* handle, CURLcode code) {
  const auto at =
      std::find_if(running.begin(), running.end(), [&](const auto& exchange) { return exchange->handle == handle; });
  HttpResult result;
  curl_off_t retry_after = 0;
  curl_easy_getinfo(handle, CURLINFO_RETRY_AFTER, &retry_after);
  result.retry_after = static_cast<double>(retry_after);
  curl_multi_remove_handle(multi, handle);
  const std::unique_ptr<Exchange> exchange = std::move(*at);
  running.erase(at);
  if (exchange->thrown) std::rethrow_exception(exchange->thrown);
  result.failure = exchange->stopped ? HttpFailure::kStopped : failure_of(code);
  if (result.failure != HttpFailure::kNone)
    result.why = printable(exchange->why[0] != '\0' ? exchange->why : curl_easy_strerror(code), 300);
  result.head = std::move(exchange->head);
  if (exchange->request.on_end) exchange->request.on_end(result);
}

void HttpClient::run(double seconds) {
  int left = 0, numbers = 0;
  check(curl_multi_perform(impl_->multi, &left) == CURLM_OK, "go on");
  bool ended = false;
  while (const CURLMsg* const message = curl_multi_info_read(impl_->multi, &numbers)) {
    if (message->msg != CURLMSG_DONE) continue;
    ended = true;
    impl_->end(message->easy_handle, message->data.result);
  }
  if (ended) return;
  // A signal ends the wait early.
  check(curl_multi_poll(impl_->multi, nullptr, 0, static_cast<int>(seconds * 1000), nullptr) == CURLM_OK, "wait");
}

namespace {

struct UrlPart {
  char* text = nullptr;
  ~UrlPart() { curl_free(text); }
};

using Url = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

Url parse_url(const std::string& base, const std::string& reference = "") {
  Url url(curl_url(), &curl_url_cleanup);
  check(url != nullptr, "read an address");
  LIGER_CHECK(curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) == CURLUE_OK &&
                  (reference.empty() || curl_url_set(url.get(), CURLUPART_URL, reference.c_str(), 0) == CURLUE_OK),
              "expected a web address, got '", printable(reference.empty() ? base : reference, 200), "'");
  UrlPart scheme;
  curl_url_get(url.get(), CURLUPART_SCHEME, &scheme.text, 0);
  const std::string name = lower(scheme.text == nullptr ? "" : scheme.text);
  LIGER_CHECK(name == "http" || name == "https", "expected an http or https address, got '",
              printable(reference.empty() ? base : reference, 200), "'");
  return url;
}

}  // namespace

std::string origin_of(const std::string& address) {
  const Url url = parse_url(address);
  UrlPart scheme, host, port;
  curl_url_get(url.get(), CURLUPART_SCHEME, &scheme.text, 0);
  curl_url_get(url.get(), CURLUPART_HOST, &host.text, 0);
  curl_url_get(url.get(), CURLUPART_PORT, &port.text, CURLU_DEFAULT_PORT);
  LIGER_CHECK(scheme.text != nullptr && host.text != nullptr && port.text != nullptr, "expected a web address, got '",
              printable(address, 200), "'");
  return cat(lower(scheme.text), "://", lower(host.text), ":", port.text);
}

std::string resolve_url(const std::string& base, const std::string& reference) {
  const Url url = parse_url(base, reference);
  UrlPart whole;
  LIGER_CHECK(curl_url_get(url.get(), CURLUPART_URL, &whole.text, 0) == CURLUE_OK, "expected a web address, got '",
              printable(reference, 200), "'");
  return whole.text;
}

std::string escape_url(std::string_view text, bool keep_slashes) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    const bool plain = code < 0x80 && (std::isalnum(code) != 0 || c == '-' || c == '_' || c == '.' || c == '~');
    if (plain || (c == '/' && keep_slashes)) {
      out += c;
    } else {
      out += {'%', kHex[code >> 4], kHex[code & 15]};
    }
  }
  return out;
}

}  // namespace liger::detail
