"""Jobs for other people's schedulers: Slurm, Kubernetes, Ray."""
