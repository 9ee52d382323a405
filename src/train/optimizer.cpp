#include "liger/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "liger/error.h"
#include "train/block_quantized.h"

namespace liger {

namespace {

constexpr int64_t kLeastEightBit = 4096;  // numbers: below, bytes save nothing worth their error

}  // namespace

std::vector<std::vector<Shard>> shards(const std::vector<NamedParameter>& parameters, int ranks) {
  int64_t all = 0, before = 0;
  for (const NamedParameter& parameter : parameters) all += parameter.value.numel();
  // Where a run ends in a parameter, on a block's border or the parameter's own.
  const auto border = [&](int rank, int64_t numel) {
    const int64_t place = all / ranks * rank + all % ranks * rank / ranks - before;
    const int64_t rounded = (place + BlockQuantized::kBlock / 2) / BlockQuantized::kBlock * BlockQuantized::kBlock;
    return rank == ranks || rounded >= numel ? numel : std::max<int64_t>(0, rounded);
  };
  std::vector<std::vector<Shard>> out;
  for (const NamedParameter& parameter : parameters) {
    const int64_t numel = parameter.value.numel();
    std::vector<Shard>& runs = out.emplace_back();
    for (int rank = 0; rank < ranks; ++rank) {
      const int64_t begin = rank == 0 ? 0 : border(rank, numel);
      runs.push_back({begin, border(rank + 1, numel) - begin});
    }
    before += numel;
  }
  return out;
}

struct AdamW::Part {
  std::string name;
  at::Tensor parameter;
  Shard shard;
  at::Tensor value() const { return parameter.view(-1).narrow(0, shard.begin, shard.count); }
  at::Tensor grad() const { return parameter.grad().reshape(-1).narrow(0, shard.begin, shard.count); }
  bool whole() const { return shard.count == parameter.numel(); }
};

struct AdamW::EightBit {
  Part part;
  double weight_decay, lr_ratio;
  BlockQuantized exp_avg, exp_avg_sq;
};

struct AdamW::Group {
  double weight_decay, lr_ratio;
  std::vector<Part> parts;
  std::vector<at::Tensor> exp_avgs, exp_avg_sqs;
};

AdamW::AdamW(std::vector<NamedParameter> parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), shards_(liger::shards(parameters_, options.ranks)), options_(options) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, value, lr_ratio, decays] = parameters_[i];
    LIGER_CHECK(value.scalar_type() == at::kFloat || value.scalar_type() == at::kDouble, "parameter '", name,
                "': expected float32 or float64 to train, got ", value.scalar_type());
    const double weight_decay = value.dim() >= 2 && decays ? options.weight_decay : 0.0;
    const Part part{name, value, shards_[i][options.rank]};
    if (part.shard.count == 0) continue;
    if (eight_bit(value)) {
      eight_bit_.push_back({part, weight_decay, lr_ratio, BlockQuantized(part.value(), /*is_signed=*/true),
                            BlockQuantized(part.value(), /*is_signed=*/false)});
      continue;
    }
    auto group = std::find_if(groups_.begin(), groups_.end(), [&, ratio = lr_ratio](const Group& g) {
      return g.weight_decay == weight_decay && g.lr_ratio == ratio;
    });
    if (group == groups_.end()) group = groups_.insert(groups_.end(), Group{weight_decay, lr_ratio, {}, {}, {}});
    group->parts.push_back(part);
    group->exp_avgs.push_back(at::zeros_like(part.value()));
    group->exp_avg_sqs.push_back(at::zeros_like(part.value()));
  }
}

bool AdamW::eight_bit(const at::Tensor& parameter) const {
  return options_.eight_bit && parameter.numel() >= kLeastEightBit;
}

AdamW::~AdamW() = default;

int64_t AdamW::moment_bytes(int64_t numbers, int64_t size, bool eight_bit) {
  if (!eight_bit || numbers < kLeastEightBit) return 2 * numbers * size;
  const int64_t blocks = (numbers + BlockQuantized::kBlock - 1) / BlockQuantized::kBlock;
  return 2 * (numbers + blocks * static_cast<int64_t>(sizeof(float)));
}

std::vector<at::Tensor> AdamW::grads() const {
  std::vector<at::Tensor> grads;
  for (const auto& [name, value, ratio, decays] : parameters_) {
    LIGER_CHECK(value.grad().defined(), "parameter '", name, "' got no gradient: the loss does not depend on it");
    grads.push_back(value.grad());
  }
  return grads;
}

void AdamW::step(double lr) {
  const at::NoGradGuard no_grad;
  ++steps_;
  for (Group& group : groups_) step(group, lr * group.lr_ratio);
  for (EightBit& parameter : eight_bit_) step(parameter, lr * parameter.lr_ratio);
}

void AdamW::step(Group& group, double lr) const {
  std::vector<at::Tensor> values, grads;
  for (const Part& part : group.parts) {
    values.push_back(part.value());
    grads.push_back(part.grad());
  }
  const std::vector<at::Tensor> step(
      values.size(), at::scalar_tensor(static_cast<double>(steps_), at::device(values[0].device()).dtype(at::kFloat)));
  at::_fused_adamw_(values, grads, group.exp_avgs, group.exp_avg_sqs, /*max_exp_avg_sqs=*/{}, step, lr, options_.beta1,
                    options_.beta2, group.weight_decay, options_.eps, /*amsgrad=*/false,
                    /*maximize=*/false);
}

void AdamW::step(EightBit& parameter, double lr) const {
  constexpr int64_t kPiece = int64_t{1} << 18;  // numbers widened at a time: few enough for the cache
  const double beta1 = options_.beta1, beta2 = options_.beta2, t = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(beta1, t), correction2 = 1 - std::pow(beta2, t);
  const at::Tensor values = parameter.part.value(), grads = parameter.part.grad();
  for (int64_t begin = 0; begin < values.numel(); begin += kPiece) {
    const int64_t count = std::min(kPiece, values.numel() - begin);
    const at::Tensor value = values.narrow(0, begin, count), grad = grads.narrow(0, begin, count);
    const at::Tensor m = parameter.exp_avg.read(begin, count).mul_(beta1).add_(grad, 1 - beta1);
    const at::Tensor v = parameter.exp_avg_sq.read(begin, count).mul_(beta2).addcmul_(grad, grad, 1 - beta2);
    value.mul_(1 - lr * parameter.weight_decay);
    value.addcdiv_(m, (v / correction2).sqrt_().add_(options_.eps), -lr / correction1);
    parameter.exp_avg.write(begin, m);
    parameter.exp_avg_sq.write(begin, v);
  }
}

void AdamW::zero_grad() {
  for (const auto& [name, value, ratio, decays] : parameters_) value.mutable_grad().reset();
}

double AdamW::grad_norm() const {
  double sum = 0.0;
  for (const at::Tensor& grad : grads()) {
    const double norm = at::linalg_vector_norm(grad).item<double>();
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

void AdamW::scale_grads(double factor) { at::_foreach_mul_(grads(), factor); }

std::string AdamW::first_nonfinite_grad() const {
  for (const auto& [name, value, ratio, decays] : parameters_) {
    if (value.grad().defined() && !at::isfinite(value.grad()).all().item<bool>()) return name;
  }
  return {};
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> state;
  const auto shaped = [](const at::Tensor& moment, const Part& part) {
    return part.whole() ? moment.view(part.parameter.sizes()) : moment;
  };
  for (const Group& group : groups_) {
    for (size_t i = 0; i < group.parts.size(); ++i) {
      const Part& part = group.parts[i];
      state["exp_avg." + part.name] = shaped(group.exp_avgs[i], part);
      state["exp_avg_sq." + part.name] = shaped(group.exp_avg_sqs[i], part);
    }
  }
  for (const EightBit& parameter : eight_bit_) {
    const Part& part = parameter.part;
    state["exp_avg." + part.name] = shaped(parameter.exp_avg.codes(), part);
    state["exp_avg.largest." + part.name] = parameter.exp_avg.largest();
    state["exp_avg_sq." + part.name] = shaped(parameter.exp_avg_sq.codes(), part);
    state["exp_avg_sq.largest." + part.name] = parameter.exp_avg_sq.largest();
  }
  return state;
}

std::vector<AdamW::StateTensor> AdamW::layout() const {
  const auto blocks = [](int64_t count) { return (count + BlockQuantized::kBlock - 1) / BlockQuantized::kBlock; };
  std::vector<StateTensor> out;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, value, lr_ratio, decays] = parameters_[i];
    const bool bytes = eight_bit(value);
    std::vector<Shard> of_blocks;
    for (const Shard& shard : shards_[i]) of_blocks.push_back({blocks(shard.begin), blocks(shard.count)});
    for (const char* moment : {"exp_avg.", "exp_avg_sq."}) {
      out.push_back({moment + name, value.sizes().vec(), bytes ? at::kByte : value.scalar_type(), shards_[i]});
      if (bytes) out.push_back({cat(moment, "largest.", name), {blocks(value.numel())}, at::kFloat, of_blocks});
    }
  }
  return out;
}

void AdamW::restore(const std::map<std::string, at::Tensor>& saved, int64_t steps) {
  for (const auto& [name, moment] : state()) {
    const auto found = saved.find(name);
    LIGER_CHECK(found != saved.end(), "tensor '", name, "' is missing");
    LIGER_CHECK(found->second.sizes() == moment.sizes() && found->second.scalar_type() == moment.scalar_type(),
                "tensor '", name, "': expected ", moment.sizes(), " ", moment.scalar_type(), ", got ",
                found->second.sizes(), " ", found->second.scalar_type());
    moment.copy_(found->second);
  }
  steps_ = steps;
}

}  // namespace liger
