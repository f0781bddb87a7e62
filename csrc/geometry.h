// Maps from an output pixel to the source pixel it shows.
#pragma once

#include "program.h"

namespace cifarfast {

// Nearest integer, ties to even, for |v| < 2^22; the same on every machine and without a library call.
CF_HD float round_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

CF_HD float clamp(float v, float low, float high) { return v < low ? low : (v > high ? high : v); }
CF_HD int clamp(int v, int low, int high) { return v < low ? low : (v > high ? high : v); }

CF_HD int floor_int(float v) {
  const int truncated = static_cast<int>(v);
  return truncated - (v < static_cast<float>(truncated) ? 1 : 0);
}

struct SinCos {
  float sine, cosine;
};

// Sine and cosine of an angle in degrees by quadrant and Taylor polynomial on ±45°; error below 4e-7. Written out so
// that C++, CUDA and the torch implementation agree bit for bit, which library functions do not.
CF_HD SinCos sincos_degrees(float degrees) {
  const float quadrant = round_even(degrees * 0.011111111f);
  const float r = (degrees - quadrant * 90.0f) * 0.017453292519943295f;
  const float r2 = r * r;
  const float s =
      r * (1.0f + r2 * (-0.16666667f + r2 * (0.0083333333f + r2 * (-0.00019841270f + r2 * 2.7557319e-6f))));
  const float c = 1.0f + r2 * (-0.5f + r2 * (0.041666667f + r2 * (-0.0013888889f + r2 * 2.4801587e-5f)));
  const int turn = static_cast<int>(quadrant) & 3;
  SinCos result;
  result.sine = turn == 0 ? s : (turn == 1 ? c : (turn == 2 ? -s : -c));
  result.cosine = turn == 0 ? c : (turn == 1 ? -s : (turn == 2 ? -c : s));
  return result;
}

// As torchvision's affine: angles in degrees, clockwise; shifts in pixels.
struct Affine {
  float degrees, translate_x, translate_y, scale, shear_x, shear_y;
};

// The inverse of translate · rotate(degrees) · scale · shear about the image's centre.
CF_HD void set_affine(Step& step, const Affine& a, int height, int width) {
  const SinCos rotation = sincos_degrees(a.degrees);
  const SinCos shear_x = sincos_degrees(a.shear_x);
  const SinCos shear_y = sincos_degrees(a.shear_y);
  const SinCos difference = sincos_degrees(a.degrees - a.shear_y);
  const float tangent = shear_x.sine / shear_x.cosine;
  const float f0 = difference.cosine / shear_y.cosine;
  const float f1 = -(f0 * tangent + rotation.sine);
  const float f2 = difference.sine / shear_y.cosine;
  const float f3 = rotation.cosine - f2 * tangent;
  step.map[0] = f3 / a.scale;
  step.map[1] = -f1 / a.scale;
  step.map[3] = -f2 / a.scale;
  step.map[4] = f0 / a.scale;
  const float shift_x = -(step.map[0] * a.translate_x + step.map[1] * a.translate_y);
  const float shift_y = -(step.map[3] * a.translate_x + step.map[4] * a.translate_y);
  step.map[2] = shift_x + (static_cast<float>(width) * 0.5f - 0.5f);
  step.map[5] = shift_y + (static_cast<float>(height) * 0.5f - 0.5f);
}

// Source coordinates of output pixel (y, x), clamped to just outside the image so that casts to int are safe.
CF_HD float map_x(const Step& step, int y, int x, int height, int width) {
  const float from_centre_x = static_cast<float>(x) + (0.5f - static_cast<float>(width) * 0.5f);
  const float from_centre_y = static_cast<float>(y) + (0.5f - static_cast<float>(height) * 0.5f);
  const float v = (step.map[0] * from_centre_x + step.map[1] * from_centre_y) + step.map[2];
  return clamp(v, -2.0f, static_cast<float>(width + 1));
}

CF_HD float map_y(const Step& step, int y, int x, int height, int width) {
  const float from_centre_x = static_cast<float>(x) + (0.5f - static_cast<float>(width) * 0.5f);
  const float from_centre_y = static_cast<float>(y) + (0.5f - static_cast<float>(height) * 0.5f);
  const float v = (step.map[3] * from_centre_x + step.map[4] * from_centre_y) + step.map[5];
  return clamp(v, -2.0f, static_cast<float>(height + 1));
}

// Where a coordinate outside [0, side) is read; −1: nowhere, the pixel is 0.
CF_HD int padded_index(int position, int side, int mode) {
  if (position >= 0 && position < side) return position;
  if (mode == kPadZero) return -1;
  if (mode == kPadReflect) {
    position = position < 0 ? -position : position;
    position = position >= side ? 2 * (side - 1) - position : position;
  }
  return clamp(position, 0, side - 1);
}

// Steps that only move pixels, so that any number of them is one look-up.
CF_HD bool moves_only(int kind) {
  return kind == kIdentity || kind == kCrop || kind == kFlip || kind == kNearestMap;
}

// Follow output pixel (y, x) back through steps[count−1] … steps[0]. False: it shows what lies outside the image, 0.
CF_HD bool trace(const Step* steps, int count, int height, int width, int& y, int& x) {
  for (int k = count - 1; k >= 0; --k) {
    const Step& step = steps[k];
    if (step.kind == kCrop) {
      y = padded_index(y + step.dy, height, step.padded);
      x = padded_index(x + step.dx, width, step.padded);
    } else if (step.kind == kFlip) {
      x = width - 1 - x;
    } else if (step.kind == kNearestMap) {
      const int from_y = static_cast<int>(round_even(map_y(step, y, x, height, width)));
      const int from_x = static_cast<int>(round_even(map_x(step, y, x, height, width)));
      y = from_y;
      x = from_x;
    }
    if (y < 0 || y >= height || x < 0 || x >= width) return false;
  }
  return true;
}

}  // namespace cifarfast
