"""`fedmoap bench`: how much faster the product's only path is than the obvious way, and that both agree."""

from deploy.bench.command import bench

__all__ = ["bench"]
