#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace liger::test {

struct CommandOptions {
  std::map<std::string, std::string> environment = {};  ///< set on top of ours
  std::filesystem::path directory = {};                 ///< to run in; empty = ours
  std::optional<uint64_t> file_size_limit = {};         ///< writes beyond it fail, as on a full disk
  bool close_stdout = false;                            ///< nobody reads the results: a broken pipe
  std::function<void(pid_t)> on_start = {};
  /// Called with all of stderr so far whenever some arrives; the process id is for kill().
  std::function<void(pid_t, const std::string&)> on_stderr = {};
  /// Called about every millisecond while it runs.
  std::function<void(pid_t)> on_tick = {};
};

struct CommandResult {
  int exit_code = -1;  ///< 128 + signal if one ended it
  std::string out, err;
  int64_t peak_memory = 0;  ///< bytes resident, at least those of the process that started it
  double cpu_seconds = 0;
};

namespace detail {

struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe2 failed");
    read = ends[0], write = ends[1];
  }
  ~Pipe() { close_read(), close_write(); }
  void close_read() { read = read < 0 ? -1 : (close(read), -1); }
  void close_write() { write = write < 0 ? -1 : (close(write), -1); }
};

[[noreturn]] inline void start(const std::vector<std::string>& command, const CommandOptions& options, int out,
                               int err) {
  dup2(open("/dev/null", O_RDONLY), 0);
  dup2(out, 1);
  dup2(err, 2);
  if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) _exit(126);
  for (const auto& [key, value] : options.environment) setenv(key.c_str(), value.c_str(), 1);
  if (options.file_size_limit) {
    const rlimit limit{*options.file_size_limit, *options.file_size_limit};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

// Appends what can be read to `text`; false (and the descriptor is out of the poll) at the end.
inline bool drain(pollfd& from, std::string& text) {
  char buffer[1 << 14];
  const ssize_t n = read(from.fd, buffer, sizeof buffer);
  if (n > 0) text.append(buffer, static_cast<size_t>(n));
  if (n == 0) from.fd = -1;
  return n > 0;
}

}  // namespace detail

/// Runs a program by its path and waits for it, its stdin empty.
inline CommandResult run_command(const std::vector<std::string>& command, const CommandOptions& options = {}) {
  detail::Pipe out, err;
  if (options.close_stdout) out.close_read();
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) detail::start(command, options, out.write, err.write);
  out.close_write();
  err.close_write();
  if (options.on_start) options.on_start(child);
  CommandResult result;
  pollfd from[2] = {{out.read, POLLIN, 0}, {err.read, POLLIN, 0}};
  while (from[0].fd >= 0 || from[1].fd >= 0) {
    poll(from, 2, options.on_tick ? 1 : -1);
    if (options.on_tick) options.on_tick(child);
    if (from[0].revents != 0) detail::drain(from[0], result.out);
    if (from[1].revents != 0 && detail::drain(from[1], result.err) && options.on_stderr) {
      options.on_stderr(child, result.err);
    }
  }
  int status = 0;
  rusage usage{};
  while (wait4(child, &status, 0, &usage) < 0) {
  }
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  result.peak_memory = usage.ru_maxrss * 1024;
  result.cpu_seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

/// Runs one of our tools, e.g. run_tool("liger-convert", {"--help"}).
inline CommandResult run_tool(const std::string& tool, const std::vector<std::string>& arguments,
                              const CommandOptions& options = {}) {
  std::vector<std::string> command = {std::string(LIGER_BIN) + "/" + tool};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_command(command, options);
}

/// A new folder under the system's temporary one, removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "liger-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed: " + name);
    path_ = std::filesystem::canonical(name);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::filesystem::path& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace liger::test
