// From a batch position to uint8 pictures: the plan (all draws), then the operations in order.
#pragma once

#include "draws.h"
#include "pixel_ops.h"

namespace cifarfast {

// What one team works in. buffers: three images of uint8, unused without staged operations; histogram: [channels, 256];
// table: [channels, 256]; axes: [2, height + width] for the two pictures of a plan, unused on a CPU.
struct Workspace {
  uint8_t* buffers[3];
  int* histogram;
  uint8_t* table;
  int16_t* axes;
};

// Pixels, and the steps still to be followed back when one is read.
struct Picture {
  const uint8_t* pixels;
  const Step* moves;
  int move_count;
};

template <class Team>
CF_HD void make_plan(const Team& team, const Job& job, int64_t position, Plan& plan) {
  if (team.rank() == 0) {
    int64_t index = job.indices[position];
    const int64_t limit = job.augmented_copy ? 2 * job.count : job.count;
    if (index < 0 || index >= limit) {
      report_bad_index(job);
      index = 0;
    }
    plan.plain = job.augmented_copy && index < job.count;
    plan.key[0] = index;
    plan.source[0] = job.augmented_copy && index >= job.count ? index - job.count : index;
    plan.source[1] = plan.source[0];
    plan.pictures = 1;
    plan.lam = 1.0f;
    plan.box_mix = 0;
    if (job.mixes && !plan.plain) draw_mix(job, index, plan);
    for (int k = 0; k < plan.pictures; ++k) {
      const bool cut = job.cutout_count > 0 && !plan.plain &&
                       uniform(sampler(job, plan.key[k]).words(kCutoutBlock).word[2]) < job.settings[kCutoutP];
      plan.hole_count[k] = cut ? job.cutout_count : 0;
    }
  }
  team.sync();
  if (plan.plain) return;
  const int rows = job.row_count;
  const int per_picture = rows + job.cutout_count;
  for (int i = team.rank(); i < plan.pictures * per_picture; i += team.size()) {
    const int k = i / per_picture, task = i - k * per_picture;
    const Sampler draw = sampler(job, plan.key[k]);
    if (task < rows)
      resolve_row(job, task, draw, plan.steps[k]);
    else if (task - rows < plan.hole_count[k])
      plan.holes[k][task - rows] = draw_hole(job, draw, task - rows);
  }
  team.sync();
}

CF_HD bool is_staged(const Job& job) {
  return job.staged || job.out_height != job.height || job.out_width != job.width;
}

// How many leading moves are crops and flips, which act on rows and columns separately.
CF_HD int lead_count(const Picture& picture) {
  int lead = 0;
  while (lead < picture.move_count && picture.moves[lead].kind != kNearestMap) ++lead;
  return lead;
}

// Follow a row or a column back through the leading moves; −1: it lies outside the image.
CF_HD int lead_index(const Step* moves, int lead, int position, int side, bool vertical) {
  for (int k = lead - 1; k >= 0 && position >= 0; --k) {
    if (moves[k].kind == kCrop)
      position = padded_index(position + (vertical ? moves[k].dy : moves[k].dx), side, moves[k].padded);
    else if (moves[k].kind == kFlip && !vertical)
      position = side - 1 - position;
  }
  return position;
}

// A picture whose leading moves are two tables, so that a pixel costs two look-ups.
struct Tabulated {
  const uint8_t* pixels;
  const Step* moves;  // the moves after the leading ones
  int move_count;
  const int16_t *row_of, *column_of;
};

template <class Team>
CF_HD Tabulated tabulate(const Team& team, const Picture& picture, const Image& image, int16_t* axes) {
  const int lead = lead_count(picture);
  for (int i = team.rank(); i < image.height + image.width; i += team.size()) {
    const bool vertical = i < image.height;
    const int side = vertical ? image.height : image.width;
    axes[i] = static_cast<int16_t>(
        lead_index(picture.moves, lead, vertical ? i : i - image.height, side, vertical));
  }
  team.sync();
  return Tabulated{picture.pixels, picture.moves + lead, picture.move_count - lead, axes, axes + image.height};
}

// The address of the pixel shown at (y, x), or null where nothing is.
CF_HD const uint8_t* find(const Tabulated& picture, const Image& image, int y, int x) {
  if (picture.move_count > 0 && !trace(picture.moves, picture.move_count, image.height, image.width, y, x))
    return nullptr;
  const int row = picture.row_of[y], column = picture.column_of[x];
  return row < 0 || column < 0 ? nullptr : picture.pixels + (row * image.width + column) * image.channels;
}

// The pixels one member of a team visits, row by row, without a division each.
struct Walk {
  int y, x;
  template <class Team>
  CF_HD Walk(const Team& team, int width) : y(team.rank() / width), x(team.rank() % width) {}
  template <class Team>
  CF_HD void step(const Team& team, int width) {
    x += team.size() % width;
    y += team.size() / width;
    if (x >= width) {
      x -= width;
      ++y;
    }
  }
};

// Follow a picture's moves and write the image they give.
struct GatherPixels {
  int16_t* axes;
  template <class Team>
  CF_HD void operator()(const Team& team, const Picture& picture, const Image& image, uint8_t* to) const {
    const Tabulated source = tabulate(team, picture, image, axes);
    for (Walk at(team, image.width); at.y < image.height; at.step(team, image.width)) {
      const uint8_t* from = find(source, image, at.y, at.x);
      uint8_t* pixel = to + (at.y * image.width + at.x) * image.channels;
      for (int c = 0; c < image.channels; ++c) pixel[c] = from != nullptr ? from[c] : 0;
    }
    team.sync();
  }
};

// Run the steps on one image. The picture returned lies in one of the two buffers, or is the source with moves to
// follow; `flatten` asks for no moves left. `Gather` is GatherPixels or a faster one for one thread.
template <class Team, class Gather>
CF_HD Picture run_steps(const Team& team, const Step* steps, int count, const uint8_t* source, const Image& image,
                        uint8_t* const (&own)[2], const Workspace& space, int* sum, bool flatten, const Gather& take) {
  const uint8_t* current = source;
  int held = -1, first = 0;
  for (int s = 0; s <= count; ++s) {
    const bool end = s == count;
    if (!end && moves_only(steps[s].kind)) continue;
    if (end && !(flatten && first < count)) break;
    bool moved = held < 0 && !end;  // operations work on a buffer, not on the data set
    for (int k = first; k < s; ++k) moved = moved || steps[k].kind != kIdentity;
    if (moved) {
      held = held == 0 ? 1 : 0;
      take(team, Picture{current, steps + first, s - first}, image, own[held]);
      current = own[held];
    }
    first = s + 1;
    if (end) break;
    const Step& step = steps[s];
    uint8_t* pixels = own[held];
    uint8_t* other = own[1 - held];
    if (is_table(step.kind)) {
      apply_table(team, step, pixels, image, space.histogram, space.table, sum);
    } else if (step.kind == kColor) {
      apply_color(team, step.value, pixels, image);
    } else {
      if (step.kind == kSharpness)
        apply_sharpness(team, step.value, pixels, other, image);
      else
        apply_bilinear(team, step, pixels, other, image);
      held = 1 - held;
      current = other;
    }
  }
  return Picture{current, steps + first, first < count ? count - first : 0};
}

// Both pictures of a plan. The second works in the buffers that the first does not hold.
template <class Team, class Gather>
CF_HD void make_pictures(const Team& team, const Job& job, Plan& plan, const Workspace& space, Picture (&pictures)[2],
                         const Gather& take) {
  const Image image{job.height, job.width, job.channels};
  const bool flatten = job.out_height != job.height || job.out_width != job.width;
  const int steps = plan.plain ? 0 : job.step_count;
  uint8_t* own[2] = {space.buffers[0], space.buffers[1]};
  for (int k = 0; k < plan.pictures; ++k) {
    if (k == 1) {
      if (pictures[0].pixels == own[0]) own[0] = space.buffers[2];
      else if (pictures[0].pixels == own[1]) own[1] = space.buffers[2];
    }
    const uint8_t* source = job.images + plan.source[k] * image.bytes();
    pictures[k] = run_steps(team, plan.steps[k], steps, source, image, own, space, &plan.sum, flatten, take);
  }
}

}  // namespace cifarfast
