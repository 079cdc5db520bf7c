"""The environment: the packages that work together, the doctor, processes, files and the cache."""
