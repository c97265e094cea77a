"""What a job runs on: devices, processes, disks, signals. It knows nothing of BYOL."""
