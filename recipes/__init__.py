"""One file a job: `python -m recipes.NAME`."""
