#pragma once

// What the tools share: options, exit codes, output.
//   exit 0 ok, 1 a bug of ours, 2 usage or config, 3 bad input, 4 I/O, 5 non-finite training, 6 out of memory,
//   7 output locked or not empty, 75 stopped by a signal after a good save, 130 stopped by a signal with nothing to
//   save, or by a second Ctrl-C.
//   stdout carries results only; everything else goes to stderr; errors are one line "error: ...".

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "liger/io/json.h"

namespace liger::tool {

struct CommonOptions {
  bool json = false;   ///< one JSON document on stdout instead of text
  bool quiet = false;  ///< warnings and errors only, no progress
  int verbose = 0;
  std::string log_format = "text";
  int threads = 0;  ///< 0 = one per core
};

/// Adds --json, --quiet, -v, --log-format, --threads and --version.
void add_common_options(CLI::App& app, CommonOptions& options);

/// Parses, configures logging, threads and signals, and runs `body` with liger::Error, c10::Error, bad_alloc and
/// CLI errors turned into one line on stderr and the exit code of the contract. A broken pipe on stdout ends quietly.
int run(CLI::App& app, CommonOptions& options, int argc, char** argv, const std::function<void()>& body);

/// Prints the document to stdout with a newline.
void print_json(const OrderedJson& document);

}  // namespace liger::tool
