#include "train/loss_svg.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <sstream>

namespace liger {
namespace {

constexpr double kWidth = 860, kHeight = 480, kLeft = 70, kRight = 24, kTop = 48, kBottom = 56;
constexpr size_t kMaxPoints = 800;  // more would not be seen
constexpr const char* kTrainColor = "#2563eb";
constexpr const char* kValidationColor = "#d9480f";

struct Axis {
  double low, high, step;  // step between ticks
};

/// An axis over [low, high] with about `ticks` ticks at 1, 2 or 5 times a power of ten.
Axis make_axis(double low, double high, int ticks) {
  if (!(high > low)) high = low + std::max(1e-3, std::abs(low) * 0.1);
  const double raw = (high - low) / ticks;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double digit = raw / power;
  const double step = power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
  return {std::floor(low / step) * step, std::ceil(high / step) * step, step};
}

Curve finite(const Curve& curve) {
  Curve out;
  std::copy_if(curve.begin(), curve.end(), std::back_inserter(out),
               [](const CurvePoint& p) { return std::isfinite(p.loss); });
  return out;
}

/// Means of neighbours, few enough to draw.
Curve thinned(const Curve& curve) {
  if (curve.size() <= kMaxPoints) return curve;
  Curve out;
  for (size_t i = 0; i < kMaxPoints; ++i) {
    const size_t begin = i * curve.size() / kMaxPoints, end = (i + 1) * curve.size() / kMaxPoints;
    CurvePoint mean{0, 0};
    for (size_t j = begin; j < end; ++j) mean.step += curve[j].step, mean.loss += curve[j].loss;
    out.push_back({mean.step / static_cast<double>(end - begin), mean.loss / static_cast<double>(end - begin)});
  }
  return out;
}

/// Running mean over the neighbours on both sides, narrower at the ends.
Curve smoothed(const Curve& curve) {
  const auto count = static_cast<int64_t>(curve.size()), reach = count / 40;
  Curve out;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t near = std::min({reach, i, count - 1 - i});
    double sum = 0;
    for (int64_t j = i - near; j <= i + near; ++j) sum += curve[j].loss;
    out.push_back({curve[i].step, sum / static_cast<double>(2 * near + 1)});
  }
  return out;
}

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", std::abs(x) < 1e-12 ? 0.0 : x);
  return text;
}

class Picture {
 public:
  Picture(Axis x, Axis y) : x_(x), y_(y) {
    out_ << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << kWidth << " " << kHeight << "\" width=\""
         << kWidth << "\" height=\"" << kHeight << "\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#374151\">\n"
         << "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n";
  }

  void axes() {
    for (double y = y_.low; y <= y_.high + 1e-6 * y_.step; y += y_.step) {
      line(kLeft, at_y(y), kWidth - kRight, at_y(y), "#e5e7eb");
      text(kLeft - 8, at_y(y) + 4.5, "end", number(y));
    }
    for (double x = x_.low; x <= x_.high + 1e-6 * x_.step; x += x_.step) {
      line(at_x(x), kHeight - kBottom, at_x(x), kHeight - kBottom + 5, "#9ca3af");
      text(at_x(x), kHeight - kBottom + 20, "middle", number(x));
    }
    line(kLeft, kHeight - kBottom, kWidth - kRight, kHeight - kBottom, "#9ca3af");
    text((kLeft + kWidth - kRight) / 2, kHeight - 14, "middle", "update");
    text(kLeft, 26, "start", "loss, nats a token");
  }

  void curve(const Curve& points, const char* color, double width, double opacity) {
    out_ << "<polyline fill=\"none\" stroke=\"" << color << "\" stroke-width=\"" << width << "\" stroke-opacity=\""
         << opacity << "\" stroke-linejoin=\"round\" points=\"";
    for (const CurvePoint& p : points) out_ << pixel(at_x(p.step)) << "," << pixel(at_y(p.loss)) << " ";
    out_ << "\"/>\n";
  }

  void dots(const Curve& points, const char* color) {
    for (const CurvePoint& p : points) {
      out_ << "<circle cx=\"" << pixel(at_x(p.step)) << "\" cy=\"" << pixel(at_y(p.loss)) << "\" r=\"3\" fill=\""
           << color << "\"/>\n";
    }
  }

  void legend(double right, const char* color, const std::string& name) {
    line(right - 150, 21.5, right - 128, 21.5, color, 2.5);
    text(right - 122, 26, "start", name);
  }

  std::string finish() {
    out_ << "</svg>\n";
    return out_.str();
  }

 private:
  double at_x(double x) const { return kLeft + (x - x_.low) / (x_.high - x_.low) * (kWidth - kLeft - kRight); }
  double at_y(double y) const {
    return kHeight - kBottom - (y - y_.low) / (y_.high - y_.low) * (kHeight - kTop - kBottom);
  }
  static std::string pixel(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", x);
    return text;
  }
  void line(double x1, double y1, double x2, double y2, const char* color, double width = 1) {
    out_ << "<line x1=\"" << pixel(x1) << "\" y1=\"" << pixel(y1) << "\" x2=\"" << pixel(x2) << "\" y2=\"" << pixel(y2)
         << "\" stroke=\"" << color << "\" stroke-width=\"" << width << "\"/>\n";
  }
  void text(double x, double y, const char* anchor, const std::string& words) {
    out_ << "<text x=\"" << pixel(x) << "\" y=\"" << pixel(y) << "\" text-anchor=\"" << anchor << "\">" << words
         << "</text>\n";
  }

  Axis x_, y_;
  std::ostringstream out_;
};

}  // namespace

std::string loss_svg(const Curve& all_training, const Curve& all_validation) {
  const Curve training = thinned(finite(all_training)), validation = thinned(finite(all_validation));
  double low = std::numeric_limits<double>::infinity(), high = -low, last = 1;
  for (const Curve* curve : {&training, &validation}) {
    for (const CurvePoint& p : *curve) {
      low = std::min(low, p.loss), high = std::max(high, p.loss), last = std::max(last, p.step);
    }
  }
  if (training.empty() && validation.empty()) low = 0, high = 1;

  Axis steps = make_axis(0, last, 8);
  steps.high = last;  // the curve fills the picture
  steps.step = std::max(1.0, steps.step);
  Picture picture(steps, make_axis(low, high, 6));
  picture.axes();
  if (!training.empty()) {
    picture.curve(training, kTrainColor, 1, 0.3);
    picture.curve(smoothed(training), kTrainColor, 2, 1);
    picture.legend(kWidth - kRight - 110, kTrainColor, "training");
  }
  if (!validation.empty()) {
    picture.curve(validation, kValidationColor, 2, 1);
    picture.dots(validation, kValidationColor);
    picture.legend(kWidth - kRight, kValidationColor, "validation");
  }
  return picture.finish();
}

}  // namespace liger
