"""The step of a training, compiled for a pod of TPUs without having one."""
