// SPDX-License-Identifier: MIT
// Subscribes to the corrected action: the only topic that a robot has to follow.
#include <memory>
#include <sstream>

#include "first_step.hpp"
#include "rclcpp/rclcpp.hpp"

class Subscriber : public rclcpp::Node
{
public:
  Subscriber() : Node("cpp_subscriber")
  {
    // Depth and reliability of efn_ros/ros/qos.py: STEPS.
    const auto qos = rclcpp::QoS(10).reliable();
    subscription_ = create_subscription<efn_ros::msg::CorrectedAction>(
      "/efn/corrected_action", qos, [this](const efn_ros::msg::CorrectedAction & action) {
        std::ostringstream words;
        for (const float value : first_step(action)) {
          words << ' ' << value;
        }
        RCLCPP_INFO(get_logger(), "step %u, mode %u:%s", action.context.step, action.mode, words.str().c_str());
      });
  }

private:
  rclcpp::Subscription<efn_ros::msg::CorrectedAction>::SharedPtr subscription_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<Subscriber>());
  rclcpp::shutdown();
  return 0;
}
