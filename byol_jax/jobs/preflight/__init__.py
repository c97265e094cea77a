"""What a config's update step would be on a pod of TPUs."""
