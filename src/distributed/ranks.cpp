#include "distributed/ranks.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <sstream>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "distributed/process_group.h"

namespace liger {
namespace {

using std::chrono::seconds;

constexpr const char* kFailure = "failure";  // key: the code and the text of the first rank that stopped by itself
constexpr const char* kParted = "parted";    // key: how many ranks need the store no more

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

/// The address under which this machine is seen from `host`: that of the interface through which it is reached.
std::string own_address(const std::string& host, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_DGRAM;  // connecting it sends nothing
  const std::string service = std::to_string(port);
  const int error = getaddrinfo(host.c_str(), service.c_str(), &hints, &found);
  LIGER_CHECK_USAGE(error == 0, "MASTER_ADDR '", host, "': ", gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> guard(found, &freeaddrinfo);
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const int socket = ::socket(address->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) continue;
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    char text[NI_MAXHOST];
    const bool known =
        connect(socket, address->ai_addr, address->ai_addrlen) == 0 &&
        getsockname(socket, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0;
    close(socket);
    if (known) return text;
  }
  fail(ErrorCode::kIo, "MASTER_ADDR '", host, "': this machine has no way to it");
}

/// What c10d says, without the place in its source and what it adds for its own users.
std::string brief(const std::string& what) {
  std::string text = what.substr(0, what.find('\n'));
  if (text.starts_with('[')) {
    if (const size_t end = text.find("] "); end != std::string::npos) text = text.substr(end + 2);
  }
  if (const size_t advice = text.find(". This is typically"); advice != std::string::npos)
    text = text.substr(0, advice);
  return text;
}

/// Asks the store, which answers never if its machine has gone without a word. False if it did not in time; then the
/// thread that asks stays behind.
bool in_time(seconds patience, std::function<void()> ask) {
  std::packaged_task<void()> task(std::move(ask));
  std::future<void> done = task.get_future();
  std::thread(std::move(task)).detach();
  if (done.wait_for(patience) != std::future_status::ready) return false;
  done.get();
  return true;
}

}  // namespace

struct Ranks::Connection {
  Store store;
  ProcessGroup group;
};

Ranks::Ranks(const Launch& launch, at::Device device, seconds timeout) : launch_(launch), device_(device) {
  if (launch.size == 1) return;
  connection_ = std::make_unique<Connection>();
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(launch.port);
  options.isServer = launch.rank == 0 && !launch.agent_listens;
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    const auto all = c10::make_intrusive<c10d::TCPStore>(launch.host, options);
    connection_->store = c10::make_intrusive<c10d::PrefixStore>("liger/" + launch.attempt, all);
    const std::string address = own_address(launch.host, launch.port);
    connection_->group = device.is_cuda() ? make_nccl(connection_->store, launch.rank, launch.size, timeout)
                                          : make_gloo(connection_->store, launch.rank, launch.size, address, timeout);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw LostRank(cat("rank ", launch.rank, " of ", launch.size, " does not find the others at ", launch.host, ":",
                       launch.port, " (", brief(e.what()),
                       "); are all of them started, with the same MASTER_ADDR and "
                       "MASTER_PORT, and is the port free?"));
  }
}

Ranks::~Ranks() { part(seconds(10)); }

/// Whoever serves the store goes last, or the others would see it go before they are done.
void Ranks::part(seconds patience) {
  if (!connection_) return;
  const Store store = connection_->store;
  connection_.reset();  // those who wait for us see it now
  const auto until = std::chrono::steady_clock::now() + patience;
  try {
    in_time(patience, [store, until, waits = first(), size = size()] {
      int64_t parted = store->add(kParted, 1);
      while (waits && parted < size && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        parted = store->add(kParted, 0);
      }
    });
  } catch (const std::exception&) {
    // The server has gone: there is nobody to wait for.
  }
}

void Ranks::lost(const std::string& what) const {
  const auto told = std::make_shared<std::string>();
  bool known = false;
  try {
    known = in_time(seconds(5), [told, store = connection_->store] {
      if (!store->check({kFailure})) return;
      const std::vector<uint8_t> bytes = store->get(kFailure);
      told->assign(bytes.begin(), bytes.end());
    });
  } catch (const std::exception&) {
    // The process that served the store is the one that has gone.
  }
  if (!known || told->empty()) throw LostRank(cat("rank ", rank(), " of ", size(), " lost another one: ", brief(what)));
  const size_t space = told->find(' ');
  throw Error(told->substr(space + 1), static_cast<ErrorCode>(std::stoi(told->substr(0, space))));
}

void Ranks::collective(const char* name, const std::function<void()>& body) const {
  try {
    body();
  } catch (const std::exception& e) {
    lost(cat(brief(e.what()), " (in ", name, ")"));
  }
}

std::function<void()> Ranks::start_sum(const at::Tensor& tensor) const {
  if (!connection_) return [] {};
  c10::intrusive_ptr<c10d::Work> work;
  collective("a sum", [&] {
    std::vector<at::Tensor> tensors = {tensor};
    work = connection_->group->allreduce(tensors);
  });
  return [this, work] { collective("a sum", [&] { work->wait(); }); };
}

void Ranks::sum(const at::Tensor& tensor) const { start_sum(tensor)(); }

void Ranks::broadcast(const at::Tensor& tensor, int from) const {
  if (!connection_ || tensor.numel() == 0) return;
  collective("a broadcast", [&] {
    std::vector<at::Tensor> tensors = {tensor};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    connection_->group->broadcast(tensors, options)->wait();
  });
}

std::string Ranks::broadcast(const std::string& text) const {
  if (!connection_) return text;
  const at::Tensor length = at::scalar_tensor(static_cast<int64_t>(text.size()), at::kLong).to(device_);
  broadcast(length);
  at::Tensor bytes = at::empty({length.item<int64_t>()}, at::kByte);
  if (first()) std::copy(text.begin(), text.end(), bytes.mutable_data_ptr<uint8_t>());
  bytes = bytes.to(device_);
  broadcast(bytes);
  bytes = bytes.cpu();
  const auto* data = reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
  return {data, static_cast<size_t>(bytes.numel())};
}

void Ranks::check_same(const std::string& lines) const {
  std::istringstream theirs(broadcast(lines)), ours(lines);
  std::string their_line, our_line;
  while (true) {
    const bool more = static_cast<bool>(std::getline(theirs, their_line));
    const bool ours_has_more = static_cast<bool>(std::getline(ours, our_line));
    if (!more && !ours_has_more) return;
    LIGER_CHECK_USAGE(more && ours_has_more && their_line == our_line, "rank ", rank(), " has ",
                      ours_has_more ? our_line : "nothing", " where rank 0 has ", more ? their_line : "nothing",
                      "; start all ranks with the same settings, files and versions");
  }
}

void Ranks::leave_with(const Error& error) {
  if (!connection_) return;
  try {
    const std::string text =
        cat(static_cast<int>(error.code()), " rank ", rank(), " of ", size(), " stopped: ", error.what());
    in_time(seconds(5), [store = connection_->store, text] {
      store->compareSet(kFailure, {}, bytes_of(text));  // the first one is the cause of the others
    });
  } catch (const std::exception&) {
    // Nobody is there to be told.
  }
  part(seconds(5));
}

void Ranks::guard(const std::function<void()>& body) {
  try {
    body();
  } catch (const LostRank&) {
    part(seconds(2));  // whoever else is left comes at once
    throw;
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kInterrupted) leave_with(e);  // that one all ranks decide together
    throw;
  } catch (const std::exception& e) {
    leave_with(Error(brief(e.what()), ErrorCode::kInternal));
    throw;
  }
}

}  // namespace liger
