#pragma once

// A server on this machine that answers as the Hugging Face hub does, and as badly as a test asks for: small files
// itself, large ones by a redirect to a second port, its "CDN".

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "io/digest.h"
#include "liger/io/json.h"

namespace liger::test {

inline std::string hash_of(const std::string& content, bool large) {
  using liger::detail::Digest;
  Digest digest(large ? Digest::Kind::kSha256 : Digest::Kind::kSha1);
  const std::string head = "blob " + std::to_string(content.size());
  if (!large) digest.add(head.c_str(), head.size() + 1);
  digest.add(content.data(), content.size());
  return digest.hex();
}

/// What a client asked for.
struct Asked {
  std::string path;
  std::map<std::string, std::string> headers;  ///< names in lower case
  bool cdn = false;
  std::string header(const std::string& name) const { return headers.contains(name) ? headers.at(name) : ""; }
};

struct Answer {
  int status = 200;
  std::map<std::string, std::string> headers = {};
  std::string body = {};
  std::optional<size_t> cut = {};   ///< the connection ends after so many bytes of the body
  std::optional<size_t> hang = {};  ///< nothing more comes after so many
  double seconds = 0;               ///< to take for the body
};

class HubServer {
  mutable std::mutex mutex_;

 public:
  struct File {
    std::string content;
    bool large = false;
  };
  std::map<std::string, File> files;
  std::string repository = "org/model", commit = std::string(39, 'a') + "1";
  size_t page_size = 1000;
  /// Given the usual answer, says what goes out instead; may be set while it serves.
  struct Change {
    std::mutex& mutex;
    std::function<Answer(const Asked&, const Answer&)> function = nullptr;
    template <typename Function>
    void operator=(Function other) {
      const std::lock_guard guard(mutex);
      function = std::move(other);
    }
  } change{mutex_};

  HubServer() {
    for (const bool cdn : {false, true}) listen(cdn);
  }
  ~HubServer() {
    stopping_ = true;
    for (std::thread& thread : listeners_) thread.join();
    {
      const std::lock_guard guard(mutex_);
      for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
    }
    for (std::thread& thread : connections_) thread.join();
    for (const int fd : sockets_) ::close(fd);
  }
  HubServer(const HubServer&) = delete;
  HubServer& operator=(const HubServer&) = delete;

  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(ports_[0]); }
  std::string cdn() const { return "http://127.0.0.1:" + std::to_string(ports_[1]); }
  std::vector<Asked> asked() const {
    const std::lock_guard guard(mutex_);
    return asked_;
  }
  /// How often something whose path contains `part` was asked for.
  size_t count(const std::string& part) const {
    const auto all = asked();
    return static_cast<size_t>(
        std::count_if(all.begin(), all.end(), [&](const Asked& a) { return a.path.find(part) != std::string::npos; }));
  }
  /// Waits until all who asked have their answer: what `change` refers to may go then.
  void settle() const {
    for (int i = 0; i < 2000; ++i) {
      {
        const std::lock_guard guard(mutex_);
        if (open_.empty()) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  void forget() {
    const std::lock_guard guard(mutex_);
    asked_.clear();
  }

 private:
  std::vector<Asked> asked_;
  std::vector<int> sockets_, open_;
  std::vector<int> ports_;
  std::atomic<bool> stopping_ = false;
  std::vector<std::thread> listeners_;
  std::list<std::thread> connections_;

  void listen(bool cdn) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(fd, 64) != 0 ||
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
      throw std::runtime_error("cannot listen on 127.0.0.1");
    sockets_.push_back(fd);
    ports_.push_back(ntohs(address.sin_port));
    listeners_.emplace_back([this, fd, cdn] { accept(fd, cdn); });
  }

  void accept(int socket, bool cdn) {
    while (!stopping_) {
      pollfd waiting{socket, POLLIN, 0};
      if (::poll(&waiting, 1, 20) <= 0) continue;
      const int fd = ::accept4(socket, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      const std::lock_guard guard(mutex_);
      open_.push_back(fd);
      connections_.emplace_back([this, fd, cdn] {
        serve(fd, cdn);
        const std::lock_guard guard(mutex_);
        std::erase(open_, fd);
        ::shutdown(fd, SHUT_RDWR);  // a child process may have the descriptor as well
        ::close(fd);
      });
    }
  }

  void serve(int fd, bool cdn) {
    std::string text;
    for (char buffer[4096]; text.find("\r\n\r\n") == std::string::npos;) {
      const ssize_t got = ::recv(fd, buffer, sizeof buffer, 0);
      if (got <= 0) return;
      text.append(buffer, static_cast<size_t>(got));
      if (text[0] == 0x16) return send(fd, {.status = 400});  // the first byte of TLS, which is not spoken here
    }
    Asked asked;
    asked.cdn = cdn;
    asked.path = text.substr(4, text.find(' ', 4) - 4);  // GET /path HTTP/1.1
    for (size_t at = text.find("\r\n") + 2; at < text.size() && text[at] != '\r';) {
      const size_t end = text.find("\r\n", at), colon = text.find(": ", at);
      std::string name = text.substr(at, colon - at);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
      asked.headers[name] = text.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    Answer answer;
    {
      const std::lock_guard guard(mutex_);
      asked_.push_back(asked);
      answer = cdn ? cdn_answer(asked) : hub_answer(asked);
      if (change.function) answer = change.function(asked, answer);
    }
    send(fd, answer);
  }

  void send(int fd, const Answer& answer) {
    std::string head = "HTTP/1.1 " + std::to_string(answer.status) + " X\r\nConnection: close\r\n";
    auto headers = answer.headers;
    headers.try_emplace("Content-Length", std::to_string(answer.body.size()));
    for (const auto& [name, value] : headers)
      if (!value.empty()) head += name + ": " + value + "\r\n";
    if (!send_all(fd, head + "\r\n")) return;
    const size_t size = std::min({answer.body.size(), answer.cut.value_or(SIZE_MAX), answer.hang.value_or(SIZE_MAX)});
    const size_t piece = answer.seconds > 0 ? std::max<size_t>(answer.body.size() / 50, 1) : size;
    for (size_t at = 0; at < size; at += piece) {
      if (!send_all(fd, answer.body.substr(at, std::min(piece, size - at)))) return;
      if (answer.seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(answer.seconds / 50));
    }
    while (answer.hang && !stopping_) {  // until the client gives up
      pollfd waiting{fd, POLLIN, 0};
      char byte;
      if (::poll(&waiting, 1, 20) > 0 && ::recv(fd, &byte, 1, 0) <= 0) return;
    }
  }

  static bool send_all(int fd, const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t put = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (put <= 0) return false;
      at += static_cast<size_t>(put);
    }
    return true;
  }

  Answer hub_answer(const Asked& asked) const {
    const std::string api = "/api/models/" + repository, resolve = "/" + repository + "/resolve/" + commit + "/";
    if (asked.path == api + "/revision/main") return {.body = Json{{"id", repository}, {"sha", commit}}.dump()};
    if (asked.path.starts_with(api + "/tree/" + commit + "?recursive=true")) return tree(asked.path);
    if (asked.path.starts_with(resolve)) {
      const std::string name = asked.path.substr(resolve.size());
      if (files.contains(name)) return file(asked, files.at(name));
      return {.status = 404, .headers = {{"X-Error-Code", "EntryNotFound"}}};
    }
    return {.status = 401, .headers = {{"X-Error-Code", "RepoNotFound"}, {"X-Error-Message", "Repository not found"}}};
  }

  Answer tree(const std::string& path) const {
    const size_t cursor = path.find("&cursor=");
    size_t at = cursor == std::string::npos ? 0 : std::stoul(path.substr(cursor + 8)), index = 0;
    Answer answer;
    Json entries = Json::array();
    for (const auto& [name, file] : files) {
      if (index++ < at || entries.size() == page_size) continue;
      Json entry = {{"type", "file"}, {"path", name}, {"size", file.content.size()}};
      entry["oid"] = hash_of(file.large ? "pointer to " + name : file.content, false);
      if (file.large)
        entry["lfs"] = {{"oid", hash_of(file.content, true)}, {"size", file.content.size()}, {"pointerSize", 134}};
      entries.push_back(entry);
    }
    if (at + entries.size() < files.size()) {
      const std::string next = path.substr(0, cursor) + "&cursor=" + std::to_string(at + entries.size());
      answer.headers["Link"] = "<" + endpoint() + next + ">; rel=\"next\"";
    }
    answer.body = entries.dump();
    return answer;
  }

  Answer file(const Asked& asked, const File& file) const {
    const std::string hash = hash_of(file.content, file.large);
    if (!file.large) return ranged(asked, file.content, {{"ETag", '"' + hash + '"'}, {"X-Repo-Commit", commit}});
    return {.status = 302,
            .headers = {{"Location", cdn() + "/blobs/" + hash + "?Signature=x"},
                        {"X-Linked-ETag", '"' + hash + '"'},
                        {"X-Linked-Size", std::to_string(file.content.size())},
                        {"X-Repo-Commit", commit}},
            .body = "Found. Redirecting"};
  }

  Answer cdn_answer(const Asked& asked) const {
    for (const auto& [name, file] : files) {
      const std::string hash = hash_of(file.content, true);
      if (asked.path.starts_with("/blobs/" + hash))
        return ranged(asked, file.content, {{"ETag", "\"cdn-" + hash.substr(0, 8) + '"'}});
    }
    return {.status = 404};
  }

  static Answer ranged(const Asked& asked, const std::string& content, std::map<std::string, std::string> headers) {
    const std::string range = asked.header("range");
    if (range.empty()) return {.headers = std::move(headers), .body = content};
    const size_t first = std::stoul(range.substr(6));  // bytes=N-
    if (first >= content.size()) return {.status = 416};
    headers["Content-Range"] = "bytes " + std::to_string(first) + "-" + std::to_string(content.size() - 1) + "/" +
                               std::to_string(content.size());
    return {.status = 206, .headers = std::move(headers), .body = content.substr(first)};
  }
};

}  // namespace liger::test
