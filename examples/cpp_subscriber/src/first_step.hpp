// SPDX-License-Identifier: MIT
// The part of a robot's bridge that needs no ROS node: which numbers to execute.
#pragma once

#include <stdexcept>
#include <vector>

#include "efn_ros/msg/corrected_action.hpp"

// Return the first control step of what is to be executed: A numbers, in the units of the policy's action.
// `corrected` is row-major, `horizon` rows; it is what to execute in every mode, also when it holds or is stopped.
inline std::vector<float> first_step(const efn_ros::msg::CorrectedAction & action)
{
  const auto & chunk = action.corrected;
  if (chunk.horizon == 0 || chunk.data.size() % chunk.horizon != 0) {
    throw std::invalid_argument("the chunk's size is no multiple of its horizon");
  }
  const auto size = chunk.data.size() / chunk.horizon;
  return {chunk.data.begin(), chunk.data.begin() + static_cast<std::ptrdiff_t>(size)};
}
