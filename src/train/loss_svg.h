#pragma once

#include <string>
#include <vector>

namespace liger {

struct CurvePoint {
  double step, loss;
};
using Curve = std::vector<CurvePoint>;

/// A picture of a run: the training loss (faint, with a smoothed line over it) and the validation loss against the
/// updates. Either may be empty. Values that are not finite are left out.
std::string loss_svg(const Curve& training, const Curve& validation);

}  // namespace liger
