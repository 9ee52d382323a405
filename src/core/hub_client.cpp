#include "core/hub_client.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "core/hub_cache.h"
#include "core/hub_transfer.h"
#include "io/text.h"
#include "liger/error.h"
#include "liger/io/files.h"
#include "liger/io/interrupt.h"
#include "liger/io/json.h"

namespace liger::detail {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxPage = uint64_t{32} << 20;
constexpr size_t kMaxFiles = 100000;
constexpr int kMaxPages = 1000;

bool is_true(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

std::string trimmed(std::string text) {
  const auto space = [](unsigned char c) { return std::isspace(c) != 0; };
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), space));
  text.erase(std::find_if_not(text.rbegin(), text.rend(), space).base(), text.end());
  return text;
}

std::string token_of_environment() {
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    if (const std::string token = trimmed(environment(name)); !token.empty()) return token;
  }
  const std::string named = environment("HF_TOKEN_PATH");
  const fs::path file = named.empty() ? hugging_face_home() / "token" : fs::path(named);
  std::error_code error;
  return fs::is_regular_file(file, error) ? trimmed(read_text(file, 4096)) : "";
}

bool is_hex(std::string_view text, size_t size) {
  return text.size() == size &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// One answer as text, and its head.
std::pair<std::string, HttpHead> get(const Hub& hub, const std::string& url, const std::string& what) {
  std::pair<std::string, HttpHead> answer;
  Transfer transfer{.what = what, .url = url, .limit = kMaxPage};
  transfer.write = [&](std::string_view bytes) { answer.first += bytes; };
  transfer.restart = [&] { answer.first.clear(); };
  transfer.done = [&](const HttpHead& head) {
    answer.second = head;
    return true;
  };
  run_transfers(hub, {transfer}, 1, [] { throw_if_interrupted(); });
  return answer;
}

// <URL>; rel="next", <URL>; rel="..."
std::string next_page(const std::string& link) {
  for (size_t at = 0; (at = link.find('<', at)) != std::string::npos;) {
    const size_t end = link.find('>', at);
    if (end == std::string::npos) return "";
    const size_t next = std::min(link.find('<', end), link.size());
    if (link.substr(end, next - end).find("rel=\"next\"") != std::string::npos)
      return link.substr(at + 1, end - at - 1);
    at = end;
  }
  return "";
}

// A name from outside becomes a path here: it must stay in its folder.
void check_path(const std::string& path, const std::string& where) {
  bool plain = path.size() <= 1000 && find_invalid_utf8(path) == std::string::npos;
  for (size_t begin = 0, end = 0; plain && end != std::string::npos; begin = end + 1) {
    end = path.find('/', begin);
    const std::string part = path.substr(begin, end == std::string::npos ? end : end - begin);
    plain = !part.empty() && part != "." && part != ".." && part.size() <= 255 &&
            std::none_of(part.begin(), part.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; });
  }
  LIGER_CHECK(plain, where, ": lists a file '", printable(path),
              "', which is not the name of a file inside its folder; nothing was taken");
}

std::string text_of(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_string() ? at->get<std::string>() : "";
}

std::optional<uint64_t> size_in(const Json& object) {
  const auto at = object.find("size");
  if (at == object.end() || !at->is_number_integer() || at->get<int64_t>() < 0) return std::nullopt;
  if (at->get<uint64_t>() > uint64_t{1} << 50) return std::nullopt;  // so that sums of them are numbers as well
  return at->get<uint64_t>();
}

HubFile read_file(const Json& entry, const std::string& where) {
  HubFile file;
  file.path = text_of(entry, "path");
  check_path(file.path, where);
  const auto lfs = entry.find("lfs");
  const bool large = lfs != entry.end() && lfs->is_object();
  const std::optional<uint64_t> size = size_in(large ? *lfs : entry);
  file.hash = text_of(large ? *lfs : entry, "oid");
  if (constexpr std::string_view kPrefix = "sha256:"; file.hash.starts_with(kPrefix))
    file.hash.erase(0, kPrefix.size());
  LIGER_CHECK(size && is_hex(file.hash, large ? 64 : 40), where, ": '", printable(file.path),
              "': expected a size and a ", large ? "sha256" : "git hash",
              "; is HF_ENDPOINT the address of a Hugging Face hub?");
  file.size = *size;
  return file;
}

Json parse_answer(const std::string& text, const std::string& where) {
  try {
    return parse_json(text, where, LongIntegers::kAsFloat);
  } catch (const Error& e) {
    fail(ErrorCode::kBadInput, e.what(), "; is HF_ENDPOINT the address of a Hugging Face hub?");
  }
}

}  // namespace

Hub::Hub(std::string repository, const DownloadOptions& options)
    : repository(std::move(repository)), endpoint(options.endpoint), token(options.token), options(options) {
  for (const char* name : {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"})
    LIGER_CHECK_USAGE(!is_true(environment(name)), this->repository, ": cannot be fetched, as ", name, "=",
                      printable(environment(name)), " forbids it; unset that, or copy the model here");
  if (endpoint.empty()) endpoint = environment("HF_ENDPOINT");
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  while (endpoint.ends_with('/')) endpoint.pop_back();
  try {
    origin_of(endpoint);
  } catch (const Error& e) {
    fail(ErrorCode::kUsage, "HF_ENDPOINT: ", e.what());
  }
  if (token.empty()) token = token_of_environment();
  // It becomes a line of a request: a line break would be another one.
  LIGER_CHECK_USAGE(std::all_of(token.begin(), token.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; }),
                    "HF_TOKEN: expected a token such as hf_..., got characters that no token has");
}

std::string Hub::file_url(const std::string& commit, const std::string& path) const {
  return cat(endpoint, "/", repository, "/resolve/", commit, "/", escape_url(path, true));
}

bool Hub::is_hub(const std::string& url) const { return origin_of(url) == origin_of(endpoint); }

std::vector<std::string> Hub::headers_for(const std::string& url) const {
  // Compressed, a file would have another size, and no ranges.
  std::vector<std::string> headers = {"Accept-Encoding: identity"};
  if (!token.empty() && is_hub(url)) headers.push_back("Authorization: Bearer " + token);
  return headers;
}

std::string Hub::commit_of(const std::string& revision) const {
  if (is_hex(revision, 40)) return revision;
  const std::string url = cat(endpoint, "/api/models/", repository, "/revision/", escape_url(revision, false));
  const Json answer = parse_answer(get(*this, url, repository).first, url);
  const std::string commit = answer.is_object() ? text_of(answer, "sha") : "";
  LIGER_CHECK(is_hex(commit, 40), url,
              ": expected the commit as 'sha'; is HF_ENDPOINT the address of a Hugging Face hub?");
  return commit;
}

std::vector<HubFile> Hub::files(const std::string& commit) const {
  std::vector<HubFile> files;
  std::string url = cat(endpoint, "/api/models/", repository, "/tree/", commit, "?recursive=true");
  for (int page = 0; !url.empty(); ++page) {
    LIGER_CHECK(page < kMaxPages && files.size() <= kMaxFiles, repository, ": the hub's listing does not end");
    const auto [text, head] = get(*this, url, repository);
    const Json entries = parse_answer(text, url);
    LIGER_CHECK(entries.is_array(), url, ": expected a list of files");
    for (const Json& entry : entries) {
      LIGER_CHECK(entry.is_object(), url, ": expected a list of files");
      if (text_of(entry, "type") == "file") files.push_back(read_file(entry, url));
    }
    const std::string next = next_page(head.header("link"));
    url = next.empty() ? "" : resolve_url(url, next);
  }
  return files;
}

void fail_status(const Hub& hub, const HttpHead& head, const std::string& what) {
  const std::string code = head.header("x-error-code"), said = printable(head.header("x-error-message"), 300);
  const std::string place =
      cat(what, what == hub.repository ? "" : cat(" of ", hub.repository), ": ", hub.endpoint, ": ");
  const std::string page = cat(hub.endpoint, "/", hub.repository);
  const std::string quoted = said.empty() ? "" : cat(" (it says: ", said, ")");
  const char* const set_token = "set HF_TOKEN to a token of yours (Settings > Access Tokens there)";
  if (code == "GatedRepo") {
    fail(ErrorCode::kUsage, place, "this model asks for its licence to be accepted (", head.status, "): do so at ",
         page, hub.token.empty() ? cat(", then ", set_token) : " with the account that HF_TOKEN belongs to", quoted);
  }
  if (head.status == 401 && !hub.token.empty() && code != "RepoNotFound")
    fail(ErrorCode::kUsage, place, "refuses the token in HF_TOKEN (401); is it still valid? New ones are made at ",
         hub.endpoint, "/settings/tokens", quoted);
  if (head.status == 403)
    fail(ErrorCode::kUsage, place, "no access (403): the token in HF_TOKEN may not read this; see ", page, quoted);
  if (head.status == 404 && code == "RevisionNotFound")
    fail(ErrorCode::kUsage, place, "has no such branch, tag or commit (404)", quoted);
  if (head.status == 404 && code == "EntryNotFound") fail(ErrorCode::kBadInput, place, "lacks this file (404)", quoted);
  if (head.status == 401 || head.status == 404)
    fail(ErrorCode::kUsage, place, "no such repository, or a private one (", head.status, "): check the name at ", page,
         hub.token.empty() ? cat("; if it is private, or its licence asks for consent, ", set_token) : "", quoted);
  fail(ErrorCode::kIo, place, "expected a file, got status ", head.status, quoted);
}

}  // namespace liger::detail
