"""`python -m deploy.bench`."""

from deploy.bench import bench

bench(prog_name="python -m deploy.bench")
