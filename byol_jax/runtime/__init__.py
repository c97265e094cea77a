"""The machinery below a job: devices, processes, disks, signals. Nothing here is about BYOL."""
