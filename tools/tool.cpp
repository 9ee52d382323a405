#include "tool.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <sched.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>

#include "liger/distributed/launch.h"
#include "liger/error.h"
#include "liger/io/interrupt.h"
#include "liger/io/log.h"

namespace liger::tool {
namespace {

// One line whatever a file name or a foreign message contains: newlines become spaces, other control characters
// (a terminal would obey them) their code.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '\n') {
      if (!line.empty() && line.back() != ' ') line += ' ';
    } else if (code < 0x20 || code == 0x7f) {
      char hex[5];
      std::snprintf(hex, sizeof hex, "\\x%02x", code);
      line += hex;
    } else {
      line += c;
    }
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

int report(const CommonOptions& options, ErrorCode code, std::string_view text) {
  const std::string line = one_line(text);
  if (options.log_format == "json") {
    configure_log(LogLevel::kError, LogFormat::kJson);  // the command line may have been at fault
    log(LogLevel::kError, line);
  } else {
    std::fprintf(stderr, "error: %s\n", line.c_str());
  }
  return static_cast<int>(code);
}

// Results that could not be delivered. The reader having gone away is its own business and needs no message.
int report_stdout_failure(const CommonOptions& options, int error) {
  if (error == EPIPE) return static_cast<int>(ErrorCode::kIo);
  return report(options, ErrorCode::kIo, cat("cannot write to standard output: ", std::strerror(error)));
}

// False if the launcher has bound this process to some of the machine's cores.
bool may_run_anywhere() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) == sysconf(_SC_NPROCESSORS_ONLN);
}

void configure(const CommonOptions& options) {
  const Launch launch = read_launch();
  const bool quiet = options.quiet || launch.rank > 0;  // what all ranks would say, rank 0 does
  const LogLevel level = quiet ? LogLevel::kWarning : options.verbose > 0 ? LogLevel::kDebug : LogLevel::kInfo;
  configure_log(level, options.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  if (options.threads > 0) {
    at::set_num_threads(options.threads);
  } else if (launch.local_size > 1 && std::getenv("OMP_NUM_THREADS") == nullptr && may_run_anywhere()) {
    at::set_num_threads(std::max(1, at::get_num_threads() / launch.local_size));
  }
  watch_for_interrupts();
}

// False if --help or --version was all there was to do.
bool parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return true;
  } catch (const CLI::Success& e) {
    app.exit(e);
    return false;
  } catch (const CLI::ParseError& e) {
    fail(ErrorCode::kUsage, e.what(), "; see '", app.get_name(), " --help'");
  }
}

}  // namespace

void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_flag("--json", options.json, "One JSON document on stdout instead of text");
  app.add_flag("-q,--quiet", options.quiet, "Warnings and errors only, no progress");
  app.add_flag("-v,--verbose", options.verbose, "Also what is of interest when something is wrong");
  app.add_option("--log-format", options.log_format, "How log lines look on stderr: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->option_text("FORMAT");
  app.add_option("--threads", options.threads,
                 "Computing threads; 0 = one per core, shared with the other ranks on this machine")
      ->check(CLI::Range(0, 4096))
      ->option_text("N");
  app.set_version_flag("--version", "liger " LIGER_VERSION " (LibTorch " TORCH_VERSION ")",
                       "Print the versions of liger and LibTorch");
}

// LibTorch's CPU allocator fails with a plain c10::Error.
const std::string kOutOfMemory = "out of memory; try a smaller batch, a shorter length or a smaller dtype";

int run(CLI::App& app, CommonOptions& options, int argc, char** argv, const std::function<void()>& body) {
  // These become errors of the write that caused them, so that destructors remove what is half written.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::cout.exceptions(std::ios::badbit);
  try {
    if (parse(app, argc, argv)) {
      configure(options);
      body();
    }
    std::cout.flush();
    return 0;
  } catch (const Error& e) {
    return report(options, e.code(), e.what());
  } catch (const c10::OutOfMemoryError& e) {
    return report(options, ErrorCode::kOutOfMemory, e.what_without_backtrace());
  } catch (const c10::Error& e) {
    const std::string what = e.what_without_backtrace();
    if (what.find("DefaultCPUAllocator") == std::string::npos) return report(options, ErrorCode::kInternal, what);
    return report(options, ErrorCode::kOutOfMemory, kOutOfMemory + (" (" + what + ")"));
  } catch (const std::bad_alloc&) {
    return report(options, ErrorCode::kOutOfMemory, kOutOfMemory);
  } catch (const std::filesystem::filesystem_error& e) {
    return report(options, ErrorCode::kIo, e.what());
  } catch (const std::ios_base::failure& e) {
    const int error = errno;
    if (std::cout.bad()) return report_stdout_failure(options, error);
    return report(options, ErrorCode::kInternal, e.what());
  } catch (const std::exception& e) {
    return report(options, ErrorCode::kInternal, e.what());
  }
}

void print_json(const OrderedJson& document) {
  // Whatever bytes a file name or a prompt holds, the document is valid UTF-8.
  std::cout << document.dump(2, ' ', false, OrderedJson::error_handler_t::replace) << std::endl;
}

}  // namespace liger::tool
