"""The update step of a config, compiled for a pod of TPUs without having one."""
